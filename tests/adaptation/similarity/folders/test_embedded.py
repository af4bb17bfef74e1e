"""The files of embedded images: what is not ours is never replaced unasked, and what is opened belongs together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adaptation import Similarity
from adaptation.similarity.folders.embedded import is_unchanged, open_embedded, read_states
from common.errors import InputError

Run = Callable[..., int]


@pytest.fixture
def out(tmp_path: Path, run: Run) -> Path:
    """The embeddings of the left images."""
    assert run("embed", "-d", tmp_path / "pairs" / "left", "-s", tmp_path / "out") == 0
    return tmp_path / "out"


@pytest.mark.parametrize("name", ["images.npy", "frozen.npy", "frozen.json", "embeddings.parquet", "embeddings.npy"])
def test_files_of_the_user_are_replaced_only_when_asked(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    mine = tmp_path / "mine" / name
    mine.parent.mkdir()
    mine.write_text("mine")
    words = ("embed", "-d", tmp_path / "pairs" / "left", "-s", mine.parent)
    assert run(*words) == 2
    assert "give another folder, or --overwrite" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in mine.parent.iterdir()] == [name]
    assert mine.read_text() == "mine"
    assert run(*words, "--overwrite") == 0


def test_names_paths_and_states_are_those_of_the_images(tmp_path: Path, out: Path, loaded: Similarity) -> None:
    images = sorted((tmp_path / "pairs" / "left").iterdir())
    embedded = open_embedded(out, loaded)
    assert len(embedded) == 16
    assert embedded.paths("features") == images
    assert embedded.names("features", np.array([3, 1])) == [images[3].name, images[1].name]
    states = read_states(embedded)
    assert states is not None
    for image, state in zip(images, states[:, 0], strict=True):
        assert (image.stat().st_size, image.stat().st_mtime_ns) == tuple(state)
        assert is_unchanged(image, state)
    images[0].unlink()
    assert not is_unchanged(images[0], states[0, 0])


def test_a_record_is_asked_who_made_the_embeddings(out: Path, loaded: Similarity) -> None:
    (out / "embeddings.json").unlink()
    with pytest.raises(InputError, match=r"no \.json beside embeddings\.npy says which similarity made it"):
        open_embedded(out, loaded)


def test_parts_of_two_calls_do_not_belong_together(tmp_path: Path, run: Run, out: Path, loaded: Similarity) -> None:
    (tmp_path / "pairs" / "left" / "a1.png").unlink()
    assert run("embed", "-d", tmp_path / "pairs" / "left", "-s", tmp_path / "fewer") == 0
    for name in ("frozen.npy", "frozen.json"):
        (out / name).write_bytes((tmp_path / "fewer" / name).read_bytes())
    with pytest.raises(InputError, match=r"frozen\.npy and embeddings.npy do not belong together"):
        open_embedded(out, loaded)


def test_embeddings_of_a_features_file_know_no_paths(tmp_path: Path, run: Run, loaded: Similarity) -> None:
    assert run("embed", "-d", tmp_path / "features" / "tiny" / "features.npy", "-s", tmp_path / "out") == 0
    embedded = open_embedded(tmp_path / "out", loaded)
    assert read_states(embedded) is None
    with pytest.raises(InputError, match="does not say where its images are"):
        embedded.paths("left")


def test_a_disk_that_does_not_hold_the_embeddings_is_told_before_they_are_written(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=60_000))
    words = ("embed", "-d", tmp_path / "pairs" / "left", "-s", tmp_path / "out")
    assert run(*words) == 2  # 16 images take 21 kB as features, and 67 kB as embeddings
    assert "out: the embeddings take" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".features"]
    monkeypatch.undo()
    assert json.loads((next((tmp_path / "out" / ".features").iterdir()) / "features.json").read_text())["written"] == 16
