"""Keys: what goes into a down-projection at the subject's last token."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from rome_engine.edit.context import Contexts
from rome_engine.edit.rows import Row, Rows
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel


def keys(
    model: LanguageModel, fact: Fact, contexts: Contexts, layers: Sequence[int]
) -> dict[int, Float[Tensor, "contexts d_mlp"]]:
    """The fact's keys at these layers, one row a context in the contexts' order: the first is k₀, the plain mean is k̄.

    Source: ROME (arXiv 2202.05262) equation 3.
    """
    rows = [Row.of(model, template, fact.subject) for template in contexts.prompts(fact)]
    cut = [Row(row.ids[: row.cut + 1], row.cut) for row in rows]
    return {layer: captured.keys for layer, captured in Rows(model, cut).capture(layers).items()}
