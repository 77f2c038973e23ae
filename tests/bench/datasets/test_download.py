"""Fetching from a server of our own: what is right is kept whole, and of whatever goes wrong nothing is kept."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rome_engine.bench.datasets import download as module
from rome_engine.bench.datasets import read, reading
from rome_engine.bench.datasets.download import download
from rome_engine.bench.datasets.sources import SOURCES, Published, Source
from rome_engine.errors import BenchError, StorageError

RECORD = {"prompt": "who made the bell?", "subject": "bell", "target": "Bo"}
CONTENT = json.dumps([RECORD] * 5000).encode()  # several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers the n-th request for any path by its n-th answer, the last one ever after."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.answers[min(len(outer.asked), len(outer.answers)) - 1](self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True

    def address(self, file: str = "set.json") -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/{file}"

    def source(self, *files: str, sha256: str | None = SHA256) -> Source:
        published = tuple(Published(self.address(file), sha256) for file in files or ("set.json",))
        return Source("set", "qaedit", published, "MIT")


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def gives(content: bytes = CONTENT, status: int = 200, length: int | None = None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def leads_to(path: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", path)
        handler.end_headers()

    return answer


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def is_silent(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"[")
    handler.wfile.flush()
    time.sleep(0.5)


CUT = gives(CONTENT[:1000], length=len(CONTENT))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    server.answers = [gives()]
    told: list[tuple[str, int, int | None]] = []
    path = download(server.source(), tmp_path, told=lambda *one: told.append(one))
    assert path == tmp_path / "set" / "set.json" and path.read_bytes() == CONTENT
    assert files(tmp_path) == ["set.json"]
    assert told[-1] == ("set.json", len(CONTENT), len(CONTENT)) and [one[1] for one in told] == sorted(
        {one[1] for one in told}
    )
    assert download(server.source(), tmp_path) == path and server.asked == ["/set.json"]


def test_a_redirection_is_followed(server: Server, tmp_path: Path) -> None:
    server.answers = [leads_to("/elsewhere"), gives()]
    assert download(server.source(), tmp_path).name == "set.json"
    assert server.asked == ["/set.json", "/elsewhere"]


def test_several_files_are_a_folder(server: Server, tmp_path: Path) -> None:
    server.answers = [gives()]
    path = download(server.source("a.json", "b.json"), tmp_path)
    assert path == tmp_path / "set" and files(path) == ["a.json", "b.json"]
    (path / "a.json").unlink()
    download(server.source("a.json", "b.json"), tmp_path)
    assert server.asked == ["/a.json", "/b.json", "/a.json"]


@pytest.mark.parametrize("passing", [gives(b"", 500), gives(b"", 503), gives(b"", 429), CUT, hangs_up, is_silent])
def test_what_passes_is_tried_again(server: Server, tmp_path: Path, passing: Answer) -> None:
    server.answers = [passing, passing, gives()]
    path = download(server.source(), tmp_path, timeout=0.2, waits=(0.0, 0.0))
    assert path.read_bytes() == CONTENT and len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "said", "tries"),
    [
        (gives(b"", 404), "the server says 404 Not Found", 1),
        (gives(b"", 403), "the server says 403", 1),
        (gives(b"", 500), "the server says 500", 3),
        (CUT, "the connection was cut", 3),
        (hangs_up, "cannot fetch", 3),
        (is_silent, "timed out", 3),
    ],
)
def test_what_does_not_pass_is_told_in_one_line(
    server: Server, tmp_path: Path, answer: Answer, said: str, tries: int
) -> None:
    server.answers = [answer]
    with pytest.raises(StorageError, match=said) as told:
        download(server.source(), tmp_path, timeout=0.2, waits=(0.0, 0.0))
    assert "\n" not in str(told.value) and server.address() in str(told.value) and "--data PATH" in str(told.value)
    assert not files(tmp_path)
    assert len(server.asked) == tries


def test_a_redirection_in_a_circle_ends(server: Server, tmp_path: Path) -> None:
    server.answers = [leads_to("/set.json")]
    with pytest.raises(StorageError, match="cannot fetch") as told:
        download(server.source(), tmp_path, waits=(0.0, 0.0))
    assert "\n" not in str(told.value) and not files(tmp_path)


def test_waits_lie_between_the_tries(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    server.answers = [gives(b"", 500)]
    with pytest.raises(StorageError):
        download(server.source(), tmp_path)
    assert slept == list(module.WAITS) and slept == sorted(slept) and len(server.asked) == len(slept) + 1


def test_other_content_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.answers = [gives(CONTENT + b" ")]
    with pytest.raises(StorageError, match=f"is not the expected file .*expected {SHA256}.*nothing of it was kept"):
        download(server.source(), tmp_path)
    assert not files(tmp_path) and len(server.asked) == 1


@pytest.mark.parametrize("page", [b"", b"<html>log in</html>", b"version https://git-lfs.github.com/spec/v1\noid 1"])
def test_what_is_no_json_is_not_trusted(server: Server, tmp_path: Path, page: bytes) -> None:
    server.answers = [gives(page)]
    with pytest.raises(StorageError, match="no JSON; nothing of it was kept"):
        download(server.source(sha256=None), tmp_path)
    assert not files(tmp_path)


def test_the_first_download_is_what_later_ones_are_checked_with(server: Server, tmp_path: Path) -> None:
    server.answers = [gives(), gives(CONTENT + b" ")]
    path = download(server.source(sha256=None), tmp_path)
    noted = path.with_name("set.json.sha256")
    assert noted.read_text() == f"{SHA256}\n"
    path.unlink()
    with pytest.raises(StorageError, match=r"is not the expected file .*set\.json\.sha256 to take the new one"):
        download(server.source(sha256=None), tmp_path)
    assert files(tmp_path) == ["set.json.sha256"]
    noted.unlink()
    assert download(server.source(sha256=None), tmp_path).read_bytes() == CONTENT + b" "
    noted.unlink()  # as if killed between the two
    download(server.source(sha256=None), tmp_path)
    assert noted.read_text().strip() == hashlib.sha256(CONTENT + b" ").hexdigest() and len(server.asked) == 3


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_kept_file_that_was_changed_is_told(server: Server, tmp_path: Path, sha256: str | None) -> None:
    server.answers = [gives()]
    path = download(server.source(sha256=sha256), tmp_path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(StorageError, match="was changed since it was fetched: remove it"):
        download(server.source(sha256=sha256), tmp_path)


def test_an_interruption_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.answers = [gives()]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.source(), tmp_path, told=interrupt)
    assert not files(tmp_path)


def test_without_a_network_it_is_said_at_once(tmp_path: Path) -> None:
    source = Source("set", "qaedit", (Published("http://name.invalid/set.json", None),), "MIT")
    with pytest.raises(StorageError, match=r"is there a network\? .*--data PATH"):
        download(source, tmp_path, waits=(60.0,))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        download(SOURCES["zsre"], tmp_path / "file")


def test_a_set_is_read_by_its_name(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = [gives()]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(reading.SOURCES, "zsre", server.source())
    told: list[str] = []
    data = read("zsre", told=lambda file, *_: told.append(file))
    assert data.name == "zsre" and data.sha256 == SHA256 and len(data.records) == 5000 and set(told) == {"set.json"}
    assert data.path == tmp_path / "rome_engine" / "datasets" / "set" / "set.json"


@pytest.mark.parametrize("other", [b'{"error": "rate limited"}', b'[{"error": "rate limited"}]'])
def test_what_holds_no_record_is_not_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bytes
) -> None:
    """JSON that is something else must not become what all later downloads are checked with."""
    server.answers = [gives(other), gives()]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(reading.SOURCES, "zsre", server.source(sha256=None))
    with pytest.raises((BenchError, StorageError), match=r"no usable record|no JSON list"):
        read("zsre")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(read("zsre").records) == 5000


def test_the_published_sets() -> None:
    for name, source in SOURCES.items():
        assert name == source.name and source.licence and source.files
        assert source.schema in {*(schema.name for schema in reading.SCHEMAS), "lre", None}
        assert source.schema == "lre" or len(source.files) == 1
        for file in source.files:
            assert file.address.startswith("https://") and file.file.endswith(".json")
            assert file.sha256 is None or (len(file.sha256) == 64 and set(file.sha256) <= set("0123456789abcdef"))
    addresses = [file.address for source in SOURCES.values() for file in source.files]
    assert len(set(addresses)) == len(addresses)
