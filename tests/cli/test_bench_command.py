"""`rome-engine bench`: what it measures and writes, how it goes on, and every mistake in one line."""

from __future__ import annotations

import csv
import json
import multiprocessing
import socket
from dataclasses import replace
from importlib.metadata import version
from math import exp, isfinite
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pyarrow.parquet as pq
import pytest
import torch

from rome_engine.bench.lm_eval import evaluate
from rome_engine.bench.run import BEFORE, Row
from rome_engine.bench.run_file import RunFile, read_run
from rome_engine.cli.bench_inputs import Text
from rome_engine.edit import values
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.bench.lm_tasks import write_task
from tests.cli.conftest import Cli, refused
from tests.cli.test_process import INTERRUPTED, run
from tests.stats.texts import paragraphs

SUBJECTS = ("The Louvre", "The Eiffel Tower", "The Colosseum", "the Big Ben")
SMALL_GROUPS = "from rome_engine.bench import plan\nplan.GROUP = 1\n"


def record(subject: str, target: str = "Rome") -> dict[str, Any]:
    return {
        "prompt": "You can find {} in",
        "subject": subject,
        "target_true": "Paris",
        "target_new": target,
        "paraphrases": ["To visit {}, you have to travel to"],
        "neighbourhood": ["The capital of Japan is"],
    }


def rows(path: str) -> list[Row]:
    return [replace(row, seconds={}) for row in read_run(path).rows]


@pytest.fixture
def facts(here: Path) -> Path:
    path = here / "facts.json"
    path.write_text(json.dumps([record(subject) for subject in SUBJECTS]), encoding="utf-8")
    return path


@pytest.fixture
def made(neox: Path, corpus: Path, cache: Path) -> list[object]:
    """The model and what its edits are made with."""
    return ["--model", neox, "--layer", 1, "--corpus", corpus, "--tokens", 1000]


@pytest.fixture
def options(made: list[object], facts: Path) -> list[object]:
    return ["bench", "--data", "facts.json", *made]


def test_without_an_argument_it_runs_the_facts_that_are_included(
    cli: Cli, made: list[object], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no table is broken
    done = cli("bench", "--limit", 2, *made)
    assert done.code == 0, done.err
    assert "bench-own-r-rome-single" in done.out and "Leaderboard" in done.out and "ES" in done.out
    assert done.err == "written: bench-own-r-rome-single.sqlite\n"
    assert [path.name for path in here.iterdir()] == ["bench-own-r-rome-single.sqlite"]
    found = read_run("bench-own-r-rome-single.sqlite")
    assert [row.checkpoint for row in found.rows] == [BEFORE, 0, BEFORE, 0]
    assert {row.status for row in found.rows} == {"done"} and "free_em@1" in found.rows[0].figures


@pytest.mark.parametrize(
    ("protocol", "checkpoints"), [("single", [0] * 4), ("batch", [0] * 4), ("sequential", [0] * 2 + [1] * 4)]
)
def test_every_protocol_is_told_as_one_object(
    cli: Cli, options: list[object], protocol: str, checkpoints: list[int]
) -> None:
    done = cli(*options, "--protocol", protocol, "--batch", 2, "--metric", "es", "--metric", "kl@1", "--json")
    (entry,) = done.record["entries"]
    assert (entry["total"], entry["done"], entry["failed"]) == (4, 4, 0)
    assert done.record["data"] == {"name": "facts.json", "records": 4, "malformed": []}
    found = read_run(done.record["run"])
    assert found.path.name == f"bench-facts-r-rome-{protocol}.sqlite"
    assert sorted(row.checkpoint for row in found.rows if row.checkpoint != BEFORE) == checkpoints
    assert all(set(row.figures) == {"es@1", "kl@1"} for row in found.rows)
    assert [one["name"] for one in done.record["figures"]] == ["es@1", "kl@1"]
    assert len(done.record["retention"]) == (2 if protocol == "sequential" else 0)


def test_the_same_command_again_does_nothing_again(
    cli: Cli, options: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cli(*options, "--metric", "es", "--json").record
    monkeypatch.setattr("rome_engine.bench.work.answer", None)
    assert cli(*options, "--metric", "es", "--json").record == first


def test_files_hold_every_record(cli: Cli, options: list[object], here: Path) -> None:
    names = ("r.csv", "r.json", "r.parquet")
    done = cli(*options, "--metric", "es", "--run", "r.sqlite", *(part for name in names for part in ("-o", name)))
    assert done.code == 0, done.err
    assert done.err.splitlines() == [f"written: {name}" for name in ("r.sqlite", *names)]
    wanted = [(row.id, row.figures["es@1"]) for row in read_run("r.sqlite").rows]
    spent = [row.seconds.get("edit") for row in read_run("r.sqlite").rows]
    assert len(wanted) == 8
    with (here / "r.csv").open(encoding="utf-8") as file:
        lines = csv.DictReader(line for line in file if not line.startswith("#"))
        kept = list(lines)
    assert [(line["id"], float(line["value"])) for line in kept] == wanted
    assert [float(line["seconds_edit"]) if line["seconds_edit"] else None for line in kept] == spent
    assert [row["seconds_edit"] for row in pq.read_table("r.parquet").to_pylist()] == spent and any(spent)
    assert [(row["id"], row["value"]) for row in pq.read_table("r.parquet").to_pylist()] == wanted
    whole = json.loads((here / "r.json").read_text(encoding="utf-8"))
    assert [(row["id"], row["figures"]["es@1"]) for row in whole["records"]] == wanted
    assert whole["configuration"]["method"] == "r-rome" and whole["environment"]["weights"]


def test_a_run_is_exported_without_its_model(
    cli: Cli, options: list[object], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*options, "--limit", 2, "--run", "r.sqlite", "--out", "bench.csv").code == 0
    monkeypatch.setattr(LanguageModel, "load", None)
    done = cli("export", "r.sqlite", "again.csv", "again.json")
    assert done.code == 0 and done.err == "written: again.csv\nwritten: again.json\n"
    assert cli("export", "r.sqlite", "a.json", "--json").record == {"run": "r", "written": ["a.json"]}
    assert (here / "again.csv").read_bytes() == (here / "bench.csv").read_bytes()
    assert len(json.loads((here / "again.json").read_text(encoding="utf-8"))["records"]) == 4
    refused(cli("export", "none.sqlite", "a.csv"), "there is no benchmark run none.sqlite")
    refused(cli("export", "r.sqlite", "a.txt"), "a.txt", ".parquet")
    refused(cli("export", "r.sqlite", "r.sqlite"), "r.sqlite")


def test_what_is_no_record_is_told_and_the_rest_goes_on(cli: Cli, made: list[object], here: Path) -> None:
    lines = [json.dumps(record("The Louvre")), "{broken", json.dumps({"prompt": "{} is"}), json.dumps(record("Paris"))]
    (here / "some.jsonl").write_text("\n".join(lines + ["[]"] * 5), encoding="utf-8")
    options = ("bench", "--data", "some.jsonl", *made, "--metric", "es")
    done = cli(*options)
    assert done.code == 0, done.err
    told = done.err.splitlines()
    assert told[0].startswith("left out: line 2: ") and told[1].startswith("left out: line 3: ")
    assert told[2].startswith("left out: line 5, line 6, line 7, line 8, line 9: ")
    assert told[3].startswith("written: ") and len(told) == 4
    found = cli(*options, "--json").record
    assert found["data"]["records"] == 2
    assert [one["place"] for one in found["data"]["malformed"]] == [f"line {n}" for n in (2, 3, 5, 6, 7, 8, 9)]


@pytest.mark.parametrize("good", [1, 0])
def test_a_record_that_fails_is_counted_with_its_reason(cli: Cli, made: list[object], here: Path, good: int) -> None:
    some = [record("The Louvre", "Rome " * 200), *(record(subject) for subject in SUBJECTS[1 : 1 + good])]
    (here / "long.json").write_text(json.dumps(some), encoding="utf-8")
    options = ("bench", "--data", "long.json", *made, "--metric", "es")
    told = cli(*options, "--json")
    (entry,) = json.loads(told.out)["entries"]
    assert (entry["total"], entry["done"], entry["failed"]) == (1 + good, good, 1)
    assert "tokens" in " ".join(entry["reasons"])
    done = cli(*options)
    assert "Records that failed" in done.out, done
    for one in (told, done):
        assert one.code == (0 if good else 1)
        assert ("error: all 1 records failed, the first with: " in one.err) == (not good)


def test_failed_records_are_tried_again(cli: Cli, options: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed by an accident, not what is done."""
    options = [*options, "--metric", "es", "--run", "r.sqlite"]
    search = values.search

    def failing(batch: Any, *of: Any, **others: Any) -> Any:
        if any(question.fact.subject == SUBJECTS[2] for question in batch.questions):
            raise MemoryError("out of memory")
        return search(batch, *of, **others)

    with monkeypatch.context() as patched:
        patched.setattr(values, "search", failing)
        assert cli(*options).code == 0
    before = rows("r.sqlite")
    assert [row.status for row in before if row.checkpoint == 0] == ["done", "done", "failed", "done"]
    assert cli(*options).code == 0 and rows("r.sqlite") == before
    assert cli(*options, "--again").code == 0
    after = rows("r.sqlite")
    assert {row.status for row in after} == {"done"}
    assert [row for row in after if row.position != 2] == [row for row in before if row.position != 2]
    monkeypatch.setattr(LanguageModel, "load", None)
    refused(cli(*options, "--again", "--protocol", "batch"), "cannot be tried again", "start a new run with --run")
    refused(cli(*options[:-1], "none.sqlite", "--again"), "there is no benchmark run none.sqlite", "--run")


def test_another_tokenizer_is_another_run(cli: Cli, options: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*options, "--metric", "es", "--limit", 1, "--run", "r.sqlite"]
    assert cli(*options).code == 0
    environment = read_run("r.sqlite").environment
    assert {"weights", "tokenizer", "numpy", "tokenizers", "torch"} <= set(environment) and "tf32" not in environment
    assert len(environment["tokenizer"]) == 64
    monkeypatch.setattr(LanguageModel, "tokenizer_hash", lambda _: "f" * 64)
    refused(cli(*options), "was made with tokenizer", "and now it is ffff", "--run")


def test_a_texts_perplexity_is_measured_before_and_after(cli: Cli, options: list[object], here: Path) -> None:
    (here / "text.txt").write_text("\n\n".join(paragraphs(4)), encoding="utf-8")
    given = ("--text", "text.txt", "--protocol", "sequential", "--batch", 2, "--metric", "es", "--json")
    (entry,) = cli(*options, *given).record["entries"]
    before, after = entry["general_before"]["perplexity"], entry["general_after"]["perplexity"]
    assert isfinite(before) and isfinite(after) and before != after
    for found in (entry["general_before"], entry["general_after"]):
        assert found["perplexity"] == pytest.approx(exp(found["nll"])) and 0 < found["nll_standard_error"] < 1
    assert set(read_run("bench-facts-r-rome-sequential.sqlite").general) == {BEFORE, 0, 1}
    shown = cli("compare", "bench-facts-r-rome-sequential.sqlite").out
    assert "The whole model" in shown and shown.count("perplexity") == 2  # a line a checkpoint


def test_a_task_of_the_harness_is_run_before_and_after(
    cli: Cli, options: list[object], neox: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_task(tmp_path, monkeypatch)
    wanted = ("--protocol", "batch", "--metric", "es", "--task-folder", folder)
    done = cli(*options, *wanted, "--task", "cities", "--task-limit", 4, "--method", "memit", "--layer", 2, "--json")
    (entry,) = done.record["entries"]
    expected = evaluate(LanguageModel.load(str(neox)), ["cities"], limit=4, include_path=folder)["cities"]
    assert entry["general_before"] == {f"cities {name}": value for name, value in expected.items()}
    assert set(entry["general_after"]) == set(entry["general_before"])
    run = read_run("bench-facts-memit-batch.sqlite")
    assert run.configuration["tasks"] == {"names": ["cities"], "limit": 4, "lm_eval": version("lm_eval")}
    monkeypatch.setattr(LanguageModel, "load", None)
    refused(cli(*options, *wanted, "--task", "towns"), "no task towns", "lm-eval ls tasks")
    refused(cli(*options, *wanted), "--task-folder belong to a --task")
    refused(cli(*options, "--task", "cities", "--task-folder", "none"), "no folder none of tasks")
    refused(cli(*options, "--task", "cities", "--task-folder", folder), "edits that stay in force")


def test_it_is_told_how_far_a_text_is_read() -> None:
    told: list[tuple[str, int, int]] = []
    Text("The Louvre is in Paris, the capital of France. " * 100)(
        tiny.language_model("llama"), lambda *of: told.append(of)
    )
    assert len(told) > 1 and {label for label, _, _ in told} == {"reading the text"}
    assert told[-1][1] == told[-1][2]


def test_order_and_metrics_are_chosen(cli: Cli, options: list[object]) -> None:
    given = ("--order", "random", "--seed", 3, "--metric", "all", "--metric", "es", "--run", "r.sqlite", "--json")
    figures = [one["name"] for one in cli(*options, *given).record["figures"]]
    assert {"es@1", "free_em@1", "kl@1"} <= set(figures) and "multihop@1" not in figures
    ids = [row.id for row in rows("r.sqlite") if row.checkpoint == 0]
    assert cli(*options, "--metric", "es", "--run", "file.sqlite").code == 0
    in_file = [row.id for row in rows("file.sqlite") if row.checkpoint == 0]
    assert sorted(ids) == sorted(in_file) and ids != in_file


# Going on


def test_ctrl_c_in_the_middle_and_the_same_command_goes_on(
    cli: Cli, options: list[object], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rome_engine.bench.plan.GROUP", 1)
    given = (*options, "--metric", "es", "--metric", "kl", "--run")
    assert cli(*given, "whole.sqlite").code == 0
    label, threads = "editing and scoring", str(torch.get_num_threads())
    stopped = run(label, *given, "r.sqlite", before=SMALL_GROUPS + INTERRUPTED, OMP_NUM_THREADS=threads)
    assert stopped.returncode == 1 and stopped.stdout == "", stopped
    said = "interrupted: the finished records are kept in r.sqlite, and the same command goes on from there\n"
    assert stopped.stderr == said
    assert [row.position for row in rows("r.sqlite") if row.checkpoint == 0] == [0]
    assert cli(*given, "r.sqlite").code == 0
    assert rows("r.sqlite") == rows("whole.sqlite")


def test_a_full_disk_stops_it_and_the_same_command_goes_on(
    cli: Cli, options: list[object], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files may have 60 kB only; what the cache needs is in it already."""
    monkeypatch.setattr("rome_engine.bench.plan.GROUP", 1)
    given = (*options, "--metric", "es", "--metric", "kl", "--run")
    assert cli(*given, "whole.sqlite").code == 0
    full = SMALL_GROUPS + "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
    stopped = run(*given, "r.sqlite", before=full, OMP_NUM_THREADS=str(torch.get_num_threads()))
    assert stopped.returncode == 2 and stopped.stdout == "", stopped
    assert stopped.stderr.startswith("error: cannot write the benchmark run r.sqlite: ")
    said = "what was finished is in it: make room, and the same command goes on from there\n"
    assert stopped.stderr.endswith(said) and stopped.stderr.count("\n") == 1
    assert 0 < len(rows("r.sqlite")) < 8
    assert cli(*given, "r.sqlite").code == 0
    assert rows("r.sqlite") == rows("whole.sqlite")


def holding(path: Path, line: Connection) -> None:
    with RunFile(path):
        line.send("open")
        line.recv()


def test_a_second_process_on_a_run_is_refused(cli: Cli, options: list[object], here: Path, no_model: None) -> None:
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(target=holding, args=(here / "r.sqlite", theirs))
    child.start()
    assert ours.recv() == "open"
    refused(cli(*options, "--run", "r.sqlite"), "another process is using the benchmark run r.sqlite", "--run")
    refused(cli("compare", "r.sqlite"), "r.sqlite is being written by a benchmark that is going on: wait for it")
    ours.send("end")
    child.join(60)
    assert child.exitcode == 0


# Mistakes


def test_a_run_of_another_benchmark_is_refused_and_stays(
    cli: Cli, options: list[object], models: Path, here: Path
) -> None:
    given = (*options, "--metric", "es", "--limit", 1, "--run", "r.sqlite")
    assert cli(*given).code == 0
    before = (here / "r.sqlite").read_bytes()
    refused(cli(*given, "--seed", 1), "r.sqlite was made with seed 0, and now it is 1", "--run")
    refused(cli(*given, "--limit", 2), "made with limit 1, and now it is 2")
    refused(cli(*given, "--metric", "ps"), 'made with metrics ["es@1"], and now it is ["es@1", "ps@1"]')
    refused(cli(*given, "--model", models / "other"), "r.sqlite was made with ", "--run")
    (here / "facts.json").write_text(json.dumps([record("The Louvre")]), encoding="utf-8")
    refused(cli(*given), "made with data.sha256")
    assert (here / "r.sqlite").read_bytes() == before
    assert sorted(path.name for path in here.iterdir()) == ["facts.json", "r.sqlite"]


def test_a_run_of_another_benchmark_is_refused_before_the_model_is_loaded(
    cli: Cli, options: list[object], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the file and the arguments tell: there is no need to wait for the weights."""
    given = (*options, "--metric", "es", "--limit", 2, "--run", "r.sqlite")
    assert cli(*given).code == 0
    before = (here / "r.sqlite").read_bytes()

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded before the mistake was said")

    monkeypatch.setattr(LanguageModel, "load", loaded)
    refused(cli(*given, "--protocol", "batch"), "r.sqlite was made with protocol single, and now it is batch", "--run")
    refused(cli(*given, "--method", "rome"), "made with method r-rome, and now it is rome")
    refused(cli(*given, "--layer", 2), "made with settings.layer 1, and now it is 2")
    refused(cli(*given, "--seed", 1), "made with seed 0, and now it is 1")
    refused(cli(*given, "--order", "random"), "made with order file, and now it is random")
    refused(cli(*given, "--metric", "ps"), "made with metrics")
    refused(cli(*given, "--dtype", "float16"), "made with dtype float32, and now it is float16")
    (here / "refs.json").write_text(json.dumps({"1": ["Rome"]}), encoding="utf-8")
    refused(cli(*given, "--references", "refs.json"), "made with data.references unset, and now it is ")
    (here / "facts.json").write_text(json.dumps([record("The Louvre")]), encoding="utf-8")
    refused(cli(*given), "made with data.sha256")
    assert (here / "r.sqlite").read_bytes() == before


def test_reference_texts_are_given(cli: Cli, options: list[object], facts: Path, here: Path) -> None:
    """RS and the perplexity of essence texts are measured then, of the records that have such texts."""
    opened = [record(subject) | {"generation": ["{} is known for"]} for subject in SUBJECTS]
    facts.write_text(json.dumps(opened), encoding="utf-8")
    texts = {"1": {"references": ["The capital of Italy is Rome."], "essence": "You can find The Louvre in Paris"}}
    (here / "refs.json").write_text(json.dumps({**texts, "3": ["Rome"]}), encoding="utf-8")
    done = cli(*options, "--limit", 3, "--references", "refs.json", "--run", "r.sqlite")
    assert done.code == 0, done.err
    after = [row for row in rows("r.sqlite") if row.checkpoint == 0]
    assert ["rs@1" in row.figures for row in after] == [True, False, True]
    assert ["essence_ppl@1" in row.figures for row in after] == [True, False, False]
    assert "es@1" in after[0].figures and "ge@1" not in after[0].figures
    assert cli(*options, "--limit", 3, "--run", "plain.sqlite").code == 0
    assert not any({"rs@1", "essence_ppl@1"} & set(row.figures) for row in rows("plain.sqlite"))


MISTAKES = [
    (("own", "--method", "best"), ("no method 'best'", "r-rome")),
    (("own", "--metric", "best"), ("no metric 'best'", "es@1")),
    (("own", "--metric", "multihop"), ("own has nothing that multihop@1 could measure", "es@1")),
    (("own", "--protocol", "double"), ("--protocol", "'double'", "'single'")),
    (("own", "--limit", "0"), ("--limit",)),
    (("own", "--batch", "0"), ("--batch",)),
    (("nothing",), ("no data set 'nothing'", "counterfact")),
    (("--data", "none.json"), ("cannot read the data none.json", "check the path")),
    (("--data", "broken.json"), ("cannot read the data broken.json", "broken.jsonl")),
    (("--data", "empty.json"), ("no usable record among the 0 of empty.json",)),
    (("--data", "useless.json"), ("no usable record among the 1 of useless.json", "line 1", "its fields are a")),
    (("own", "--text", "none.txt"), ("cannot read the text none.txt", "UTF-8")),
    (("--data", "good.json", "--references", "none.json"), ("cannot read the references none.json", "check the path")),
    (("--data", "good.json", "--references", "broken.json"), ("the references broken.json", "no JSON", "broken.jsonl")),
    (
        ("--data", "good.json", "--references", "useless.json"),
        ("cannot use the references useless.json", 'line 1: it is no object with an "id"'),
    ),
    (
        ("--data", "good.json", "--references", "unknown.jsonl"),
        ("the references unknown.jsonl: line 2: good.json has no record '9'", "correct the file"),
    ),
    (("--data", "good.json", "--references", "r.json", "--out", "r.json"), ("cannot write r.json", "another name")),
    (("own", "--out", "r.gif"), ("r.gif", ".parquet")),
    (("own", "--out", "none/r.csv"), ("the folder none does not exist",)),
    (("own", "--run", "none/r.sqlite"), ("the folder none does not exist",)),
    (("own", "--run", "broken.json"), ("broken.json is damaged or no benchmark run", "--run")),
    (("--data", "good.json", "--run", "good.json"), ("cannot write good.json", "give another name")),
    (("--data", "good.json", "--out", "good.json"), ("cannot write good.json", "give another name")),
    (("own", "--run", "r.json", "--out", "r.json"), ("cannot write r.json", "give another name")),
]


@pytest.mark.parametrize(("given", "said"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_mistakes_are_said_before_the_model_is_loaded(
    cli: Cli, here: Path, no_model: None, given: tuple[str, ...], said: tuple[str, ...]
) -> None:
    (here / "broken.json").write_text("{broken, but long enough to be taken for a database" * 20)
    (here / "empty.json").write_text("[]")
    (here / "useless.json").write_text('[{"a": 1}]')
    (here / "good.json").write_text(json.dumps([record("The Louvre")]))
    (here / "unknown.jsonl").write_text('{"id": 1, "essence": "a b"}\n{"id": 9, "essence": "a b"}')
    (here / "r.json").write_text('{"1": ["Rome"]}')
    before = {path: path.read_bytes() for path in here.iterdir()}
    refused(cli("bench", *given), *said)
    assert {path: path.read_bytes() for path in here.iterdir()} == before


def test_a_named_set_without_a_network(
    cli: Cli, here: Path, tmp_path: Path, no_model: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("rome_engine.bench.datasets.download.urlopen", nowhere)
    refused(cli("bench", "counterfact"), "cannot fetch https://", "is there a network?", "--data PATH")
    assert not list(here.iterdir())
