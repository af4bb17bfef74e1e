"""Files from URLs: whole, and what their source says they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from common.errors import InputError
from common.storage import files
from common.storage.files import sha256
from featuresExtractor.backbones.weights import download as download_module
from featuresExtractor.backbones.weights.download import Damaged, check_fetched, download, named_hash, revision

BODY = bytes(range(256)) * 5000


@pytest.fixture
def server() -> Iterator[Callable[[int], str]]:
    """`server(n)` gives a URL on this machine behind which the first n bytes of BODY are, and the length of all."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY[: int(self.path[1:].partition("/")[0])])

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield lambda count: f"http://127.0.0.1:{found.server_address[1]}/{count}/weights.pth"
        found.shutdown()


def test_whole_file_is_fetched(server: Callable[[int], str], tmp_path: Path) -> None:
    download(server(len(BODY)), tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").read_bytes() == BODY


def test_paths_may_be_text(server: Callable[[int], str], tmp_path: Path) -> None:
    path = str(tmp_path / "weights.pth")
    download(server(len(BODY)), path)
    assert Path(path).read_bytes() == BODY
    assert (named_hash("x/resnet18-f37072fd.pth"), revision("snapshots/c0ffee/w.pt")) == ("f37072fd", "@c0ffee")
    check_fetched(path, sha256(Path(path)))


@pytest.mark.parametrize("count", [0, 1, 2**20, len(BODY) - 1])
def test_file_that_was_cut_short_is_no_file(server: Callable[[int], str], tmp_path: Path, count: int) -> None:
    with pytest.raises(Damaged, match=f"ended after {count:,} of 1,280,000 bytes"):
        download(server(count), tmp_path / "weights.pth")
    assert list(tmp_path.iterdir()) == []


def test_file_that_was_cut_short_leaves_the_one_that_is_there(server: Callable[[int], str], tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"old")
    with pytest.raises(Damaged):
        download(server(7), tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").read_bytes() == b"old"


def test_two_processes_may_fetch_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins, and ends, while the first is at it: neither takes the other's half for the whole."""
    (tmp_path / "source").write_bytes(BODY)
    path, url, read = tmp_path / "cache" / "weights.pth", (tmp_path / "source").as_uri(), 0
    finish = files.finish_file

    def slow(partial: Path, target: Path) -> None:
        nonlocal read
        read += 1
        if read == 1:
            download(url, path)
            assert path.read_bytes() == BODY
        finish(partial, target)

    monkeypatch.setattr(download_module, "finish_file", slow)
    download(url, path)
    assert (read, path.read_bytes(), [*path.parent.iterdir()]) == (2, BODY, [path])


def blob(tmp_path: Path, name: str) -> Path:
    """A file as the hub's cache keeps it: a link in a snapshot to a blob that is called by its hash."""
    stored, link = tmp_path / "blobs" / name, tmp_path / "snapshots" / "c0ffee" / "model.safetensors"
    for path in (stored, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(BODY)
    link.symlink_to(stored)
    return link


def test_hub_publishes_the_hash_of_a_large_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)
    digest = sha256(tmp_path / "file")
    path = blob(tmp_path, digest)
    assert (named_hash(path), revision(path)) == (digest, "@c0ffee")
    check_fetched(path, sha256(path))
    path.write_bytes(BODY[:-1])
    with pytest.raises(InputError, match=r"damaged: its SHA-256 begins with .* remove it, and it is fetched again"):
        check_fetched(path, sha256(path))


def test_small_file_of_the_hub_is_called_by_another_hash(tmp_path: Path) -> None:
    path = blob(tmp_path, "a" * 40)
    assert named_hash(path) is None
    check_fetched(path, sha256(path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18-f37072fd.pth", "f37072fd"),
        ("efficientnet-lite0-57934424.pth", "57934424"),
        ("20180402-114759-vggface2.pt", None),
        ("resnet50.pth", None),
        ("vit-12345678.npz", None),
    ],
)
def test_hash_in_a_name(name: str, expected: str | None) -> None:
    assert named_hash(Path(name)) == expected
    assert revision(Path(name)) == ""
