"""How a prompt is traced: one frozen set of options, checked when it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from rome_engine.errors import TraceError
from rome_engine.model.tokens import BosPolicy
from rome_engine.trace.corrupt import Corruption
from rome_engine.trace.plan import CLASSIC, KINDS, Direction
from rome_engine.trace.sever import Severed, check_positions

Engine = Literal["fast", "reference"]
Preset = Literal["rome", "rome-severed"]


@dataclass(frozen=True)
class Settings:
    """What is exchanged, and how the subject is corrupted. Raises TraceError for what does not fit together.

    kinds: see plan.KINDS; "head" makes one map a head. windows: layers exchanged together, for mlp and attn; each width
    makes a map. corruptions: each makes all the maps, see `Corruption.parse`. samples: corrupted rows (one, for a
    swap). direction: see plan.Direction. severed: each graph makes all the maps, see `Severed.parse`; "" is the whole
    model. positions: those whose states are exchanged, see `sever.parse_positions`. subjects: on which the noise level
    is measured, by default a list that is part of the package. memory: bytes that the fast engine may use, see
    budget.DEFAULT. preset: "rome" is the original procedure (same draws, windows and target rule; the noise level is
    that of `corruptions` and `subjects`); "rome-severed" its modified graphs at the last subject token.
    Corruptions and graphs are kept in one spelling each, so that settings that mean the same noise are equal.
    """

    kinds: tuple[str, ...] = ("hidden",)
    windows: tuple[int, ...] = (10,)
    corruptions: tuple[str | float, ...] = ("gaussian:3s",)
    samples: int = 10
    seed: int = 1
    direction: str = "restore"
    severed: tuple[str, ...] = ("",)
    positions: str = "all"
    subjects: tuple[str, ...] | None = None
    bos: str = "auto"
    engine: str = "fast"
    memory: int | None = None
    preset: str | None = None

    def __post_init__(self) -> None:
        for name, values, known in (
            ("kind", self.kinds, KINDS),
            ("direction", (self.direction,), get_args(Direction)),
            ("engine", (self.engine,), get_args(Engine)),
            ("preset", (self.preset,), (None, *get_args(Preset))),
            ("bos", (self.bos,), get_args(BosPolicy)),
        ):
            for value in values:
                if value not in known:
                    choices = ", ".join(str(one) for one in known if one is not None)
                    raise TraceError(f"there is no {name} {value!r}: choose {choices}")
        if not (self.kinds and self.windows and self.corruptions and self.severed):
            raise TraceError("a trace needs a kind, a window, a corruption and a graph: name at least one of each")
        if not 0 <= self.seed < 2**32:
            raise TraceError(f"a seed is between 0 and {2**32 - 1}, not {self.seed}")
        if self.samples < 1:
            raise TraceError(f"a trace needs at least one corrupted sample, not {self.samples}")
        if narrow := [window for window in self.windows if window < 1]:
            raise TraceError(f"the window must be at least 1 layer wide, not {narrow[0]}")
        spelled = tuple(str(Corruption.parse(one)) for one in self.corruptions)
        object.__setattr__(self, "corruptions", spelled)
        object.__setattr__(self, "severed", tuple(Severed.parse(graph).text for graph in self.severed))
        check_positions(self.positions)
        if self.preset is not None:
            self._check_preset()

    def _check_preset(self) -> None:
        if self.seed != 1 or self.bos == "always":
            raise TraceError(
                f"the preset {self.preset} has seed 1 and adds no document-start token: leave seed and bos out"
            )
        if self.direction != "restore" or any(Corruption.parse(one).kind != "gaussian" for one in self.corruptions):
            raise TraceError(
                f"the preset {self.preset} restores states under Gaussian noise: leave direction and corruption out"
            )
        if not set(self.kinds) <= set(CLASSIC) or any(self.severed) or self.positions != "all":
            raise TraceError(
                f"the preset {self.preset} restores hidden, mlp or attn at all tokens of the whole model: leave other "
                "kinds, severed parts and tokens out"
            )
        if self.preset == "rome-severed" and (self.kinds, self.severed, self.positions) != (
            ("hidden",),
            ("",),
            "all",
        ):
            raise TraceError("the preset rome-severed says what is restored and severed: leave these options out")

    @property
    def resolved(self) -> Settings:
        """The settings with what the preset says, and what is asked for twice, in whatever words, once."""
        given: dict[str, Any] = {
            "kinds": _once(self.kinds),
            "windows": _once(self.windows),
            "corruptions": _once(self.corruptions),
            "severed": _once(self.severed, lambda text: frozenset(Severed.parse(text).parts)),
        }
        if self.preset is not None:
            given |= {"bos": "never", "preset": None}
        if self.preset == "rome-severed":
            given |= {"severed": ("", "mlp", "attn"), "positions": "last-subject"}
        return replace(self, **given)


def _once(values: Sequence[Any], meaning: Callable[[Any], Any] | None = None) -> tuple[Any, ...]:
    """The first of all values that mean the same, in their order."""
    found: dict[Any, Any] = {}
    for value in values:
        found.setdefault(value if meaning is None else meaning(value), value)
    return tuple(found.values())
