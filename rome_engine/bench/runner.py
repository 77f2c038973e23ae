"""A benchmark run from its first record to its last, wherever an earlier sitting ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, runtime_checkable
from typing import Protocol as Interface

from rome_engine.bench import sequential
from rome_engine.bench.answering import MEMORY
from rome_engine.bench.datasets import DataSet
from rome_engine.bench.edits import require_editable
from rome_engine.bench.metrics import named
from rome_engine.bench.plan import Plan, Protocol, environment, grouped
from rome_engine.bench.run import BEFORE, Row, Run
from rome_engine.bench.run_file import RunFile
from rome_engine.bench.untouched import Untouched
from rome_engine.bench.work import Numbered, Told, Work
from rome_engine.edit.methods import editor
from rome_engine.errors import BenchError
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment


@runtime_checkable
class Spread(Interface):
    """Where pieces are worked on elsewhere."""

    def ask(self, pieces: Iterable[Numbered]) -> Iterator[None]:
        """Have the untouched model answer all that these records ask, for `Untouched`; at most one step a piece."""

    def __call__(self, pieces: Iterable[Numbered]) -> Iterator[list[Row]]:
        """Each piece's rows when they are there, in whatever order."""


General = Callable[[LanguageModel], Mapping[str, float]]
"""Figures of the whole model as it is, such as perplexity."""


def run_benchmark(
    model: LanguageModel,
    plan: Plan,
    data: DataSet,
    path: str | Path,
    *,
    moments: Mapping[int, SecondMoment],
    config: Any = None,
    general: General | None = None,
    memory: int = MEMORY,
    untouched: Path | None = None,
    spread: Spread | None = None,
    told: Told | None = None,
    again: bool = False,
) -> Run:
    """Run a benchmark into a file, or go on with it; the model is afterwards bit for bit what it was.

    config: the method's settings; its default where left out. general: measured on the untouched model and, where the
    edits stay in force, at each checkpoint. memory: bytes a batch may use. untouched: see `Untouched`. spread: where
    records that are edited alone are worked on; here, where left out. told(phase, done, of) is called as work goes on.
    again: try the records of this run once more that are marked as failed; those that are done stay as they are.

    The same call after a kill goes on and ends with the rows of a run that was never interrupted (in another process to
    rounding, because libraries sum by where memory lies); a record that fails is marked with its reason, and the rest
    goes on. Where the disk of the run's own file is full no mark can be put there either: the run stops with
    NoRoomError, the file holds what was finished, and the same call goes on once there is room. Where that of the cache
    is full nothing is kept there, which is logged as a warning, and the run goes on.
    Raises BenchError for a plan that cannot be carried out, or not again (see `check_again`), EditError for layers that
    the model does not have or that are kept on the disk, RunError for a file of another benchmark, InUseError for
    one that another process has open, StorageError.
    """
    if again:
        check_again(plan.protocol, Path(path))
    method = editor(plan.method)
    settings = method.default(model) if config is None else config
    metrics = named(plan.metrics)
    records = tuple(enumerate(plan.records(data)))
    if not records:
        raise BenchError(f"{data.name} has no record that can be used: {_first_reason(data)}")
    layers = method.layers(settings)
    require_editable(model, method, settings)
    about = {str(layer): _key(moments[layer]) for layer in layers if layer in moments}
    batches = plan.batches([record for _, record in records])
    batch_of = {position: number for number, batch in enumerate(batches) for position in batch}
    with RunFile(Path(path)) as file, Untouched(model, untouched, memory) as answers:
        file.begin(plan.configuration(data, settings, about), environment(model), len(records))
        if again:
            file.forget_failed()
        kept = sequential.Kept(file, dict.fromkeys(batch_of, 0) if plan.protocol == "single" else batch_of)
        work = Work.of(model, method, moments, settings, metrics, answers, memory)
        if general is not None:
            kept.general(BEFORE, lambda: general(model))
        if plan.protocol == "single":
            _alone(work, records, kept, spread, told)
        else:
            sequential.run(work, records, plan, kept, general, told)
        run: Run = file.read()
        return run


def check_again(protocol: Protocol, path: Path) -> None:
    """Raises BenchError where no failed record can be tried again: edits that lie on top of each other, or no run."""
    if protocol != "single":
        raise BenchError(
            f"failed records of the protocol {protocol} cannot be tried again, because its edits lie on top of each "
            "other: start a new run with --run"
        )
    if not path.is_file():
        raise BenchError(f"there is no benchmark run {path} whose failed records could be tried again: check --run")


def _alone(work: Work, records: Numbered, kept: sequential.Kept, spread: Spread | None, told: Told | None) -> None:
    """Each record from the untouched model. Groups are always the same ones, so that sums are rounded the same."""
    groups = grouped(records)
    for at, label in ((BEFORE, "asking the untouched model"), (0, "editing and scoring")):
        done = kept.finished(at)
        missing = [left for group in groups if (left := [one for one in group if one[0] not in done])]
        count = len(records) - sum(map(len, missing))
        if told is not None:
            told(label, count, len(records))
        if spread is not None and at == BEFORE:
            for asked, _ in enumerate(spread.ask(missing), 1):
                if told is not None:
                    told(f"{label}, by the workers", asked, len(missing))
        pieces = work.before if at == BEFORE else work.single
        for rows in map(pieces, missing) if spread is None or at == BEFORE else spread(missing):
            kept.rows(rows)
            count += len(rows)
            if told is not None:
                told(label, count, len(records))


def _key(moment: SecondMoment) -> str:
    return "unknown" if moment.provenance is None else moment.provenance.key


def _first_reason(data: DataSet) -> str:
    return data.malformed[0].reason if data.malformed else "it is empty"
