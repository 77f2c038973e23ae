"""Runs are paired by record, what is left out is told, and what cannot be compared is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rome_engine.bench.comparison import Comparison, compare
from rome_engine.bench.figures import figure
from rome_engine.bench.pairs import Pair
from rome_engine.bench.statistics import estimate, harmonic
from rome_engine.errors import BenchError
from rome_engine.files import finite
from tests.bench.runs import build_run, counterfact, row, sequential


def pair(comparison: Comparison, name: str) -> Pair:
    (found,) = [one for one in comparison.pairs if one.figure.name == name]
    return found


def test_identical_runs_do_not_differ() -> None:
    run = counterfact("memit", 1)
    found = compare([run, replace(run, path=run.path.with_name("again.sqlite"))])
    assert found.pairs and {one.figure.name for one in found.pairs} == {figure.name for figure in found.figures}
    for one in found.pairs:
        assert one.difference.value == 0.0 and one.test is not None and one.test.p == one.corrected == 1.0
        assert not one.difference.known and one.difference.reason == "no record differs"
        assert one.n == 40 and not one.left and not one.disagreements


def test_a_better_method_is_found_and_stands_first() -> None:
    found = compare([counterfact("ft-l", 1, 150, 0.5), counterfact("r-rome", 2, 150, 0.98)])
    assert [line.label for line in found.entries] == ["r-rome", "ft-l"]
    one = pair(found, "es@1")
    assert (one.first, one.second) == ("ft-l", "r-rome")
    assert one.difference.high is not None and one.difference.high < 0
    assert one.corrected is not None and one.corrected < 0.01 and one.test is not None and "McNemar" in one.test.name
    same = pair(found, "kl@1")
    assert same.corrected is not None and same.corrected > 0.05  # drawn from one distribution


def test_lower_is_better_where_the_metric_says_so() -> None:
    runs = [
        build_run(name, [{"kl@1": value}, {"kl@1": value + 0.1}]) for name, value in (("much", 2.0), ("little", 1.0))
    ]
    assert figure("kl@1").higher is False
    assert [line.label for line in compare(runs).entries] == ["little", "much"]


def test_s_is_the_harmonic_mean_of_means_and_no_record_has_it() -> None:
    run, other = counterfact("memit", 1), counterfact("rome", 2)
    found = compare([run, other])
    values = [[one.figures[part] for part in ("es@1", "ps@1", "ns@1")] for one in run.at(0)]
    (line,) = [line for line in found.entries if line.label == "memit"]
    score = line.of("s@1")
    assert score is not None and score.after.value == pytest.approx(float(harmonic(np.mean(values, axis=0))))
    assert score.before.value is not None and score.after.value is not None and score.before.value < score.after.value
    both = pair(found, "s@1")
    assert not both.disagreements and both.effect is None and both.test is not None
    assert both.difference.value == pytest.approx(both.first_value - both.second_value)  # type: ignore[operator]


def test_s_lies_between_its_parts_where_some_records_have_no_paraphrases() -> None:
    def run(name: str, hard: float) -> Run:
        easy = [{"es@1": 1.0, "ps@1": 1.0, "ns@1": 1.0}, {"es@1": 1.0, "ps@1": 0.5, "ns@1": 0.75}]
        return build_run(name, [*easy * 5, *[{"es@1": hard, "ns@1": 0.25}] * 10])

    found = compare([run("one", 0.0), run("other", 0.2)])
    (line,) = [line for line in found.entries if line.label == "one"]
    score = line.of("s@1")
    assert score is not None and score.after.value == pytest.approx(3 / (1 / 0.5 + 1 / 0.75 + 1 / 0.5625))
    assert score.after.n == 20 and line.of("ps@1").after.n == 10  # type: ignore[union-attr]
    both = pair(found, "s@1")
    assert both.n == 20 and both.difference.value == pytest.approx(both.first_value - both.second_value)  # type: ignore[operator]


def test_a_part_that_one_run_lacks_is_no_difference() -> None:
    full = build_run("full", [{"es@1": 1.0, "ps@1": 0.5, "ns@1": 0.5}] * 4)
    lacking = build_run("lacking", [{"es@1": 1.0, "ns@1": 0.5}] * 3 + [{"es@1": 1.0, "ps@1": 0.5, "ns@1": 0.5}])
    both = pair(compare([full, lacking]), "s@1")
    assert both.difference.value == 0.0 and both.difference.reason == "no record differs"
    none = build_run("none", [{"es@1": 1.0, "ns@1": 0.5}] * 4)
    only_parts = {one.figure.name for one in compare([none]).entries[0].scores}
    assert "s@1" not in only_parts
    apart = pair(compare([full, none]), "s@1")
    assert apart.difference.value is None and apart.second_value is None and apart.test is None


def test_only_records_done_in_both_count_and_the_others_are_told() -> None:
    first = build_run("first", [{"es@1": 1.0}, {"es@1": 1.0}, None, {"es@1": 0.0}, {"pm@1": 0.2}])
    second = build_run("second", [{"es@1": 0.0}, None, None, {"es@1": 0.0}, {"es@1": 1.0}, {"es@1": 1.0}], total=8)
    one = pair(compare([first, second], figures=["es"]), "es@1")
    assert one.n == 2 and one.difference.value == 0.5 and (one.first_value, one.second_value) == (0.5, 0.0)
    assert one.left == {
        "failed in second": 1,
        "failed in first, failed in second": 1,
        "nothing to measure in first": 1,
        "not measured in first": 1,
    }
    assert [(record.id, record.first, record.second) for record in one.disagreements] == [("0", 1.0, 0.0)]


def test_a_run_counts_its_failures_and_what_it_has_not_done() -> None:
    (line,) = compare([build_run("one", [{"es@1": 1.0}, None], total=5)]).entries
    assert (line.total, line.done, line.failed, line.waiting) == (5, 1, 1, 3)
    assert line.reasons == {"a key is not finite": 1} and line.seconds == {"edit": 2.0, "score": 1.0}
    (score,) = line.scores
    assert score.after.n == 1 and not score.after.known  # one record has a value and no interval
    assert score.before.value is None and score.before.n == 0


def test_before_is_taken_of_the_records_that_are_done() -> None:
    run = build_run("one", [{"es@1": 1.0}, None, {"es@1": 1.0}], [{"es@1": 0.0}, {"es@1": 1.0}, {"es@1": 1.0}])
    ((score,),) = [line.scores for line in compare([run]).entries]
    assert score.before.n == score.after.n == 2 and score.before.value == 0.5


def test_what_is_no_number_is_left_out() -> None:
    first = build_run("first", [{"kl@1": float("nan")}, {"kl@1": 0.2}, {"kl@1": 0.3}])
    second = build_run("second", [{"kl@1": 0.1}, {"kl@1": float("inf")}, {"kl@1": 0.1}])
    one = pair(compare([first, second]), "kl@1")
    assert one.n == 1 and one.difference.value == pytest.approx(0.2) and not one.difference.known
    assert one.left == {"nothing to measure in first": 1, "nothing to measure in second": 1}


def test_runs_without_a_common_record_have_no_difference() -> None:
    first = build_run("first", [{"es@1": 1.0}])
    second = build_run("second", [], rows=[row("other", {"es@1": 1.0})])
    one = pair(compare([first, second]), "es@1")
    assert one.n == 0 and one.difference.value is None and one.test is None and one.corrected is None
    assert one.first_value is None and one.effect is None


def test_the_interval_of_shares_is_no_finding_where_the_test_finds_nothing() -> None:
    first = build_run("first", [{"es@1": 1.0, "kl@1": 0.1}] * 500)
    second = build_run("second", [{"es@1": float(place > 2), "kl@1": 0.1 + 0.01 * place} for place in range(500)])
    found = compare([first, second])
    one = pair(found, "es@1")
    assert one.test is not None and one.test.p == 0.25 and one.difference.how == "Newcombe, paired"
    assert one.difference.low is not None and one.difference.low < 0
    assert pair(found, "kl@1").difference.how == "BCa bootstrap"


def test_p_values_are_corrected_over_all_tests() -> None:
    runs = [counterfact(name, seed, 60, chance) for name, seed, chance in (("a", 1, 0.9), ("b", 2, 0.7), ("c", 3, 0.9))]
    every, one = compare(runs), compare(runs[:2], figures=["es"])
    assert len(every.pairs) == 3 * 6
    alone, among = pair(one, "es@1"), next(pair for pair in every.pairs if pair.figure.name == "es@1")
    assert alone.test == among.test is not None and alone.corrected == alone.test.p  # one test needs no correction
    assert among.corrected is not None and among.corrected > among.test.p


def test_different_data_are_refused_and_different_models_are_told() -> None:
    first = counterfact("first", 1)
    with pytest.raises(BenchError, match=r"first\.sqlite and second\.sqlite are of different data sets"):
        compare([first, counterfact("second", 2, data="e" * 64)])
    told = compare([first, counterfact("second", 2, weights="x" * 64)]).notes
    assert any("differ in the model" in note for note in told)
    assert not compare([first, counterfact("second", 2)]).notes


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"order": "random", "seed": 3}, "the records' order"),
        ({"seed": 3}, "the seed"),
        ({"text": "b" * 64}, "the text of their perplexity"),
        ({"tasks": {"names": ["cities"]}}, "their tasks"),
    ],
)
def test_what_differs_beside_the_method_is_told(changed: dict[str, Any], said: str) -> None:
    first, second = (counterfact(name, seed) for seed, name in enumerate(("first", "second"), 1))
    usual = {"order": "file", "seed": 0, "text": "a" * 64, "tasks": {"names": ["towns"]}}
    first = replace(first, configuration={**first.configuration, **usual})
    second = replace(second, configuration={**second.configuration, **usual})
    assert not compare([first, second]).notes
    second = replace(second, configuration={**second.configuration, **changed})
    assert any(f"differ in {said}" in note for note in compare([first, second]).notes)


def test_runs_of_different_records_are_told() -> None:
    first, second = counterfact("first", 1, 20), counterfact("second", 2, 20)
    moved = [replace(row, id=f"{int(row.id) + 15}") for row in second.rows]
    apart = [replace(row, id=f"q{row.id}") for row in second.rows]
    (note,) = compare([first, replace(second, rows=tuple(moved))]).notes
    assert "different records (first 20, second 20): 5 are common to all" in note and "not paired" in note
    (note,) = compare([first, replace(second, rows=tuple(apart))]).notes
    assert "none are common to all" in note


def test_what_computed_the_runs_and_their_second_moments_are_compared() -> None:
    first = counterfact("first", 1, 20, moments={"5": "a" * 64, "6": "b" * 64})
    there = replace(first, environment={**first.environment, "torch": "2.1", "threads": 1})
    second = counterfact("second", 2, 20, moments={"5": "a" * 64, "7": "c" * 64})
    assert not compare([there, second]).notes  # other layers, and nothing recorded
    other = replace(second, environment={**second.environment, "torch": "2.2", "threads": 1})
    (note,) = compare([there, other]).notes
    assert "differ in the version of torch" in note
    changed = counterfact("second", 2, 20, moments={"5": "d" * 64})
    (note,) = compare([first, changed]).notes
    assert "different second moments" in note


def test_other_versions_of_a_metric_are_no_partners() -> None:
    runs = [build_run("old", [{"es@1": 1.0, "kl@1": 0.1}] * 3), build_run("new", [{"es@2": 0.0, "kl@1": 0.2}] * 3)]
    found = compare(runs)
    assert any("es@1, es@2" in note for note in found.notes)
    assert pair(found, "es@1").test is None and pair(found, "es@1").left == {"nothing to measure in new": 3}
    assert [one.name for one in compare(runs, figures=["es"]).figures] == ["es@2"]  # the newest


def test_mistakes() -> None:
    run = counterfact("memit", 1)
    for given, said in (
        (lambda: compare([]), "no run"),
        (lambda: compare([run, run]), "given 2 times"),
        (lambda: compare([run], figures=["nothing"]), r"no run has the figure 'nothing': there are s@1, es@1"),
        (lambda: compare([run], checkpoint=3), "no checkpoint 3: it has 0 to 0"),
        (lambda: compare([build_run("empty", [], [{"es@1": 0.0}])]), "no edited record yet"),
    ):
        with pytest.raises(BenchError, match=said):
            given()


def test_two_runs_of_one_name_are_told_apart() -> None:
    run = counterfact("memit", 1)
    found = compare([run, replace(run, path=run.path.absolute().parent / "other" / run.path.name)])
    assert len({line.label for line in found.entries}) == 2


def test_retention_is_the_mean_of_each_batch_at_each_later_checkpoint() -> None:
    run = sequential("memit", batches=3, each=4)
    kept = {one.figure.name: one for one in compare([run]).retention}
    one = kept["es@1"]
    assert one.batches == one.checkpoints == (0, 1, 2)
    assert [[cell.n for cell in line] for line in one.cells] == [[4, 4, 4], [0, 4, 4], [0, 0, 4]]
    assert np.isnan(one.values[np.tril_indices(3, -1)]).all()
    by_hand = [found.figures["es@1"] for found in run.rows if found.batch == 1 and found.checkpoint == 2]
    assert one.cells[1][2] == estimate(np.array(by_hand)[:, None], share=True)
    assert [found.n for found in one.overall] == [4, 8, 12]
    assert one.overall[2].value == pytest.approx(np.mean(one.values[:, 2]))
    assert compare([counterfact("single", 1)]).retention == ()


def test_a_checkpoint_where_only_the_newest_batch_was_scored_has_no_figure_over_all() -> None:
    run = sequential("memit", batches=3, each=4)
    kept = tuple(row for row in run.rows if row.checkpoint != 1 or row.batch == 1)
    (one,) = (one for one in compare([replace(run, rows=kept)]).retention if one.figure.name == "es@1")
    assert [[cell.n for cell in line] for line in one.cells] == [[4, 0, 4], [0, 4, 4], [0, 0, 4]]
    assert [found.n for found in one.overall] == [4, 0, 12] and one.overall[1].value is None


def test_a_checkpoint_is_chosen() -> None:
    run = sequential("memit", batches=3, each=4)
    assert compare([run]).entries[0].checkpoint == 2
    (line,) = compare([run], checkpoint=1).entries
    assert line.checkpoint == 1 and line.done == 8 and line.waiting == 4


def test_the_record_is_json_and_names_the_records_that_differ() -> None:
    first = build_run("first", [{"kl@1": float(place)} for place in range(20)])
    second = build_run("second", [{"kl@1": 0.5}] * 20)
    found = compare([first, second])
    record = json.loads(json.dumps(finite(found.to_dict()), allow_nan=False))
    (one,) = record["pairs"]
    assert one["differ"] == len(one["disagreements"]) == 20 and one["test"]["p"] is not None
    assert one["disagreements"][0] == {"id": "19", "first": 19.0, "second": 0.5}
    (few,) = found.to_dict(listed=3)["pairs"]
    assert few["differ"] == 20 and [one["id"] for one in few["disagreements"]] == ["19", "18", "17"]
    assert record["resamples"] == 2000 and record["about"]["first"]["configuration"]["method"] == "first"
    rows = found.rows()
    assert len(rows) == 4 and {one["when"] for one in rows} == {"before", "after"}
    assert compare([first, second]).to_dict() == found.to_dict()


def test_figures_stand_as_the_runs_name_their_metrics() -> None:
    values = {"kl@1": 0.1, "ns@1": 1.0, "es@1": 1.0, "ge@1": 600.0, "ps@1": 1.0}
    run = build_run("one", [values] * 2, metrics=["ge", "kl@1", "es", "ps", "ns"])
    assert [one.name for one in compare([run]).figures] == ["s@1", "es@1", "ps@1", "ns@1", "ge@1", "kl@1"]
