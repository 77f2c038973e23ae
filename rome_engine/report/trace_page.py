"""The page of one prompt's traces."""

from __future__ import annotations

from collections.abc import Sequence

from rome_engine.errors import TraceError
from rome_engine.report.agreement_table import EXPLAINED, agreement_rows
from rome_engine.report.arrangement import arrange
from rome_engine.report.curve_view import CurvesSection
from rome_engine.report.curves import severed_groups
from rome_engine.report.heads import head_groups
from rome_engine.report.naming import MEASURES, corrupted_by
from rome_engine.report.page import Download, Maps, Panels, Section, Table, Text, page
from rome_engine.report.reading import number, visible
from rome_engine.report.views import trace_group
from rome_engine.trace.result import Trace


def trace_page(traces: Sequence[Trace]) -> str:
    """The page of one prompt's traces, in one metric at a time where they have several, their own one first.

    Raises TraceError for none, StorageError where jinja2 is not installed. Maps of one token that differ in the severed
    graph alone are curves and one map; more than six maps of heads are shown as one of heads by layers first.
    """
    if not traces:
        raise TraceError("there is no trace to show: give at least one")
    records = [one.to_dict() for one in traces]
    return page(
        f"Causal trace: {traces[0].prompt}", _by_metric(traces),
        Download("trace.json", records[0] if len(records) == 1 else records),
    )  # fmt: skip


def _by_metric(traces: Sequence[Trace]) -> dict[str, list[Section]]:
    """The sections of every metric that all traces have; those of traces in several metrics are shown at once."""
    if len({one.metric for one in traces}) > 1:
        return {"": _sections(traces)}
    shared = [metric for metric in traces[0].metrics if all(metric in one.metrics for one in traces)]
    return {MEASURES.get(metric, metric): _sections([one.of(metric) for one in traces]) for metric in shared}


def _sections(traces: Sequence[Trace]) -> list[Section]:
    arranged = arrange(traces)
    sections: list[Section] = [Text("What was done", _done(traces))]
    if arranged.curves:
        severed = [one for group in severed_groups(traces) for one in group]
        sections.append(CurvesSection("With parts of the model severed", arranged.curves))
        sections.append(Panels("The same, as a map", trace_group(severed, arranged.graphs)))
    if arranged.heads:
        compact = [one for group in head_groups(traces) for one in group]
        sections.append(Panels("All heads at one token", trace_group(compact, arranged.heads)))
    if arranged.traces:
        sections.append(Maps("Heat maps", arranged.traces))
    if arranged.head_maps:
        sections.append(Maps("Heat maps of single heads", arranged.head_maps))
    if rows := agreement_rows(traces):
        columns = ["Map", "Corruption", "And", "Rank correlation", "Cells", "Note"]
        told = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
        sections.append(Table("Agreement of corruptions", columns[:told], [row[:told] for row in rows], EXPLAINED))
    return sections


def _done(traces: Sequence[Trace]) -> list[str]:
    """What was corrupted and exchanged, and how far the model's answer moved."""
    runs: dict[tuple[str, str], Trace] = {}
    for one in traces:
        runs.setdefault((one.corruption, one.metric), one)
    said = [f"The words “{traces[0].subject}” were corrupted. " + " ".join(_moved(one) for one in runs.values())]
    cells = {
        "restore": "Each cell of a map restores the clean run's state at one token and layer in the corrupted run, and "
        "shows how far the answer comes back: a strong cell's state suffices for the answer.",
        "corrupt": "Each cell of a map puts the corrupted run's state at one token and layer into the clean run, and "
        "shows how far the answer goes: a strong cell's state is necessary for the answer.",
    }
    said += [cells[direction] for direction in dict.fromkeys(one.direction for one in traces) if direction in cells]
    if any(one.severed for one in traces):
        said.append(
            "Where parts are severed, their states are held at the values of the run that is patched, whatever is "
            "exchanged: what then remains of the effect goes other ways (Meng et al. 2022, section 2.3)."
        )
    return said


def _moved(trace: Trace) -> str:
    answer = f"“{visible(trace.answer)}”"
    what = {
        "probability": f"the probability of the answer {answer}",
        "log_probability": f"the log-probability of the answer {answer}",
        "logit_difference": f"the logit of {answer} less that of “{visible(trace.foil or '')}”",
        "kl": "the KL divergence from the clean run",
        "rank": f"the rank of the answer {answer}",
    }.get(trace.metric, trace.metric)
    manner = corrupted_by(trace)
    return f"{manner[0].upper()}{manner[1:]}: {what} went from {number(trace.high)} to {number(trace.low)}."
