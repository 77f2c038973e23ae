import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rome_engine.errors import StorageError, TraceError
from rome_engine.report.page import Download, Maps, Section, Table, Text, page, save_page
from rome_engine.report.trace_page import trace_page
from rome_engine.trace.result import Trace, Values

EVIL = "</script><script>alert(1)</script><b onload=x>\"'&"


class Outline(HTMLParser):
    """The elements of a page, their attributes, and the text by element."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1][0] if self.tags else "", data))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def data_of(html: str) -> Any:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert match is not None

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(match.group(1), parse_constant=refuse)


def test_the_page_holds_the_trace_exactly(three: list[Trace]) -> None:
    data = data_of(trace_page(three))
    views, records = data["groups"][0]["views"], data["download"]["record"]
    for view, record, trace in zip(views, records, three, strict=True):
        read = Trace.from_dict(record)
        assert view["scores"] == trace.scores.tolist()
        assert (read.scores == trace.scores).all()
        assert (read.tokens, read.high, read.low, read.kind) == (trace.tokens, trace.high, trace.low, trace.kind)


def test_hostile_text_is_harmless_wherever_it_stands(make_trace: Callable[..., Trace]) -> None:
    tokens = (EVIL, "<!--", "]]>", "\u2028", "<b>")
    trace = make_trace(
        tokens=tokens,
        prompt=EVIL,
        subject=EVIL,
        answer=EVIL,
        model=EVIL,
        kind=EVIL,
        engine=EVIL,
        provenance={EVIL: [EVIL]},
    )
    sections: list[Section] = [Text(EVIL, [EVIL]), Table(EVIL, [EVIL], [[EVIL]], EVIL), Maps(EVIL, [trace])]
    named = page(EVIL, {EVIL: sections, "b": []}, Download(EVIL, trace.to_dict()))
    for html in (trace_page([trace]), named):
        outline = Outline(html)
        assert outline.count("script") == 2 and outline.count("b") == 0
        assert not any(name.startswith("onload") for _, attributes in outline.tags for name in attributes)
        assert data_of(html)["download"]["record"]["tokens"] == list(tokens)


def test_nothing_is_fetched_from_anywhere(three: list[Trace]) -> None:
    html = trace_page(three)
    assert not re.search(r"https?://|//\w+\.\w+|@import|url\(", html)
    assert "default-src 'none'" in html
    sources = [
        attributes.get(name) for _, attributes in Outline(html).tags for name in ("src", "href", "srcset", "action")
    ]
    assert [source for source in sources if source is not None] == ["data:,"]


def test_sections_stand_in_their_order(trace: Trace) -> None:
    html = page("T", [Table("B", ["x"], [[1]]), Maps("C", [trace]), Text("A", ["p"]), Maps("D", [trace])])
    headings = [text for tag, text in Outline(html).texts if tag == "h2" and text.strip()]
    assert headings == ["B", "C", "A", "D"]
    assert [len(group["views"]) for group in data_of(html)["groups"]] == [1, 1]
    assert re.findall(r'data-group="(\d)"', html) == ["0", "1"]


def test_a_tables_values_are_formatted() -> None:
    rows: list[list[str | float | None]] = [["Louvre", 0.70163, 3, True, None], ["Rome", nan, 4, False, -0.00002]]
    html = page("T", [Table("B", ["a", "b", "c", "d", "e"], rows, "a note")])
    cells = re.findall(r"<td( class=\"number\")?>(.*?)</td>", html)
    assert [text for _, text in cells] == ["Louvre", "0.702", "3", "yes", "–", "Rome", "–", "4", "no", "−2.0e-5"]
    assert [bool(style) for style, _ in cells[:5]] == [False, True, True, False, True]
    assert "a note" in html


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns"):
        Table("B", ["a", "b"], [["x"]])


def test_numbers_that_json_lacks_become_null(make_trace: Callable[..., Trace]) -> None:
    scores = make_trace().scores.copy()
    scores[2, 1], scores[3, 3] = nan, inf
    html = trace_page([make_trace(scores=scores, low=nan, provenance={"odd": nan})])
    trace = data_of(html)["download"]["record"]
    assert trace["scores"][2][1] is None and trace["scores"][3][3] is None and trace["low"] is None
    assert "low –" in html


def test_a_small_effect_is_said_and_takes_no_colour(make_trace: Callable[..., Trace]) -> None:
    html = trace_page([make_trace(high=0.12)])
    assert "too small to localise" in html and "Strongest cells" not in html
    assert data_of(html)["groups"][0]["views"][0]["ramp"] == "none"
    assert "too small to localise" not in trace_page([make_trace()])


def test_the_page_says_what_a_strong_cell_does_not_mean(trace: Trace) -> None:
    html = trace_page([trace])
    assert "weak evidence of where an edit works best" in html
    assert "the layer to edit" not in html


def test_provenance_lists_every_field(three: list[Trace]) -> None:
    html = trace_page(three)
    details = html[html.index("<details>") : html.index("</details>")]
    for text in ("noise_sigma", "0.300", "tiny/model", "preset", "rome", "versions", "attn"):
        assert text in details


def test_maps_of_one_kind_are_told_apart(trace: Trace) -> None:
    html = trace_page([trace, trace])
    assert "Hidden state 1" in html and "Hidden state 2" in html


def test_every_map_can_be_reached_and_is_described(three: list[Trace]) -> None:
    outline = Outline(trace_page(three))
    maps = [attributes for _, attributes in outline.tags if attributes.get("role") == "application"]
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(maps) == 3 and all(each["tabindex"] == "0" and each["aria-label"] for each in maps)
    assert {each["aria-describedby"] for each in maps} <= set(ids)
    assert len(ids) == len(set(ids))


def test_a_switch_shows_one_metric_at_a_time(make_trace: Callable[..., Trace]) -> None:
    kl = Values(0.0, 3.0, np.full((5, 4), 1.5), np.zeros((5, 4)))
    both = [make_trace(kind=kind, others={"kl": kl}) for kind in ("hidden", "mlp")]
    html = trace_page(both)
    radios = [one for tag, one in Outline(html).tags if tag == "input" and one.get("name") == "metric"]
    shown = [one for _, one in Outline(html).tags if one.get("class") == "metric"]
    assert re.findall(r'name="metric" value="\d"[^>]*><span>(.*?)<', html) == ["Probability", "KL divergence"]
    assert ["checked" in one for one in radios] == [True, False]
    assert ["hidden" in one for one in shown] == [False, True]
    data = data_of(html)
    assert [group["views"][1]["scores"][0][0] for group in data["groups"]] == [0.1, 1.5]
    assert [group["views"][0]["orientation"] for group in data["groups"]] == [1, -1]
    assert re.findall(r'data-group="(\d)"', html) == ["0", "1"]
    assert html.count("the probability of the answer") == html.count("the KL divergence from the clean run") == 1
    kl_first = trace_page([one.of("kl") for one in both])
    assert re.findall(r'name="metric" value="\d"[^>]*><span>(.*?)<', kl_first) == ["KL divergence", "Probability"]
    assert data["download"]["record"] == [json.loads(json.dumps(one.to_dict())) for one in both]


def test_one_metric_needs_no_switch(make_trace: Callable[..., Trace]) -> None:
    other = make_trace(others={"kl": Values(0.0, 3.0, np.full((5, 4), 1.5))})
    for traces in ([make_trace()], [make_trace(), other], [make_trace(), other.of("kl")]):
        assert 'name="metric"' not in trace_page(traces)
    assert 'name="metric"' in trace_page([other])


def test_no_traces_is_an_error() -> None:
    with pytest.raises(TraceError):
        trace_page([])


def test_without_jinja2_the_remedy_is_said(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(StorageError, match=r"pip install 'rome-engine\[report\]'"):
        trace_page([trace])


def test_a_page_is_written_as_utf8_even_with_half_a_letter(tmp_path: Path) -> None:
    save_page("é\ud800", tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == "é\\ud800".encode()
