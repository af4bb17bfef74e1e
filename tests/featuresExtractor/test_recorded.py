"""The `.json` beside the features, and whether features already there may be used again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import InputError
from common.storage.files import write_json
from featuresExtractor import recorded
from featuresExtractor.backbones.weights.loading import Weights
from featuresExtractor.extractor import Report
from featuresExtractor.images.folders.dataset import Dataset, Skipped, find_images
from featuresExtractor.job import Job
from featuresExtractor.models import Backbone, as_in_the_paper, find_model
from featuresExtractor.processor import PcaPlan, parse_processor
from featuresExtractor.transforms import PAPER_224

MODEL = find_model("clip_rn50x4")
WEIGHTS = Weights("openai", sha256="ab12")


WORDS = {"raw": ["save"], "pooled": ["pca", "4"], "normalised": ["adapt"]}


def job_of(
    model: Backbone,
    dataset: Dataset,
    views: int = 1,
    activation: str = "normalised",
    words: Sequence[str] = (),
    **more: Any,
) -> Job:
    processor = parse_processor(words or WORDS[activation])
    return Job(model, processor, dataset, Path("out"), torch.device("cpu"), views, **more)


def settings(model: Backbone, weights: Weights, dataset: Dataset, views: int, activation: str = "normalised") -> Any:
    return recorded.settings_of(job_of(model, dataset, views, activation), weights)


def record_reduced(
    path: Path, features: Path, components: int, variance: float, flags: Any, digest: str, layer: str | None = None
) -> None:
    """Writes what is recorded of features that a PCA made."""
    job = job_of(MODEL, Dataset(Path(), ("left",), []), words=["adapt-pca", str(components)], flags=flags)
    part = PcaPlan("features", 0, 1, path.stem, "pca", layer)
    source = recorded.source_record(features.with_suffix(".json"))
    write_json(path.with_suffix(".json"), recorded.reduced_record(job, part, source, digest, "0" * 64, variance))


@pytest.fixture
def dataset(pairs: Callable[..., Path]) -> Dataset:
    return find_images(pairs(2))


@pytest.fixture
def features(tmp_path: Path, dataset: Dataset) -> Path:
    """A features file with its `.json`."""
    path = tmp_path / "out" / "features.npy"
    path.parent.mkdir()
    path.write_bytes(b"features")
    job, chosen = job_of(MODEL, dataset, flags={"seed": 0}), settings(MODEL, WEIGHTS, dataset, 2)
    write_json(
        path.with_suffix(".json"), recorded.record_of(job, chosen, WEIGHTS, Report(2), digest(path), "channels last")
    )
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def facts(path: Path) -> Any:
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def test_settings_are_what_the_numbers_depend_on(dataset: Dataset) -> None:
    chosen = settings(MODEL, WEIGHTS, dataset, 1)
    assert chosen["model"] == "clip_rn50x4"
    assert chosen["layers"] == {"layer1": 320, "layer2": 640, "layer3": 1280, "layer4": 2560, "attnpool": 640}
    assert chosen["weights"] == {"sha256": "ab12", "seed": None}
    assert chosen["preprocessing"]["resize"] == 288
    assert chosen["preprocessing"]["interpolation"] == "bicubic"
    assert chosen["views"] == ["original"]
    assert chosen["precision"] == "fp32"
    assert chosen["network"] == {"library": "open_clip", "architecture": "RN50x4", "tag": "openai"}
    assert chosen["preprocess"] == "own"
    assert chosen["tokens"] == {"pooled": "mean", "not of the picture": 0}
    assert chosen["dataset"] == {"kind": "pairs", "found": 2, "fingerprint": dataset.fingerprint()}
    assert settings(MODEL, WEIGHTS, dataset, 2)["views"] == ["original", "flipped"]


def test_settings_tell_what_became_of_the_layers(dataset: Dataset) -> None:
    told = {name: settings(MODEL, WEIGHTS, dataset, 1, name)["pooling"] for name in ("raw", "pooled", "normalised")}
    assert told == {
        "raw": "none: each layer as it is",
        "pooled": "mean over space",
        "normalised": "mean over space, then unit L2 length, each layer",
    }
    assert settings(MODEL, WEIGHTS, dataset, 1)["pooling"] == told["normalised"]


def test_settings_tell_the_papers_preprocessing(dataset: Dataset) -> None:
    paper = as_in_the_paper(find_model("resnet18"))
    chosen = settings(paper, WEIGHTS, dataset, 1)
    assert chosen["preprocess"] == "paper"
    assert (chosen["preprocessing"]["squash"], chosen["preprocessing"]["crop"]) == (True, 224)
    assert settings(as_in_the_paper(MODEL), WEIGHTS, dataset, 1)["preprocess"] == "own"


def test_facts_tell_settings_versions_flags_and_what_was_left_out(tmp_path: Path, dataset: Dataset) -> None:
    orphaned, broken = Skipped("left/é.png", "no partner"), Skipped("right/b.png", "truncated")
    chosen = settings(MODEL, WEIGHTS, dataset, 2)
    report = Report(1, [broken])
    notes = Skipped("left/notes.txt", "not an image")
    some = replace(dataset, skipped=(orphaned,), not_read=(notes,))
    job = job_of(MODEL, some, flags={"seed": 3})
    write_json(tmp_path / "f.json", recorded.record_of(job, chosen, WEIGHTS, report, "ab12", "channels last"))
    told = facts(tmp_path / "f.npy")
    assert (told["sha256"], told["weights_origin"], told["not_read"]) == ("ab12", "openai", [asdict(notes)])
    assert told["settings"] == json.loads(json.dumps(chosen))
    assert told["skipped"] == [
        {"name": "left/é.png", "reason": "no partner"},
        {"name": "right/b.png", "reason": "truncated"},
    ]
    assert (told["written"], told["flags"]) == (1, {"seed": 3})
    assert told["versions"]["torch"] == torch.__version__.split("+")[0]


def test_reduced_features_tell_their_source_too(features: Path) -> None:
    reduced = features.with_name("features_pca4.npy")
    record_reduced(reduced, features, 4, 0.75, {"overwrite": True}, "cd34")
    told = facts(reduced)
    pca = told.pop("pca")
    assert pca.pop("versions")["torch"] == torch.__version__.split("+")[0]
    assert pca == {
        "flags": {"overwrite": True},
        "components": 4,
        "sha256": "0" * 64,
        "layer": "all",
        "fitted_on": "all vectors of the source, all sides and views",
        "whitening": False,
        "explained_variance": 0.75,
        "source": "features.npy",
        "source_sha256": hashlib.sha256(b"features").hexdigest(),
    }
    assert told == {**facts(features), "sha256": "cd34"}


def test_reduced_features_of_a_source_that_tells_no_digest_tell_that_of_its_file(features: Path) -> None:
    write_json(
        features.with_suffix(".json"), {name: fact for name, fact in facts(features).items() if name != "sha256"}
    )
    reduced = features.with_name("features_pca4.npy")
    record_reduced(reduced, features, 4, 0.75, {}, "cd34")
    assert facts(reduced)["pca"]["source_sha256"] == digest(features)


def test_features_reduced_from_one_layer_tell_which(features: Path) -> None:
    reduced = features.with_name("pca4_layer3.npy")
    record_reduced(reduced, features, 4, 0.5, {}, "cd34", "layer3")
    assert facts(reduced)["pca"]["layer"] == "layer3"


def test_no_file_is_not_the_same(tmp_path: Path, dataset: Dataset) -> None:
    assert not recorded.same_features(tmp_path / "f.npy", settings(MODEL, WEIGHTS, dataset, 2))


def test_file_made_in_the_same_way_is_the_same(features: Path, dataset: Dataset) -> None:
    assert recorded.same_features(features, settings(MODEL, WEIGHTS, dataset, 2))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"library": "timm"}, "network library: open_clip there, timm asked"),
        ({"architecture": "RN50"}, "network architecture: RN50x4 there, RN50 asked"),
        ({"tag": "yfcc15m"}, "network tag: openai there, yfcc15m asked"),
        ({"tokens": "class"}, "tokens pooled: mean there, class asked"),
        ({"prefix": 1}, "tokens not of the picture: 0 there, 1 asked"),
        (
            {"preprocessing": PAPER_224},
            "preprocess: own there, paper asked; preprocessing resize: 288 there, 224 asked",
        ),
        ({"layers": {**MODEL.layers, "layer1": 321}}, "layers layer1: 320 there, 321 asked"),
    ],
)
def test_another_network_pooling_or_preprocessing_is_named(
    change: dict[str, Any], named: str, features: Path, dataset: Dataset
) -> None:
    chosen = settings(replace(MODEL, **change), WEIGHTS, dataset, 2)
    with pytest.raises(InputError, match=rf"already there, made with other settings \({named}.*\); --overwrite"):
        recorded.same_features(features, chosen)


def test_pooled_and_normalised_layers_are_not_the_same(features: Path, dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"made with other settings \(pooling: .*\); --overwrite"):
        recorded.same_features(features, settings(MODEL, WEIGHTS, dataset, 2, "pooled"))


@pytest.mark.parametrize("field", ["licence", "source", "family"])
def test_what_the_numbers_do_not_depend_on_makes_no_other_features(
    field: str, features: Path, dataset: Dataset
) -> None:
    same = replace(MODEL, **{field: "x", "weights": "elsewhere"})  # type: ignore[arg-type]
    assert recorded.same_features(features, settings(same, WEIGHTS, dataset, 2))


def test_every_other_setting_is_named(features: Path, dataset: Dataset) -> None:
    other = replace(MODEL, layers={"layer1": 320}, preprocessing=replace(MODEL.preprocessing, crop=224))
    dataset.items[0][0].write_bytes(b"changed")
    chosen = settings(other, replace(WEIGHTS, sha256="cd34"), find_images(dataset.root), 1)
    with pytest.raises(InputError) as caught:
        recorded.same_features(features, chosen)
    told = str(caught.value)
    assert told.startswith(f"{features}: already there, made with other settings (")
    assert told.endswith("); --overwrite replaces it")
    for name in ("layers layer2", "weights sha256", "preprocessing crop", "views", "dataset fingerprint"):
        assert f"{name}: " in told


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"settings"', "\0"])
def test_file_of_unknown_origin_is_refused(content: str | None, features: Path, dataset: Dataset) -> None:
    features.with_suffix(".json").unlink()
    if content is not None:
        features.with_suffix(".json").write_text(content)
    with pytest.raises(InputError, match=r"features\.npy: already there, and no \.json beside it says how it was made"):
        recorded.same_features(features, settings(MODEL, WEIGHTS, dataset, 2))


def test_file_that_was_changed_since_is_not_used_again(features: Path, dataset: Dataset) -> None:
    chosen = settings(MODEL, WEIGHTS, dataset, 2)
    told = digest(features)[:8]
    features.write_bytes(b"Features")
    with pytest.raises(InputError) as caught:
        recorded.same_features(features, chosen)
    assert str(caught.value) == (
        f"{features}: was changed or damaged since it was written (its SHA-256 begins with {digest(features)[:8]}, and "
        f"its .json says {told}); get it again, or extract it again with --overwrite"
    )


def test_file_of_which_no_digest_is_told_is_used_again(features: Path, dataset: Dataset) -> None:
    """As those of before."""
    write_json(
        features.with_suffix(".json"), {name: fact for name, fact in facts(features).items() if name != "sha256"}
    )
    features.write_bytes(b"Features")
    assert recorded.same_features(features, settings(MODEL, WEIGHTS, dataset, 2))


@pytest.fixture
def reduced(features: Path) -> Path:
    """Reduced features with their `.json`."""
    path = features.with_name("features_pca4.npy")
    path.write_bytes(b"reduced")
    record_reduced(path, features, 4, 0.75, {}, digest(path))
    return path


def test_reduced_features_are_made_from_their_source_alone(reduced: Path, features: Path) -> None:
    assert recorded.is_made_from(reduced, features)
    write_json(features.with_suffix(".json"), {**facts(features), "sha256": "another"})
    assert not recorded.is_made_from(reduced, features)


def test_source_that_tells_no_digest_is_looked_at(reduced: Path, features: Path) -> None:
    write_json(
        features.with_suffix(".json"), {name: fact for name, fact in facts(features).items() if name != "sha256"}
    )
    assert recorded.is_made_from(reduced, features)
    features.write_bytes(b"Features")
    assert not recorded.is_made_from(reduced, features)


def test_reduced_features_that_were_changed_or_are_gone_are_not_made_from_it(reduced: Path, features: Path) -> None:
    reduced.write_bytes(b"Reduced")
    assert not recorded.is_made_from(reduced, features)
    reduced.unlink()
    assert not recorded.is_made_from(reduced, features)


@pytest.mark.parametrize(
    "content", ["", "[]", "5", '{"sha256"', '{"sha256": 5, "pca": 5}', '{"sha256": "ab", "pca": {}}', "{}", "\0", None]
)
@pytest.mark.parametrize("of", ["reduced", "source"])
def test_record_that_tells_nothing_makes_no_reduced_features(
    of: str, content: str | None, reduced: Path, features: Path
) -> None:
    record = (reduced if of == "reduced" else features).with_suffix(".json")
    record.unlink()
    if content is not None:
        record.write_text(content)
    told = content is not None and of == "source" and content in ("{}",)  # as those of before, without a digest
    assert recorded.is_made_from(reduced, features) == told
