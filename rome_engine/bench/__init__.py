"""What an edit did, measured: scores of facts by the field's definitions, and settings chosen by them."""
