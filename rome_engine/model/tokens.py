"""Tokens of a prompt, and where the subject lies among them, by character offsets.

Nothing is ever located by tokenising a part alone: tokenizers merge across the seam, drop or double spaces, and add
document-start tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from rome_engine.errors import PromptError, TargetError
from rome_engine.facts import PLACE, template

BosPolicy = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class Prompt:
    """A tokenised text. `subject_range` is [begin, end) in tokens, None where no subject was named.

    `tokens` are the pieces of text as the tokens cover them (special tokens by name). `prefix` counts the
    document-start tokens in front, `bos_added` says that the engine put one there which the tokenizer would not have.
    """

    text: str
    input_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    subject: str | None = None
    subject_range: tuple[int, int] | None = None
    prefix: int = 0
    bos_added: bool = False

    @property
    def last_subject_token(self) -> int:
        """Position of the subject's last token. Raises PromptError where no subject was named."""
        if self.subject_range is None:
            raise PromptError(f"no subject was named for {self.text!r}")
        return self.subject_range[1] - 1


def tokenize(tokenizer: Any, prompt: str, subject: str | None = None, bos: BosPolicy = "never") -> Prompt:
    """Tokenise a prompt, or a template with `{}` where the subject stands, and find the subject's tokens.

    bos: what the engine does beyond the tokenizer's own document-start token. "never": nothing. "always": prepend one
    where the tokenizer does not. "auto": do so only where the subject would else sit at position 0, the attention sink.

    Raises SubjectNotFoundError, AmbiguousSubjectError, and PromptError for an empty prompt, for a tokenizer without
    character offsets, or for a document-start token that is asked for and not there.
    """
    if bos not in get_args(BosPolicy):
        raise PromptError(f"bos must be one of {', '.join(get_args(BosPolicy))}, not {bos!r}")
    if not prompt.strip():
        raise PromptError("the prompt is empty")
    text, span = prompt, None
    if subject is not None:
        place = template(prompt, subject)
        if place.count(PLACE) != 1:
            raise PromptError(f"the prompt {prompt!r} must hold {{}} exactly once, in the subject's place")
        start = place.index(PLACE)
        text, span = place.replace(PLACE, subject), (start, start + len(subject))
        # A subject given with spaces around it means the words, not the spaces.
        span = (span[0] + len(subject) - len(subject.lstrip()), span[1] - len(subject) + len(subject.rstrip()))

    ids, offsets = _encode(tokenizer, text)
    prefix = _own_prefix(tokenizer, text, ids)
    found = None if span is None else _covering(offsets, span, text)
    at_start = found is not None and found[0] == 0
    bos_added = not prefix and (bos == "always" or (bos == "auto" and at_start))
    if bos_added:
        if tokenizer.bos_token_id is None:
            if bos == "always":
                raise PromptError("this model's tokenizer has no document-start token: use bos never or auto")
            bos_added = False
        else:
            prefix = [tokenizer.bos_token_id]
    shift = len(prefix)
    names = [str(tokenizer.convert_ids_to_tokens(token)) for token in prefix]
    return Prompt(
        text=text,
        input_ids=(*prefix, *ids),
        tokens=(*names, *_pieces(text, offsets)),
        subject=subject,
        subject_range=None if found is None else (found[0] + shift, found[1] + shift),
        prefix=shift,
        bos_added=bos_added,
    )


def continuation(tokenizer: Any, prompt: str, target: str) -> tuple[int, ...]:
    """The tokens of `target` as they follow `prompt`: one space between the two, none doubled, no special token.

    Raises TargetError for a target that is empty, tokenises to nothing that shows, or holds special tokens.
    """
    if not target.strip():
        raise TargetError("the target is empty: name the answer the model shall give")
    spaced = target.strip() if prompt.endswith((" ", "\n", "\t")) else " " + target.strip()
    # Where the tokenizer merges across the seam, the target's tokens are those it has after what never merges.
    found = (_after(tokenizer, text, spaced) for text in (prompt, "\n", "."))
    ids = next((ids for ids in found if ids is not None), None) or _encode(tokenizer, spaced)[0]
    special = set(tokenizer.all_special_ids)
    if not tokenizer.decode([token for token in ids if token not in special]).strip():
        raise TargetError(f"the target {target!r} tokenises to nothing that this model could say")
    if special & set(ids):
        raise TargetError(f"the target {target!r} holds special or unknown tokens: name the answer in plain text")
    return tuple(ids)


def _after(tokenizer: Any, text: str, addition: str) -> list[int] | None:
    """The tokens that `addition` adds to a text's; None where it changes these."""
    head, whole = _encode(tokenizer, text)[0], _encode(tokenizer, text + addition)[0]
    return whole[len(head) :] if whole[: len(head)] == head else None


def _encode(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"the text {text[:40]!r} is not valid Unicode: give it in UTF-8") from error
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError(
            f"the tokenizer {type(tokenizer).__name__} gives no character offsets: load the model's fast tokenizer"
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded["input_ids"]), [(int(begin), int(end)) for begin, end in encoded["offset_mapping"]]


def _own_prefix(tokenizer: Any, text: str, ids: list[int]) -> list[int]:
    """The tokens that the tokenizer itself puts before a text (a trailing end token is not wanted here)."""
    whole = list(tokenizer(text)["input_ids"])
    for shift in range(len(whole) - len(ids) + 1):
        if whole[shift : shift + len(ids)] == ids:
            return whole[:shift]
    return []


def _covering(offsets: list[tuple[int, int]], span: tuple[int, int], text: str) -> tuple[int, int]:
    inside = [index for index, (begin, end) in enumerate(offsets) if begin < span[1] and end > span[0]]
    if not inside:
        raise PromptError(f"the subject {text[span[0] : span[1]]!r} has no tokens in {text!r}")
    return inside[0], inside[-1] + 1


def _pieces(text: str, offsets: list[tuple[int, int]]) -> list[str]:
    """What each token shows: the text from the last token's end to its own; joined they are the whole text."""
    pieces, done = [], 0
    for _, end in offsets:
        pieces.append(text[done:end])
        done = max(done, end)
    if pieces:  # an accent that the tokenizer composed into its letter lies past the last offset
        pieces[-1] += text[done:]
    return pieces
