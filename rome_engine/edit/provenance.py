"""Where an edit comes from: everything needed to say what was done, to which weights, and to do it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rome_engine.errors import EditFileError


@dataclass(frozen=True)
class Provenance:
    """What an edit was made from and with; written into its file.

    facts: as JSON objects. moments: content keys of the second moments by layer. losses: the value search's, a tuple a
    fact. seconds: by phase. model_hash: of the whole model as it was when the edit was made. solver: by layer, how well
    its equations were solved.
    """

    method: str
    config: Mapping[str, Any]
    facts: tuple[Mapping[str, Any], ...]
    model: str
    model_hash: str
    dtype: str
    contexts: str
    moments: Mapping[str, str]
    losses: tuple[tuple[float, ...], ...]
    stopped_early: bool
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    solver: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    def __post_init__(self) -> None:
        # As JSON gives them back: an edit that was saved and loaded has the same record.
        object.__setattr__(self, "config", json.loads(json.dumps(self.config)))
        object.__setattr__(self, "facts", tuple(json.loads(json.dumps(self.facts))))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Provenance:
        """Of a JSON object; raises EditFileError where fields are missing or unknown."""
        try:
            known = dict(record)
            known["facts"] = tuple(known["facts"])
            known["losses"] = tuple(tuple(losses) for losses in known["losses"])
            return cls(**known)
        except (KeyError, TypeError) as error:
            raise EditFileError(f"its record of where it comes from is damaged ({error})") from error
