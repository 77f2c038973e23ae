"""Files of facts in the field's schemas; records that cannot be used are listed, the rest goes on."""

from rome_engine.fact_files.editable import check_usable, editable, without
from rome_engine.fact_files.reading import FactFile, Malformed, read_facts

__all__ = ["FactFile", "Malformed", "check_usable", "editable", "read_facts", "without"]
