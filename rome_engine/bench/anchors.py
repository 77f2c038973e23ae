"""Published results to stand beside measured ones: other models and other protocols, so never in one ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rome_engine.bench.datasets.sources import SOURCES


@dataclass(frozen=True)
class Anchor:
    """A published result on CounterFact. figures: × 100, as printed, with its digits. source: the paper."""

    method: str
    model: str
    protocol: str
    figures: Mapping[str, str]
    source: str

    @property
    def label(self) -> str:
        """What it is, with model and protocol."""
        return f"published: {self.method}, {self.model}, {self.protocol}"


FIGURES = ("ES", "PS", "NS", "GE", "RS")


def _anchor(method: str, model: str, protocol: str, figures: str, source: str) -> Anchor:
    return Anchor(method, model, protocol, dict(zip(FIGURES, figures.split(), strict=True)), source)


_BATCHES = "2,000 edits in batches of 100"
_ALPHAEDIT = "Fang et al. 2025, arXiv 2410.02355"
COUNTERFACT = (
    _anchor("ROME", "GPT-2 XL", "single edits", "100.0 96.4 75.4 621.9 41.9", "Meng et al. 2022, arXiv 2202.05262"),
    _anchor("ROME", "GPT-J", "single edits", "99.9 99.1 78.9 620.1 43.0", "Meng et al. 2022, arXiv 2202.05262"),
    _anchor("MEMIT", "GPT-J", "10,000 at once", "98.9 88.6 73.7 619.9 40.1", "Meng et al. 2023, arXiv 2210.07229"),
    _anchor("AlphaEdit", "Llama-3-8B", _BATCHES, "98.90 94.22 67.88 622.5 32.4", _ALPHAEDIT),
    _anchor("MEMIT + history", "Llama-3-8B", _BATCHES, "99.85 95.29 79.98 626.6 33.3", _ALPHAEDIT),
)


def is_counterfact(data: Mapping[str, Any]) -> bool:
    """Whether a run's data set, as its configuration has it, is CounterFact or, by its file's name, a part of it."""
    published = {file.sha256 for file in SOURCES["counterfact"].files}
    name = str(data.get("name") or "").lower()
    return data["sha256"] in published or name.startswith(("counterfact", "multi_counterfact"))
