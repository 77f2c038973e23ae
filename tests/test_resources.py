"""The shipped data is found in a checkout, and goes into the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rome_engine.errors import StorageError
from rome_engine.resources import data_file

ROOT = Path(__file__).resolve().parent.parent


def shipped() -> list[str]:
    folder = ROOT / "data"
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_every_shipped_file_is_found() -> None:
    assert shipped()
    assert all(data_file(name).samefile(ROOT / "data" / name) for name in shipped())


def test_a_missing_file_is_an_error_that_names_it() -> None:
    with pytest.raises(StorageError, match=r"'no-such-file\.json' is missing"):
        data_file("no-such-file.json")


def test_a_folder_is_not_a_file() -> None:
    with pytest.raises(StorageError):
        data_file(".")


def test_the_wheel_holds_the_data_and_finds_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("rome_engine", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*pip, str(tmp_path), str(source)], check=True, stdin=subprocess.DEVNULL)
    installed = tmp_path / "installed"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(installed)
    assert (installed / "rome_engine" / "py.typed").is_file()
    program = "import sys; from rome_engine.resources import data_file; print(data_file(sys.argv[1]))"
    for name in shipped():
        # -P and -I would hide the copy; the folder on PYTHONPATH comes before an editable install's finder.
        found = subprocess.run(
            [sys.executable, "-c", program, name],
            cwd=tmp_path,
            env={"PYTHONPATH": str(installed)},
            check=True,
            capture_output=True,
            text=True,
        )
        assert Path(found.stdout.strip()) == installed / "rome_engine" / "data" / name
