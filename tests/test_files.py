import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rome_engine.errors import StorageError
from rome_engine.files import finite, plain, suffix_among, write_json, write_whole


def test_content_arrives_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.html", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.html", b"new")]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync" if failing == "fsync" else "pathlib.Path.replace", full)
    with pytest.raises(StorageError, match=r"No space left on device.*choose"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_passes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.html", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_and_a_folder_as_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="none"):
        write_whole(tmp_path / "none" / "a.html", b"")
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(StorageError, match="taken"):
        write_whole(tmp_path / "taken.html", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.html"]


def test_a_link_keeps_pointing_to_its_file(tmp_path: Path) -> None:
    real, link = tmp_path / "real.html", tmp_path / "link.html"
    real.write_bytes(b"old")
    link.symlink_to(real)
    write_whole(link, b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"


def test_the_error_names_the_suffixes_that_work() -> None:
    assert suffix_among(Path("A.PNG"), (".png", ".svg")) == ".png"
    for name in ("a.gif", "a"):
        with pytest.raises(StorageError, match=r"\.png, \.svg"):
            suffix_among(Path(name), (".png", ".svg"))


@dataclass(frozen=True)
class Result:
    scores: np.ndarray
    parts: tuple["Result", ...] = ()


def test_results_become_json_whatever_lies_within_them(tmp_path: Path) -> None:
    given = {"one": Result(np.array([[1.5, np.nan]]), (Result(np.array([2])),)), "two": (None, "–", float("inf"), True)}
    made = plain(given)
    assert made["one"]["parts"] == [{"scores": [2], "parts": []}]
    assert np.isnan(made["one"]["scores"][0][1])  # what is missing stays a number until it is written
    write_json(tmp_path / "a.json", made)
    read = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert read == finite(made) and read["one"]["scores"] == [[1.5, None]] and read["two"] == [None, "–", None, True]
