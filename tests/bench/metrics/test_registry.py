"""What holds of every metric: a versioned name, a direction, and nothing asked or told where there is nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rome_engine
from rome_engine.bench.metrics import metrics, named
from rome_engine.bench.record import Question
from rome_engine.errors import BenchError
from tests.bench.metrics.by_hand import metric, record, value

ROLES = ("efficacy", "paraphrase", "portability", "multi-hop", "single-hop")
UNANSWERED = record(*(Question(role, "Who?", rival="x") for role in ROLES))


def test_the_names_are_there() -> None:
    names = """es ps ns em pm nm ea pa na zsre_efficacy zsre_paraphrase zsre_specificity portability locality kl
    multihop multihop_forced singlehop ge rs essence_ppl free_em free_begins free_pem"""
    assert {f"{name}@1" for name in names.split()} <= set(metrics())


def test_the_document_has_them_all() -> None:
    text = (Path(rome_engine.__file__).resolve().parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([a-z_]+)`", text))
    assert {name.partition("@")[0] for name in metrics()} <= told


@pytest.mark.parametrize("name", metrics())
def test_a_metric_of_nothing_is_none(name: str) -> None:
    one = metric(name)
    assert one.name == name and re.fullmatch(r"[a-z_]+@[1-9]\d*", name) and one.unit
    for case in (record(), UNANSWERED):
        assert list(one.asks(case)) == [] and value(name, case) is None


def test_lower_is_better_for_divergence_and_perplexity_alone() -> None:
    assert {name for name, one in metrics().items() if not one.higher} == {"kl@1", "essence_ppl@1"}


def test_a_metric_without_its_version_is_its_newest() -> None:
    assert [one.name for one in named(["ns", "es@1", "ns@1"])] == ["ns@1", "es@1"]
    with pytest.raises(BenchError, match=r"no metric 'es@9': there are ea@1, em@1"):
        named(["es@9"])
