"""What a benchmark command is given, read and checked before a model is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rome_engine.cli import output
from rome_engine.errors import BenchError, StorageError

if TYPE_CHECKING:
    from rome_engine.bench.datasets import DataSet
    from rome_engine.bench.plan import Plan
    from rome_engine.bench.work import Told
    from rome_engine.model.language_model import LanguageModel

_RS = "rs"
_REASONS, _PLACES = 10, 20


@dataclass(frozen=True)
class Text:
    """A plain text whose perplexity is a figure of the whole model."""

    content: str

    @classmethod
    def read(cls, path: Path) -> Text:
        """A file's. Raises StorageError for one that cannot be read."""
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"cannot read the text {path}: {error} (plain UTF-8 is wanted)") from error

    @property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    def __call__(self, model: LanguageModel, told: Told | None = None) -> Mapping[str, float]:
        """The figure, of the model as it is, and the mean negative log-likelihood with its standard error in nats."""
        from rome_engine.bench.general import perplexity

        progress = None if told is None else partial(told, "reading the text")
        found = perplexity(model, self.content, progress=progress)
        error = {} if found.nll_standard_error is None else {"nll_standard_error": found.nll_standard_error}
        return {"perplexity": found.value, "nll": found.nll, **error}


@dataclass(frozen=True)
class Tasks:
    """Tasks of the lm-evaluation-harness, whose figures are of the whole model. limit: examples of each."""

    names: tuple[str, ...]
    limit: int | None = None
    folder: Path | None = None

    @classmethod
    def asked(cls, names: list[str] | None, limit: int | None, folder: Path | None) -> Tasks | None:
        """Those of the options, None for none. Raises BenchError for what the harness does not know."""
        if not names:
            if limit is not None or folder is not None:
                raise BenchError("--task-limit and --task-folder belong to a --task: name one")
            return None
        from rome_engine.bench.lm_eval import check_tasks

        with output.stderr().status("looking for the tasks"):
            check_tasks(names, folder)
        return cls(tuple(dict.fromkeys(names)), limit, folder)

    @property
    def about(self) -> dict[str, Any]:
        """What their figures depend on, as a JSON object."""
        return {"names": list(self.names), "limit": self.limit, "lm_eval": version("lm_eval")}

    def __call__(self, model: LanguageModel, told: Told | None = None) -> Mapping[str, float]:
        """The figures of the model as it is, by task and the harness's own names."""
        from rome_engine.bench.lm_eval import evaluate

        if told is not None:
            told(f"running {', '.join(self.names)}", 0, 1)
        found = evaluate(model, self.names, limit=self.limit, include_path=self.folder)
        return {f"{task} {name}": value for task, figures in found.items() for name, value in figures.items()}


def whole_model(
    text: Text | None, tasks: Tasks | None, told: Told | None
) -> Callable[[LanguageModel], Mapping[str, float]] | None:
    """All figures of the whole model that were asked for; None for none."""
    asked = [one for one in (text, tasks) if one is not None]
    return (lambda model: {name: of for one in asked for name, of in one(model, told).items()}) if asked else None


def records(name: str | None, data: Path | None, references: Path | None) -> DataSet:
    """The data set, with progress where it is fetched, and with the texts of `references`. Raises as these do."""
    from rome_engine.bench.datasets import read, with_references

    with ExitStack() as bars:
        ticks: dict[str, output.Tick] = {}

        def told(file: str, done: int, total: int | None) -> None:
            if file not in ticks:
                ticks[file] = bars.enter_context(output.progress(f"fetching {file}"))
            ticks[file](done, total or done)

        found = read(name, data, told)
    return found if references is None else with_references(found, references)


def tell_left_out(data: DataSet) -> None:
    """Say before the work begins which records cannot be used and why, those of one reason together."""
    places: dict[str, list[str]] = {}
    for one in data.malformed if data.records else ():
        places.setdefault(one.reason, []).append(one.place)
    for reason, several in list(places.items())[:_REASONS]:
        more = f" and {len(several) - _PLACES} more" if len(several) > _PLACES else ""
        said = f"left out: {', '.join(several[:_PLACES])}{more}: {reason}"
        output.stderr().print(said, markup=False, highlight=False, soft_wrap=True)
    if rest := sum(map(len, list(places.values())[_REASONS:])):
        output.stderr().print(f"left out: {rest} more, for other reasons (--json names all)", highlight=False)


def check_metrics(given: list[str] | None) -> None:
    """Say before any data are read that a metric is none. Raises BenchError."""
    from rome_engine.bench.metrics import named

    named(one for one in given or () if one != "all")


def measured(given: list[str] | None, data: DataSet) -> tuple[str, ...]:
    """The names of the metrics that were asked for, or of those that go without saying.

    Those are all that the records have something for but the long ones; RS, a long one, only where reference texts were
    given for it. Raises BenchError for a metric that the records have nothing for.
    """
    from rome_engine.bench.metrics import applicable, metrics, named

    there = {name for name, one in metrics().items() if any(any(True for _ in one.asks(of)) for of in data.records)}
    if given is None:
        (reference_score,) = named([_RS])
        asked = [reference_score.name] if data.references is not None and reference_score.name in there else []
        return (*applicable(data.records), *asked)
    found: list[str] = []
    for one in given:
        if one == "all":
            found += [name for name in metrics() if name in there]
            continue
        (metric,) = named([one])
        if metric.name not in there:
            raise BenchError(
                f"{data.name} has nothing that {metric.name} could measure: it has {', '.join(sorted(there))}"
            )
        found.append(metric.name)
    return tuple(dict.fromkeys(found))


def check_run(run: Path, plan: Plan, data: DataSet, settings: Mapping[str, Any], dtype: str) -> None:
    """Say before the model is loaded that a run's file is in use, is none, or is another benchmark's.

    settings: those of the method that the options name. Raises StorageError, InUseError, RunError; what only the model
    tells is told by `run_benchmark`.
    """
    from rome_engine.bench.plan import machine
    from rome_engine.bench.run_file import RunFile

    if not run.exists():
        return
    loaded = machine() if dtype == "auto" else {"dtype": dtype, **machine()}
    with RunFile(run) as file:
        file.check({**plan.known(data), "settings": dict(settings)}, loaded)
