"""Which files a folder stands for, and what models are called whatever a stranger wrote into a `.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from adaptation.data.sources import Source, find_sources, folder_name
from adaptation.reporting import run_folder as results
from common.errors import InputError


def touch(path: Path, facts: Any = None) -> Path:
    """A file of the name, and with `facts` the `.json` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    if facts is not None:
        path.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
    return path


def of(model: object) -> dict[str, Any]:
    return {"settings": {"model": model}}


def paths(*given: Path, reduced: bool = True, components: int | None = None) -> list[Path]:
    return [source.path for source in find_sources(given, reduced, components)]


def labels(*given: Path) -> list[str]:
    return [source.label for source in find_sources(given)]


def refused(*given: Path, reduced: bool = True) -> str:
    with pytest.raises(InputError) as told:
        find_sources(given, reduced)
    assert str(told.value).isprintable()
    return str(told.value)


# ---- files


def test_of_each_model_the_reduced_file_where_there_is_one(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "features.npy")
    reduced = touch(tmp_path / "a" / "features_pca64.npy")
    for other in ("pca64_layer1.npy", "save_layer1.npy", "pooled.npy", "features_pca32.partial.npy", "pca64.skops"):
        touch(tmp_path / "a" / other)
    plain = touch(tmp_path / "b" / "features.npy")
    touch(tmp_path / "b" / "features.partial.npy")
    touch(tmp_path / "c" / "pooled.npy")
    assert paths(tmp_path) == [reduced, plain]
    assert paths(tmp_path / "a") == [reduced]
    assert paths(tmp_path, reduced=False) == [tmp_path / "a" / "features.npy", plain]


def test_a_file_that_is_given_is_taken_whatever_its_name(tmp_path: Path) -> None:
    layer = touch(tmp_path / "a" / "pca64_layer1.npy")
    assert paths(layer) == [layer]
    assert paths(tmp_path / "nowhere.npy") == [tmp_path / "nowhere.npy"]  # whose reading will tell


def test_several_reduced_files_are_named(tmp_path: Path) -> None:
    for number in (64, 128):
        touch(tmp_path / "a" / f"features_pca{number}.npy")
    told = f"{tmp_path / 'a'}: several reduced files; choose by --components 64, --components 128, or give the file"
    assert refused(tmp_path).startswith(told)
    chosen = [tmp_path / "a" / f"features_pca{number}.npy" for number in (128, 64)]
    assert paths(*chosen) == chosen
    assert paths(tmp_path, components=64) == [chosen[1]]


@pytest.mark.parametrize("folder", ["a", "b"])
def test_components_that_no_file_has_are_refused_with_the_way_to_them(tmp_path: Path, folder: str) -> None:
    touch(tmp_path / "a" / "features_pca64.npy")
    touch(tmp_path / "b" / "features.npy")
    told = {
        "a": "no features_pca8.npy here; choose by --components 64, or give the file itself: features_pca64.npy",
        "b": "no features_pca8.npy here; extract.py -p adapt-pca 8 makes one",
    }
    with pytest.raises(InputError) as caught:
        find_sources([tmp_path / folder], components=8)
    assert str(caught.value) == f"{tmp_path / folder}: {told[folder]}"


def test_components_choose_nothing_among_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--components 8: chooses a file of a folder, and no folder is given"):
        find_sources([touch(tmp_path / "a" / "features_pca8.npy")], components=8)


@pytest.mark.parametrize("names", [[], ["pooled.npy"], ["features.partial.npy"], ["features_pca8.partial.npy"]])
def test_a_folder_without_features_files_is_refused(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "a").mkdir()
    for name in names:
        touch(tmp_path / "a" / name)
    assert refused(tmp_path) == (
        f"{tmp_path}: no features files here; extract.py -p adapt or adapt-pca N makes <model>/features.npy "
        "(a file of -p pca N must be given itself)"
    )


def test_a_pca_of_ones_own_needs_the_features_themselves(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "features.npy")
    touch(tmp_path / "b" / "features_pca8.npy")
    assert refused(tmp_path, reduced=False).startswith(f"{tmp_path / 'b'}: has no features.npy, which --pca-fit train")


def test_a_models_folder_may_lie_two_folders_deep(tmp_path: Path) -> None:
    deep = touch(tmp_path / "timm" / "vit" / "features.npy")
    touch(tmp_path / "timm" / "vit" / "more" / "features.npy")
    touch(tmp_path / "a" / "b" / "c" / "features.npy")
    touch(tmp_path / ".hidden" / "features.npy")
    assert paths(tmp_path) == [deep]


def test_a_file_that_is_meant_twice_is_taken_once(tmp_path: Path) -> None:
    file = touch(tmp_path / "a" / "features.npy")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert paths(file, tmp_path, tmp_path / "a", tmp_path / "link" / "features.npy") == [file]


# ---- labels


def test_the_label_is_the_model_the_json_names(tmp_path: Path) -> None:
    file = touch(tmp_path / "a" / "features.npy", of("timm/vit_base_patch14_dinov2.lvd142m"))
    (source,) = find_sources([file])
    assert source.label == "timm/vit_base_patch14_dinov2.lvd142m"
    assert source.folder == "timm-vit_base_patch14_dinov2.lvd142m"


@pytest.mark.parametrize("facts", [None, {}, {"settings": 3}, of(None), of(7), of(""), of(" "), of(["a"])])
def test_without_a_model_in_the_json_it_is_the_folder(tmp_path: Path, facts: Any) -> None:
    assert labels(touch(tmp_path / "vit" / "features.npy", facts)) == ["vit"]


@pytest.mark.parametrize("written", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"3"])
def test_a_damaged_json_is_told(tmp_path: Path, written: bytes) -> None:
    """Without it nothing tells whether the features are whole."""
    file = touch(tmp_path / "vit" / "features.npy")
    file.with_suffix(".json").write_bytes(written)
    with pytest.raises(InputError, match=r"features\.json: damaged; get it again"):
        find_sources([file])


def test_without_a_folder_it_is_the_stem() -> None:
    assert labels(Path("/features.npy")) == ["features"]


def test_models_of_one_name_are_told_apart_by_stem_then_by_folder(tmp_path: Path) -> None:
    one = touch(tmp_path / "x" / "m" / "features.npy", of("m"))
    two = touch(tmp_path / "x" / "m" / "features_pca8.npy", of("m"))
    assert labels(one, two) == ["m features", "m features_pca8"]
    three = touch(tmp_path / "y" / "m" / "features.npy", of("m"))
    found = {source.path: source.label for source in find_sources([one, two, three])}
    assert found == {one: "m x/m/features.npy", two: "m features_pca8", three: "m y/m/features.npy"}
    assert [source.folder for source in find_sources([one, three])] == ["m-x-m-features.npy", "m-y-m-features.npy"]


def test_folders_that_tell_models_apart_are_shown_without_control_characters(tmp_path: Path) -> None:
    files = [touch(tmp_path / name / "m" / "features.npy", of("m")) for name in ("x\x1b[2J", "y\n")]
    assert all(source.label.isprintable() for source in find_sources(files))


@pytest.mark.parametrize(("one", "other"), [("a/b", "a-b"), ("a b", "a/b"), ("Vit", "vit"), ("x", "../x")])
def test_names_that_would_share_a_folder_are_told_apart(tmp_path: Path, one: str, other: str) -> None:
    files = [touch(tmp_path / name / f"{name}.npy", of(model)) for name, model in (("p", one), ("q", other))]
    folders = [source.folder.casefold() for source in find_sources(files)]
    assert len(set(folders)) == 2


def test_a_name_made_to_look_like_anothers_is_told_apart(tmp_path: Path) -> None:
    files = [
        touch(tmp_path / name / "features.npy", of(model))
        for name, model in (("p", "m"), ("q", "m"), ("r", "m features"), ("s", "m p/features.npy"))
    ]
    assert len({source.folder for source in find_sources(files)}) == 4


def test_the_order_in_which_they_are_given_means_nothing(tmp_path: Path) -> None:
    files = [touch(tmp_path / name / "features.npy", of(model)) for name, model in (("p", "b"), ("q", "a"), ("r", "b"))]
    assert find_sources(files) == find_sources(files[::-1])


HOSTILE = [
    "../x",
    "../../../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "/",
    ".hidden",
    "-rf",
    "a/../../b",
    "a\nb",
    "\x1b[2Jgone",
    "a\x00b",
    "\u202egpj",
    "\ud800",
    "run1",
    "RUN1",
    "avg",
    "run12",
    "summary.json",
    "curves.png",
    "comparison.txt",
    "comparison.json",
    ".unfinished",
    "C:\\x",
    "é" * 400,
    "🦊" * 400,
    "$x^$ & \\input{a}",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_one_harmless_folder_and_a_printable_label(tmp_path: Path, name: str) -> None:
    (source,) = find_sources([touch(tmp_path / "a" / "features.npy", of(name))])
    assert source.label.isprintable()
    run = tmp_path / "run"
    run.mkdir()
    (run / source.folder).mkdir()  # which fails for a name that is too long
    assert (run / source.folder).resolve().parent == run
    assert [path.name for path in run.iterdir()] == [source.folder]
    assert not source.folder.startswith((".", "-"))
    assert results.own_parts(run) == []
    assert not source.folder.lower().startswith(("comparison.", "summary.", "curves."))


@pytest.mark.parametrize("name", ["run", "runner1", "avg2", "clip_rn50x4", "vit.lvd142m", "été"])
def test_an_ordinary_name_is_its_folder(name: str) -> None:
    assert folder_name(name) == name


# ---- the protocol of the PCA


@pytest.mark.parametrize(
    ("facts", "protocol"),
    [
        ({**of("m"), "pca": {"components": 8}}, "all images"),
        ({**of("m"), "pca": {"components": 8, "fitted_on": "given"}}, "given"),
        ({**of("m"), "pca": "mine"}, "all images"),
        (of("m"), "none"),
        (None, "unknown"),
    ],
)
def test_the_protocol_is_read_from_the_json(tmp_path: Path, facts: Any, protocol: str) -> None:
    assert Source(touch(tmp_path / "features.npy", facts), "m").protocol == protocol


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"weights": {"sha256": "ab", "seed": None}, "preprocess": "own"}, "resnet18"),
        ({"weights": {"sha256": None, "seed": 0}, "preprocess": "own"}, "resnet18 (random weights)"),
        ({"weights": {"sha256": "ab", "seed": None}, "preprocess": "paper"}, "resnet18 (paper's preprocessing)"),
        (
            {"weights": {"sha256": None, "seed": 3}, "preprocess": "paper"},
            "resnet18 (random weights, paper's preprocessing)",
        ),
        ({"weights": "seed"}, "resnet18"),
        ({"backbones": [{"weights": {"seed": None}}, {"weights": {"seed": 3}}]}, "resnet18 (random weights)"),
        ({"backbones": [{"preprocess": "own"}, {"preprocess": "paper"}]}, "resnet18 (paper's preprocessing)"),
        ({"backbones": [3, {"weights": 5}]}, "resnet18"),
        ({"backbones": "all", "weights": {"seed": 3}}, "resnet18 (random weights)"),
    ],
)
def test_what_is_unusual_about_a_model_is_part_of_its_label(tmp_path: Path, settings: Any, label: str) -> None:
    (source,) = find_sources([touch(tmp_path / "features.npy", {"settings": {"model": "resnet18", **settings}})])
    assert source.label == label
    assert source.folder == re.sub("[^a-z0-9]+", "-", label).strip("-")
