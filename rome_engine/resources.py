"""The files that come with the package: facts the embedded model knows, and its second moments."""

from __future__ import annotations

from pathlib import Path

from rome_engine.errors import StorageError

_PACKAGE = Path(__file__).resolve().parent


def data_file(name: str) -> Path:
    """The path of the file `name` of the shipped `data/` folder.

    Raises StorageError when there is no such file.
    """
    path = _data_folder() / name
    if not path.is_file():
        raise StorageError(f"the data file {name!r} is missing from {path.parent}: install rome-engine again")
    return path


def _data_folder() -> Path:
    # Installed, the folder lies inside the package; in a checkout or an editable install, beside it.
    installed = _PACKAGE / "data"
    return installed if installed.is_dir() else _PACKAGE.parent / "data"
