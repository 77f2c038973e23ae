"""Contexts: short texts sampled from the model itself, in front of which a fact's prompt is put.

A key or value that is found over many contexts belongs to the subject and not to the words around it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from rome_engine.errors import EditError
from rome_engine.facts import PLACE, Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import Prompt

ROME_LENGTHS = (5,) * 10 + (10,) * 10
_BRACES = str.maketrans("", "", "{}")


@dataclass(frozen=True)
class Contexts:
    """Templates that hold `{}` once, where a prompt is put; the first is `{}` alone, the bare prompt."""

    templates: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.templates or self.templates[0] != PLACE:
            raise EditError("the first context must be the bare prompt, {}")
        for template in self.templates:
            if template.count(PLACE) != 1:
                raise EditError(f"the context {template!r} must hold {{}} exactly once, in the prompt's place")

    def prompts(self, fact: Fact) -> tuple[str, ...]:
        """The fact's prompt in every context, `{}` still in the subject's place."""
        return tuple(template.replace(PLACE, fact.prompt) for template in self.templates)

    @property
    def hash(self) -> str:
        """sha256 of the templates."""
        return hashlib.sha256(json.dumps(self.templates).encode()).hexdigest()


def sample(model: LanguageModel, *, lengths: Sequence[int] = ROME_LENGTHS, top_k: int = 5, seed: int = 0) -> Contexts:
    """The bare prompt, and one sampled text of each of these lengths (in tokens) with ". " behind it.

    The texts go on from the document-start token alone. Line breaks become spaces; braces and special tokens are
    dropped. The same model and seed give the same contexts, and the global random state is left alone.

    Raises EditError for a tokenizer that has neither a document-start nor an end token.
    Source: ROME (arXiv 2202.05262) appendix E.5: 10 texts of 5 tokens and 10 of 10.
    """
    if not lengths:
        return Contexts((PLACE,))
    longest = max(lengths)
    start = Prompt(text="", input_ids=(_start(model),), tokens=("",), prefix=1)
    sampled = model.generate([start] * len(lengths), longest, top_k=top_k, seed=seed, min_tokens=longest)
    special = set(model.tokenizer.all_special_ids)
    texts = [
        model.text([token for token in ids[:length] if token not in special])
        for ids, length in zip(sampled, lengths, strict=True)
    ]
    return Contexts((PLACE, *(_template(text) for text in texts)))


def _start(model: LanguageModel) -> int:
    known = (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id)
    start = next((int(token) for token in known if token is not None), None)
    if start is None:
        raise EditError(
            f"{model.name} has neither a document-start nor an end token to sample contexts from: "
            "give its tokenizer one"
        )
    return start


def _template(text: str) -> str:
    clean = " ".join(text.translate(_BRACES).split())
    return f"{clean}. {PLACE}" if clean else PLACE
