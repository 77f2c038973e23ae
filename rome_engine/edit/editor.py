"""What an editing method is: something that fits an edit to facts and leaves the model untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float64
from torch import Tensor

from rome_engine.edit.edit import Edit
from rome_engine.edit.value import Progress
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment

History = Mapping[int, Float64[Tensor, "d_mlp d_mlp"]]
"""H = Σ K Kᵀ of each edited layer, over the keys of all edits made before."""


@runtime_checkable
class Editor(Protocol):
    """An editing method. A new one is one file in `methods/` that lists its editors in `EDITORS`."""

    @property
    def name(self) -> str:
        """What users call it."""

    def default(self, model: LanguageModel, layer: int | None = None) -> Any:
        """The method's settings for a model, with this as the last edited layer where one is named.

        Raises EditError for a layer out of range.
        """

    def layers(self, config: Any) -> Sequence[int]:
        """The layers whose second moments `fit` needs."""

    def fit(
        self,
        model: LanguageModel,
        facts: Sequence[Fact],
        moments: Mapping[int, SecondMoment],
        config: Any,
        progress: Progress | None = None,
    ) -> Edit:
        """The edit that makes each fact's `target_new` its answer; the model stays bit for bit what it was.

        Raises EditError, TargetError, PromptError.
        """


def check_layer(model: LanguageModel, layer: int) -> int:
    """The layer itself. Raises EditError where the model has no such layer."""
    if not 0 <= layer < model.n_layers:
        raise EditError(f"layer {layer} is out of range: this model has layers 0 to {model.n_layers - 1}")
    return layer
