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
MEMIT_OPENINGS = ("The", "Therefore", "Because", "I", "You")
MEMIT_LENGTH = 10
_BRACES = str.maketrans("", "", "{}")


@dataclass(frozen=True)
class Contexts:
    """Templates that hold `{}` once, where a prompt is put; the first is `{}` alone, the bare prompt.

    bare: what the bare prompt counts for in a mean, the sampled ones sharing the rest; as much as each of those where
    it is None.
    """

    templates: tuple[str, ...]
    bare: float | None = None

    def __post_init__(self) -> None:
        if self.bare is not None and not 0 <= self.bare <= 1:
            raise EditError(f"bare={self.bare}: what the bare prompt counts for lies between 0 and 1")
        if not self.templates or self.templates[0] != PLACE:
            raise EditError("the first context must be the bare prompt, {}")
        for template in self.templates:
            if template.count(PLACE) != 1:
                raise EditError(f"the context {template!r} must hold {{}} exactly once, in the prompt's place")

    def prompts(self, fact: Fact) -> tuple[str, ...]:
        """The fact's prompt in every context, `{}` still in the subject's place."""
        return tuple(template.replace(PLACE, fact.prompt) for template in self.templates)

    @property
    def weights(self) -> tuple[float, ...]:
        """What each context counts for in a mean; they add up to 1."""
        sampled = len(self.templates) - 1
        if not sampled:
            return (1.0,)
        bare = 1 / (sampled + 1) if self.bare is None else self.bare
        return (bare, *[(1 - bare) / sampled] * sampled)

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
    return Contexts((PLACE, *(_template(model, ids[:length]) for ids, length in zip(sampled, lengths, strict=True))))


def sample_begun(
    model: LanguageModel,
    *,
    openings: Sequence[str] = MEMIT_OPENINGS,
    length: int = MEMIT_LENGTH,
    top_k: int = 5,
    seed: int = 0,
) -> Contexts:
    """The bare prompt, and a sampled text of `length` tokens that begins with each of these words.

    As `sample` else; the bare prompt counts for one half of a mean.
    Source: MEMIT (arXiv 2210.07229), whose published code samples one text of 10 tokens for each.
    """
    if not openings:
        return Contexts((PLACE,), bare=0.5)
    begun = [model.tokenize(opening) for opening in openings]
    more = length - min(len(prompt.input_ids) - prompt.prefix for prompt in begun)
    sampled = model.generate(begun, max(more, 1), top_k=top_k, seed=seed, min_tokens=max(more, 1))
    texts = [(*prompt.input_ids[prompt.prefix :], *ids)[:length] for prompt, ids in zip(begun, sampled, strict=True)]
    return Contexts((PLACE, *(_template(model, ids) for ids in texts)), bare=0.5)


def _start(model: LanguageModel) -> int:
    known = (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id)
    start = next((int(token) for token in known if token is not None), None)
    if start is None:
        raise EditError(
            f"{model.name} has neither a document-start nor an end token to sample contexts from: "
            "give its tokenizer one"
        )
    return start


def _template(model: LanguageModel, ids: Sequence[int]) -> str:
    special = set(model.tokenizer.all_special_ids)
    text = model.text([token for token in ids if token not in special])
    clean = " ".join(text.translate(_BRACES).split())
    return f"{clean}. {PLACE}" if clean else PLACE
