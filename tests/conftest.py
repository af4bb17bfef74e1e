"""Small things that many tests need: images, a tiny backbone, empty caches, and one CLIP RN50x4 for all of them."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.console import logged
from featuresExtractor import models
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.images import kinds
from featuresExtractor.transforms import Preprocessing

CLIP_SEED = 3
HALF = (0.5, 0.5, 0.5)
TINY = Backbone(
    name="tiny",
    family="test",
    library="timm",
    architecture="test_resnet",
    tag="",
    weights="package:no_such_package/weights.pth",
    layers={"layer1": 32, "layer3": 192, "layer4": 96},
    preprocessing=Preprocessing(36, 32, "bicubic", HALF, HALF),
    licence="none",
    source="none",
    paper=False,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that are marked for a GPU are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no GPU"))


def draw_image(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    """Writes random coarse RGB blocks of `size` (width, height) in the format of the path's suffix."""
    generator = np.random.default_rng(seed)
    blocks = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks.resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heeded() -> None:
    """Also where the suite runs in the background, for which shells have Ctrl-C ignored by all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _messages_are_shown() -> Iterator[None]:
    """What the packages log is printed as it is by the commands."""
    with logged():
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Tests reach this machine alone."""
    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test asked {address} of the network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", checked)
        yield


@pytest.fixture(scope="session")
def image() -> Callable[..., Path]:
    """`image(path, size, seed)` writes a random image and returns its path."""
    return draw_image


@pytest.fixture
def pairs(tmp_path: Path) -> Callable[..., Path]:
    """`pairs(n)` makes a folder of n random pairs a0.png, a1.png, ... of odd sizes and returns it."""

    def make(count: int = 3) -> Path:
        for number in range(count):
            draw_image(tmp_path / "pairs" / "left" / f"a{number}.png", (41 + number, 33), 2 * number)
            draw_image(tmp_path / "pairs" / "right" / f"a{number}.png", (35, 52 - number), 2 * number + 1)
        return tmp_path / "pairs"

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: small networks gain little by more, and lose much where other programs are at work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Backbone:
    """A row `tiny` in the table of models: a network of 0.5 M parameters at 32 pixels."""
    monkeypatch.setattr(models, "BACKBONES", (*models.BACKBONES, TINY))
    return TINY


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the libraries keep what they fetch: the model hub in its folder `hub`, torch in `torch`. Both empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "caches" / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "caches" / "torch"))
    return tmp_path / "caches"


@pytest.fixture(scope="session")
def clip() -> nn.Module:
    """The whole of open_clip's RN50x4, with its random weights of seed `CLIP_SEED`, in eval mode. Not to be changed."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(CLIP_SEED)
        model: nn.Module = open_clip.create_model("RN50x4")
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def clip_file(clip: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state dict of `clip` as a checkpoint: safetensors, half precision, both towers, as the model hub has it."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in clip.state_dict().items()
    }
    save_file(halves, path)
    yield path
    path.unlink()


@pytest.fixture
def heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The optional package pillow-heif, which `make` installs beside the others (.venv/heif), for one test alone."""
    monkeypatch.syspath_prepend(Path(sys.prefix) / "heif")
    package = pytest.importorskip("pillow_heif")
    caches = (kinds.read_heif, kinds.formats, kinds.suffixes)
    for cache in caches:
        cache.cache_clear()
    yield package
    for cache in caches:
        cache.cache_clear()
    Image.ID[:] = [name for name in Image.ID if name != "HEIF"]
    Image.OPEN.pop("HEIF", None)
    for suffix in [suffix for suffix, name in Image.EXTENSION.items() if name == "HEIF"]:
        del Image.EXTENSION[suffix]
    for name in [name for name in sys.modules if name.partition(".")[0] == "pillow_heif"]:
        del sys.modules[name]
