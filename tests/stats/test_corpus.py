"""Sequences of a corpus: every word once, in the sample's order, no part crossing into another unmarked."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from rome_engine.errors import StatisticsError, StorageError
from rome_engine.stats import Corpus, Sampling
from rome_engine.stats import corpus as module
from rome_engine.stats.corpus import tokenizer_hash
from tests import tiny
from tests.stats.texts import corpus, paragraphs

EVERYTHING = 10**6


@pytest.fixture(autouse=True)
def small_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passages of a few paragraphs, so that a small text has many of them."""
    monkeypatch.setattr(module, "_PASSAGE", 500)
    monkeypatch.setattr(module, "_LONGEST_PASSAGE", 4000)
    monkeypatch.setattr(module, "_LONGEST_PIECE", 700)


def sequences(of: Corpus, tokens: int = EVERYTHING, length: int = 64, seed: int = 0) -> list[list[int]]:
    return list(of.sequences(tiny.tokenizer(), Sampling(tokens, length, seed)))


def documents(of: Corpus, **sampling: int) -> list[str]:
    """The documents between the end tokens of all sequences laid end to end."""
    parts: list[list[int]] = [[]]
    for token in (token for sequence in sequences(of, **sampling) for token in sequence):
        if token == tiny.EOS:
            parts.append([])
        else:
            parts[-1].append(token)
    assert parts[-1] == []
    return [tiny.tokenizer().decode(part) for part in parts[:-1]]


def test_every_document_comes_once_and_ends_with_the_end_token(tmp_path: Path) -> None:
    found = documents(corpus(tmp_path))
    assert sorted(found) == sorted(paragraphs(120))
    assert found != paragraphs(120)  # the order is the sample's


def test_neighbours_stay_together_within_a_passage(tmp_path: Path) -> None:
    order = [paragraphs(120).index(document) for document in documents(corpus(tmp_path))]
    steps = [after - before for before, after in pairwise(order)]
    assert steps.count(1) > 60


def test_lengths(tmp_path: Path) -> None:
    text = corpus(tmp_path)
    lengths = [len(sequence) for sequence in sequences(text, length=48)]
    assert set(lengths[:-1]) == {48} and 0 < lengths[-1] <= 48
    for budget in (1, 47, 48, 49, 1000):
        assert sum(map(len, sequences(text, tokens=budget, length=48))) == budget


def test_a_smaller_budget_is_a_prefix(tmp_path: Path) -> None:
    text = corpus(tmp_path)
    assert sequences(text, tokens=640) == sequences(text)[:10]


def test_the_sample_is_seeded_and_spread(tmp_path: Path) -> None:
    text = corpus(tmp_path, number=400)
    assert sequences(text, tokens=2000) == sequences(Corpus(*text.paths), tokens=2000)
    assert sequences(text, tokens=2000) != sequences(text, tokens=2000, seed=1)
    quarters = {paragraphs(400).index(document) // 100 for document in documents(text)[:80]}
    assert quarters == {0, 1, 2, 3}


def test_lines_are_documents_where_there_are_no_blank_lines(tmp_path: Path) -> None:
    lines = [paragraph.replace("\n", " ") for paragraph in paragraphs(50)]
    (tmp_path / "lines.txt").write_text("\n\n" + "\n".join(lines) + "\n\n", encoding="utf-8")
    assert sorted(documents(Corpus(tmp_path / "lines.txt"))) == sorted(lines)


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    text = corpus(tmp_path)
    content = b"\xef\xbb\xbf" + text.paths[0].read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "other.txt").write_bytes(content)
    assert sorted(documents(Corpus(tmp_path / "other.txt"))) == sorted(paragraphs(120))


def test_one_endless_line_is_cut_between_characters(tmp_path: Path) -> None:
    line = "東京 Αθήνα Zürich " * 700
    (tmp_path / "line.txt").write_text(line, encoding="utf-8")
    found = documents(Corpus(tmp_path / "line.txt"))
    assert len(found) > 5
    assert sorted("".join(found).replace(" ", "")) == sorted(line.replace(" ", ""))


def test_several_files(tmp_path: Path) -> None:
    first, second = corpus(tmp_path, 30, "a.txt"), corpus(tmp_path, 60, "b.txt")
    both = Corpus(*first.paths, *second.paths)
    assert sorted(documents(both)) == sorted(paragraphs(30) + paragraphs(60))
    assert both.name == "a + b" and both.hash != Corpus(*second.paths, *first.paths).hash


def test_document_start_tokens_lead_every_sequence(tmp_path: Path) -> None:
    text = corpus(tmp_path)
    tokenizer = tiny.tokenizer(adds_bos=True)
    plain, led = sequences(text, length=63), list(text.sequences(tokenizer, Sampling(EVERYTHING, 64)))
    assert led == [[tiny.BOS, *sequence] for sequence in plain]


def test_without_an_end_token_blank_lines_part_documents(tmp_path: Path) -> None:
    text = corpus(tmp_path, 10)
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    ids = [token for sequence in text.sequences(tokenizer, Sampling(EVERYTHING, 64)) for token in sequence]
    assert sorted(tokenizer.decode(ids).strip().split("\n\n")) == sorted(paragraphs(10))


def test_the_hash_is_the_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = corpus(tmp_path)
    copy = corpus(tmp_path, name="copy.txt")
    assert copy.hash == text.hash and copy.name != text.name
    content = copy.paths[0].read_text(encoding="utf-8")
    copy.paths[0].write_text(content.replace("museum", "Museum", 1), encoding="utf-8")
    assert Corpus(*copy.paths).hash != text.hash
    monkeypatch.setattr(module, "_PASSAGE", 501)
    assert Corpus(*text.paths).hash != text.hash


def test_the_tokenizer_hash_is_its_tokens() -> None:
    assert tokenizer_hash(tiny.tokenizer()) == tokenizer_hash(tiny.tokenizer())
    others = {tokenizer_hash(tiny.tokenizer(adds_bos=True)), tokenizer_hash(tiny.tokenizer("metaspace"))}
    assert len(others | {tokenizer_hash(tiny.tokenizer())}) == 3


@pytest.mark.parametrize("content", [b"", b" \n\n\t\n"])
def test_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "empty.txt").write_bytes(content)
    with pytest.raises(StatisticsError, match="is empty"):
        sequences(Corpus(tmp_path / "empty.txt"))


def test_not_utf8(tmp_path: Path) -> None:
    for content in ("Zürich\n".encode("latin-1") * 50, "Zürich".encode()[:2]):
        (tmp_path / "latin.txt").write_bytes(content)
        with pytest.raises(StatisticsError, match="not UTF-8") as raised:
            _ = Corpus(tmp_path / "latin.txt").hash
        assert "\n" not in str(raised.value)


def test_not_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.txt"):
        with pytest.raises(StatisticsError, match="plain text file"):
            Corpus(path)
    with pytest.raises(StatisticsError, match="at least one"):
        Corpus()


def test_a_file_that_changes_underway(tmp_path: Path) -> None:
    text = corpus(tmp_path)
    assert text.hash
    text.paths[0].unlink()
    with pytest.raises(StorageError, match="changed"):
        sequences(text)


def test_sampling_is_checked() -> None:
    for bad in ({"tokens": 0}, {"length": 1}):
        with pytest.raises(StatisticsError):
            Sampling(**bad)
