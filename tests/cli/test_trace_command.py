"""`rome-engine trace`: the promised fields, every option, every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pyarrow import parquet

from rome_engine.trace import Trace
from tests import tiny
from tests.cli.conftest import PROMPT, SUBJECT, Cli

PROMISED = (
    *("model", "prompt", "subject", "tokens", "subject_range", "answer", "high", "low", "kind", "window"),
    *("noise_sigma", "scores", "seconds", "engine", "provenance"),
)


def test_the_json_has_the_promised_fields(cli: Cli, neox: Path) -> None:
    record = cli("trace", PROMPT, "--subject", SUBJECT, "--model", neox, "--json").record
    assert set(PROMISED) <= set(record)
    assert record["model"] == str(neox) and record["prompt"] == PROMPT and record["subject"] == SUBJECT
    begin, end = record["subject_range"]
    assert "".join(record["tokens"][begin:end]).strip() == SUBJECT
    assert len(record["scores"]) == len(record["tokens"])
    assert {len(row) for row in record["scores"]} == {tiny.LAYERS}
    assert 0 <= record["low"] <= 1 and 0 < record["high"] <= 1
    assert (record["kind"], record["window"], record["samples"], record["engine"]) == ("hidden", 1, 10, "fast")
    assert record["seconds"] > 0 and record["noise_sigma"] > 0 and record["provenance"]["weights"]


def test_every_option_reaches_the_trace(cli: Cli, neox: Path) -> None:
    options = ("--kind", "mlp", "--window", 3, "--samples", 2, "--noise", 0.35, "--seed", 7, "--engine", "reference")
    command = ("trace", PROMPT, "-s", SUBJECT, "-m", neox, *options, "--bos", "always", "--json")
    record = cli(*command).record
    assert (record["kind"], record["window"], record["samples"], record["seed"]) == ("mlp", 3, 2, 7)
    assert (record["noise_sigma"], record["engine"]) == (0.35, "reference")
    assert record["tokens"][0] == "<s>" and record["provenance"]["bos_added"]
    fast = cli(*command, "--engine", "fast").record
    flat = [value for row in record["scores"] for value in row]
    assert [value for row in fast["scores"] for value in row] == pytest.approx(flat, rel=1e-4)
    other = cli(*command, "--seed", 8).record
    assert other["scores"] != record["scores"]


def test_the_preset_decides_seed_and_document_start(cli: Cli, neox: Path) -> None:
    common = ("trace", f"{SUBJECT} is in", "-s", SUBJECT, "-m", neox, "--samples", 2, "--json")
    plain = cli(*common, "--seed", 9).record
    preset = cli(*common, "--preset", "rome").record
    conflict = cli(*common, "--seed", 9, "--preset", "rome")
    assert conflict.code == 2 and "leave seed and bos out" in conflict.err
    assert plain["tokens"][0] == "<s>" and plain["seed"] == 9
    assert preset["tokens"][0] == "The" and preset["seed"] == 1 and preset["provenance"]["preset"] == "rome"


def test_every_new_option_reaches_the_trace(cli: Cli, neox: Path, here: Path) -> None:
    (here / "names.txt").write_text("Rome\nThe Louvre\n\n", encoding="utf-8")
    options = ("--kind", "hidden", "--kind", "head", "--samples", 2, "--noise", "2s", "--noise", "uniform:2s")
    more = (
        "--direction",
        "corrupt",
        "--sever",
        "mlp",
        "--tokens",
        "last",
        "--answer",
        "Paris Rome",
        "--foil",
        "London",
    )
    files = ("--out", "t.csv", "--out", "t.parquet", "--out", "t.html", "--memory", "64MiB", "--subjects", "names.txt")
    done = cli("trace", PROMPT, "-s", SUBJECT, "-m", neox, *options, *more, *files, "--metric", "kl", "--json")
    traces, agreed = done.record["traces"], done.record["agreement"]
    assert len(traces) == 2 * 2 * (1 + tiny.HEADS) and len(agreed) == len(traces) // 2
    assert {one["direction"] for one in traces} == {"corrupt"} and {one["severed"] for one in traces} == {"", "mlp"}
    assert {one["corruption"] for one in traces} == {"gaussian:2s", "uniform:2s"}
    assert {one["head"] for one in traces} == {None, *range(tiny.HEADS)}
    for one in traces:
        assert one["metric"] == "kl" and one["answer"] == " Paris Rome" and one["foil"] == "London"
        assert set(one["others"]) == {"probability", "log_probability", "logit_difference", "rank"}
        assert one["provenance"]["embedding_std_subjects"] == 2
        assert [row[0] is not None for row in one["scores"]] == [False] * (len(one["tokens"]) - 1) + [True]
    with (here / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(traces) * tiny.LAYERS * 5 and {row["metric"] for row in rows} >= {"kl", "rank"}
    table = parquet.read_table(here / "t.parquet")
    assert table.num_rows == len(rows) and json.loads(table.schema.metadata[b"rome_engine"])
    assert json.loads((here / "t.csv.json").read_text(encoding="utf-8"))


def test_the_severed_preset_shows_three_graphs(cli: Cli, neox: Path) -> None:
    done = cli("trace", PROMPT, "-s", SUBJECT, "-m", neox, "--preset", "rome-severed", "--samples", 2, "--json")
    assert [one["severed"] for one in done.record["traces"]] == ["", "mlp", "attn"]
    shown = cli("trace", PROMPT, "-s", SUBJECT, "-m", neox, "--preset", "rome-severed", "--samples", 2)
    assert shown.code == 0 and "Tower" in shown.out


def test_several_kinds_come_in_one_object(cli: Cli, neox: Path, here: Path) -> None:
    options = ("--kind", "mlp", "--kind", "hidden", "--kind", "mlp", "--samples", 2, "--out", "maps.json", "--json")
    traces = cli("trace", PROMPT, "-s", SUBJECT, "-m", neox, *options).record["traces"]
    assert [trace["kind"] for trace in traces] == ["mlp", "hidden"]
    written = json.loads((here / "maps.json").read_text())
    assert [trace["scores"] for trace in written] == [trace["scores"] for trace in traces]


@pytest.mark.parametrize("suffix", [".html", ".png", ".svg", ".pdf", ".json", ".HTML"])
def test_every_format_is_a_valid_file(cli: Cli, neox: Path, here: Path, suffix: str) -> None:
    path = here / f"trace{suffix}"
    done = cli("trace", PROMPT, "-s", SUBJECT, "-m", neox, "--samples", 2, "--out", path)
    assert done.code == 0 and f"written: {path}" in done.err and str(path) not in done.out
    assert [made.name for made in here.iterdir()] == [path.name]
    content = path.read_bytes()
    if suffix.lower() == ".html":
        page = content.decode()
        assert page.lstrip().lower().startswith("<!doctype html>") and SUBJECT in page and "</html>" in page
    elif suffix == ".svg":
        assert ElementTree.fromstring(content).tag.endswith("svg")
    elif suffix == ".json":
        assert Trace.load(path).scores.shape[1] == tiny.LAYERS
    else:
        assert content.startswith({".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix])


def test_people_see_a_map(cli: Cli, neox: Path) -> None:
    done = cli("trace", "You can find {} in", "-s", SUBJECT, "-m", neox, "--samples", 2, "--kind", "attn")
    assert done.code == 0 and done.err == ""
    assert "Tower*" in done.out and "layer" in done.out and max(map(len, done.out.splitlines())) <= 80


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_works(cli: Cli, neox: Path, dtype: str) -> None:
    record = cli("trace", PROMPT, "-s", SUBJECT, "-m", neox, "--samples", 2, "--dtype", dtype, "--json").record
    assert record["provenance"]["dtype"] == dtype
    assert all(0 <= value <= 1 for row in record["scores"] for value in row)
