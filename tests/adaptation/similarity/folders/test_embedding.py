"""Folders are embedded once, as the similarity embeds their images; only what is new or changed is embedded again."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

import extract
import similarity
import train
from adaptation import Similarity
from adaptation.similarity.folders import embedded as files
from adaptation.similarity.folders import embedding
from adaptation.similarity.learned.file import NAME, read_similarity, write_similarity
from common.storage.files import sha256
from featuresExtractor import pipeline, recorded
from featuresExtractor.features.features_file import open_features
from tests.conftest import draw_image

Run = Callable[..., int]
Image = Callable[..., Path]
OWN = ["embeddings.json", "embeddings.npy", "frozen.json", "frozen.npy", "images.npy"]


def left(tmp_path: Path) -> Path:
    return tmp_path / "pairs" / "left"


def rows(out: Path, name: str = "embeddings.npy") -> Any:
    return open_features(out / name).all()


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".npy"}


def one_line(text: str) -> str:
    """The last line of stderr, which is the error; bars and notes stand before it."""
    return text.strip().splitlines()[-1]


def test_embeddings_are_those_of_the_similarity_in_a_features_file(
    tmp_path: Path, run: Run, loaded: Similarity, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("embed", "-d", left(tmp_path), "-s", out) == 0
    assert f"16 embeddings of 1,024 dimensions: {out / 'embeddings.npy'}" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == OWN
    names = sorted(path.name for path in left(tmp_path).iterdir())
    frozen, adapted = loaded.embed_both([left(tmp_path) / name for name in names])
    assert rows(out)["name"].tolist() == names
    assert np.allclose(rows(out)["features"], adapted, atol=1e-6)
    assert np.allclose(rows(out, "frozen.npy")["features"], frozen, atol=1e-6)
    record = json.loads((out / "embeddings.json").read_text())
    assert record["sha256"] == sha256(out / "embeddings.npy")
    assert record["settings"]["similarity"] == loaded.sha256
    assert record["written"] == 16


def test_pairs_are_embedded_as_pairs_which_can_be_trained_on(tmp_path: Path, run: Run, learned: Path) -> None:
    out = tmp_path / "out"
    assert run("embed", "-d", tmp_path / "pairs", "-s", out) == 0
    assert rows(out)["left"].shape == (16, 1024)
    assert np.array_equal(rows(out)["left_name"], rows(out)["right_name"])
    data, save = str(out / "embeddings.npy"), str(tmp_path / "again")
    assert train.main(["-d", data, "-s", save, *["--model", "dummy", "--cpu", "-k", "1"]]) == 0


def test_only_new_and_changed_images_are_embedded_again(
    tmp_path: Path, run: Run, image: Image, seen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, fresh = left(tmp_path), tmp_path / "out", tmp_path / "fresh"
    assert run("embed", "-d", folder, "-s", out) == 0
    seen.clear()
    before = contents(out)
    assert run("embed", "-d", folder, "-s", out) == 0
    assert seen == []
    assert contents(out) == before
    assert "all 16 images are embedded here already" in capsys.readouterr().out
    image(folder / "a20.png", (50, 40), 99)
    image(folder / "a05b.png", (50, 40), 98)
    image(folder / "a3.png", (44, 33), 97)
    (folder / "a9.png").unlink()
    assert run("embed", "-d", folder, "-s", out) == 0
    assert sum(seen) == 3
    assert "14 of 17 images are embedded already" in capsys.readouterr().out  # a3 is another image now
    assert run("embed", "-d", folder, "-s", fresh) == 0
    assert rows(out)["name"].tolist() == sorted(path.name for path in folder.iterdir())
    assert np.array_equal(rows(out)["name"], rows(fresh)["name"])
    for name in ("embeddings.npy", "frozen.npy"):
        assert np.allclose(rows(out, name)["features"], rows(fresh, name)["features"], atol=1e-6)
    assert (out / "images.npy").read_bytes() == (fresh / "images.npy").read_bytes()


def test_images_are_not_embedded_into_their_own_folder(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = left(tmp_path)
    gallery = folder.rename(tmp_path / "gallery")
    before = sorted(os.listdir(gallery))
    for words in (("embed", "-d", gallery, "-s", gallery), ("search", "-q", gallery, "-g", gallery, "-s", tmp_path)):
        assert run(*words) == 2
        assert "gallery: holds the images; embeddings need a folder of their own (-s)" in capsys.readouterr().err
        assert sorted(os.listdir(gallery)) == before


def test_other_versions_and_devices_of_what_exists_are_reported(
    tmp_path: Path, run: Run, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = left(tmp_path), tmp_path / "out"
    assert run("embed", "-d", folder, "-s", out) == 0
    record = json.loads((out / "embeddings.json").read_text())
    record["device"] = "cuda (Some GPU)"
    record["versions"]["torch"] = "1.0"
    (out / "embeddings.json").write_text(json.dumps(record))
    image(folder / "new.png", (50, 40), 99)
    assert run("embed", "-d", folder, "-s", out) == 0
    error = capsys.readouterr().err
    assert "note: the last digits of new images may differ: device: cuda (Some GPU) there, cpu asked; torch" in error


def test_larger_images_are_admitted_when_asked(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedding, "MOST_PIXELS", 100)
    assert run("embed", "-d", left(tmp_path), "-s", tmp_path / "out") == 2
    assert "--max-pixels" in capsys.readouterr().err
    assert run("embed", "-d", left(tmp_path), "-s", tmp_path / "out", "--max-pixels", 10**6) == 0


def test_removed_images_ask_for_no_network(tmp_path: Path, run: Run, seen: list[int]) -> None:
    folder, out = left(tmp_path), tmp_path / "out"
    assert run("embed", "-d", folder, "-s", out) == 0
    seen.clear()
    (folder / "a2.png").unlink()
    assert run("embed", "-d", folder, "-s", out) == 0
    assert seen == []
    assert len(rows(out)) == 15


@pytest.mark.parametrize("where", ["extract", "write", "place"])
def test_what_was_cut_short_is_resumed(
    tmp_path: Path, run: Run, seen: list[int], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    words = ("embed", "-d", left(tmp_path), "-b", "4")
    assert run(*words, "-s", whole) == 0

    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "extract":
            calls = iter([None, None, KeyboardInterrupt])
            decoded = pipeline.extract_features

            def stopping(job: Any) -> Any:
                from featuresExtractor import extractor

                written = extractor._write

                def write(*args: Any) -> Any:
                    if next(calls) is not None:
                        raise KeyboardInterrupt
                    return written(*args)

                patch.setattr(extractor, "_write", write)
                return decoded(job)

            patch.setattr(embedding, "extract_features", stopping)
        elif where == "write":
            patch.setattr(files, "_write_states", end)
        else:
            patch.setattr("common.storage.staging.Staging._bring", end)
        assert run(*words, "-s", out) == 130
    assert not (out / "embeddings.npy").exists()
    seen.clear()
    assert run(*words, "-s", out) == 0
    assert sum(seen) == (8 if where == "extract" else 0)
    assert contents(out) == contents(whole)
    assert sorted(path.name for path in out.iterdir()) == OWN


def test_unreadable_images_are_named_or_skipped(
    tmp_path: Path, run: Run, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = left(tmp_path), tmp_path / "out"
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert run("embed", "-d", folder, "-s", out) == 2
    assert "cannot be read" in one_line(capsys.readouterr().err)
    assert not (out / "embeddings.npy").exists()
    assert run("embed", "-d", folder, "-s", out, "--on-error", "skip") == 0
    assert len(rows(out)) == 16
    assert json.loads((out / "embeddings.json").read_text())["skipped"][0]["name"] == "bad.png"
    (folder / "worse.png").write_bytes(b"")  # all of the new ones are unreadable now
    assert run("embed", "-d", folder, "-s", out, "--on-error", "skip") == 0
    skipped = json.loads((out / "embeddings.json").read_text())["skipped"]
    assert sorted(each["name"] for each in skipped) == ["bad.png", "worse.png"]
    assert len(rows(out)) == 16


def test_another_similarity_is_refused_and_replaces_when_asked(
    tmp_path: Path, run: Run, learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("embed", "-d", left(tmp_path), "-s", out) == 0
    before, other = contents(out), learned / "run1"
    assert run("embed", "-d", left(tmp_path), "-s", out, "-m", other) == 2
    assert "was embedded by another similarity" in one_line(capsys.readouterr().err)
    assert contents(out) == before
    assert run("embed", "-d", left(tmp_path), "-s", out, "-m", other, "--overwrite") == 0
    assert json.loads((out / "embeddings.json").read_text())["settings"]["similarity"] == Similarity.load(other).sha256


def test_pairs_do_not_replace_single_images(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("embed", "-d", left(tmp_path), "-s", out) == 0
    assert run("embed", "-d", tmp_path / "pairs", "-s", out) == 2
    assert "holds single images; give another folder, or --overwrite" in one_line(capsys.readouterr().err)
    assert run("embed", "-d", tmp_path / "pairs", "-s", out, "--overwrite") == 0
    assert rows(out).dtype.names[:2] == ("left", "right")


def test_damaged_embeddings_are_not_used_again(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("embed", "-d", left(tmp_path), "-s", out) == 0
    whole = contents(out)
    changed = bytearray(whole["frozen.npy"])
    changed[-9] ^= 1
    (out / "frozen.npy").write_bytes(changed)
    assert run("embed", "-d", left(tmp_path), "-s", out) == 2
    assert "frozen.npy: was changed or damaged" in one_line(capsys.readouterr().err)
    assert run("embed", "-d", left(tmp_path), "-s", out, "--overwrite") == 0
    assert contents(out) == whole


def test_states_of_another_kind_are_no_reason_to_believe(tmp_path: Path, run: Run, seen: list[int]) -> None:
    out = tmp_path / "out"
    assert run("embed", "-d", left(tmp_path), "-s", out) == 0
    for wrong in (b"", b"nothing", np.lib.format.magic(1, 0) + b"x"):
        seen.clear()
        (out / "images.npy").write_bytes(wrong)
        assert run("embed", "-d", left(tmp_path), "-s", out) == 0
        assert sum(seen) == 16


def test_embeddings_of_pairs_are_the_runs_own_features_to_the_byte(tmp_path: Path, run: Run) -> None:
    assert run("embed", "-d", tmp_path / "pairs", "-s", tmp_path / "images") == 0
    assert run("embed", "-d", features(tmp_path) / "features.npy", "-s", tmp_path / "file") == 0
    assert contents(tmp_path / "images")["embeddings.npy"] == contents(tmp_path / "file")["embeddings.npy"]
    assert contents(tmp_path / "images")["frozen.npy"] == contents(tmp_path / "file")["frozen.npy"]


def test_nothing_is_left_of_a_call_that_kept_nothing(tmp_path: Path, run: Run) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for more in ((), ("--on-error", "skip")):
        assert run("embed", "-d", tmp_path / "bad", "-s", tmp_path / "out", *more) == 2
        assert not (tmp_path / "out").exists()


def test_an_unreadable_image_is_no_reason_to_write_all_again(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = left(tmp_path), tmp_path / "out"
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    words = ("embed", "-d", folder, "-s", out, "--on-error", "skip")
    assert run(*words) == 0
    assert f"warning: 1 skipped; {out / 'embeddings.json'} lists which and why" in capsys.readouterr().err
    before = (out / "embeddings.npy").stat().st_mtime_ns
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert "all 16 images are embedded here already" in printed.out
    assert "1 skipped" in printed.err
    assert (out / "embeddings.npy").stat().st_mtime_ns == before
    (folder / "bad.png").unlink()
    assert run(*words) == 0
    assert json.loads((out / "embeddings.json").read_text())["skipped"] == []


def test_pairs_with_an_unreadable_image_or_without_a_partner_are_skipped(
    tmp_path: Path, run: Run, image: Image, seen: list[int]
) -> None:
    pairs, out = tmp_path / "pairs", tmp_path / "out"
    (pairs / "right" / "a3.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    image(pairs / "left" / "alone.png", (40, 30), 5)
    words = ("embed", "-d", pairs, "-s", out)
    assert run(*words) == 2
    assert not out.exists()
    assert run(*words, "--on-error", "skip") == 0
    skipped = json.loads((out / "embeddings.json").read_text())["skipped"]
    assert {each["name"] for each in skipped} == {"right/a3.png", "left/alone.png"}
    assert rows(out)["left_name"].tolist() == sorted({f"a{n}.png" for n in range(16)} - {"a3.png"})
    seen.clear()
    image(pairs / "right" / "a5.png", (40, 31), 55)  # one side has changed: the pair is read again
    assert run(*words, "--on-error", "skip") == 0
    assert sum(seen) == 2


def test_images_of_another_folder_are_embedded_though_name_size_and_time_are_the_same(
    tmp_path: Path, run: Run, seen: list[int]
) -> None:
    """As those of two archives may be: bitmaps are of one size, and a zip has no times of its own."""
    for folder, value in (("one", 0), ("two", 255)):
        (tmp_path / folder).mkdir()
        Pillow.new("RGB", (40, 30), (value, 90, 90)).save(tmp_path / folder / "a.bmp")
        os.utime(tmp_path / folder / "a.bmp", ns=(10**18, 10**18))
    out = tmp_path / "out"
    assert run("embed", "-d", tmp_path / "one", "-s", out) == 0
    first = rows(out)["features"].copy()
    assert run("embed", "-d", tmp_path / "two", "-s", out) == 0
    assert sum(seen) == 2
    assert not np.allclose(rows(out)["features"], first, atol=1e-3)


def test_images_of_a_folder_that_was_moved_are_not_embedded_again(tmp_path: Path, run: Run, seen: list[int]) -> None:
    folder, out = left(tmp_path), tmp_path / "out"
    assert run("embed", "-d", folder, "-s", out) == 0
    seen.clear()
    folder.rename(tmp_path / "moved")
    for _ in range(2):
        assert run("embed", "-d", tmp_path / "moved", "-s", out) == 0
        assert json.loads((out / "embeddings.json").read_text())["folder"] == str(tmp_path / "moved")
    assert seen == []


@pytest.mark.parametrize("after", ["other images", "other versions"])
def test_unfinished_work_that_does_not_fit_is_removed_with_a_note(
    tmp_path: Path,
    run: Run,
    image: Image,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    after: str,
) -> None:
    words = ("embed", "-d", left(tmp_path), "-b", "4")

    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write_states", end)
        assert run(*words, "-s", tmp_path / "out") == 130
    if after == "other images":
        image(left(tmp_path) / "new.png", (40, 30), 5)
    else:
        monkeypatch.setattr(recorded, "package_versions", lambda: {"torch": "99"})
    capsys.readouterr()
    assert run(*words, "-s", tmp_path / "out") == 0
    assert "unfinished, of other images or settings: removed" in capsys.readouterr().err
    assert run(*words, "-s", tmp_path / "whole") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == OWN


def test_networks_side_by_side_resume_where_they_were(
    tmp_path: Path, run: Run, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first network is done when the second one is interrupted, and does not run again."""
    models = ["--model", "tiny", "--model", "timm/test_resnet", "--weights", "random", "--concat"]
    extracted = ["-d", str(tmp_path / "pairs"), "-s", str(tmp_path / "features"), "-p", "adapt-pca", "8", "--cpu"]
    assert extract.main([*extracted, *models]) == 0
    both = tmp_path / "both"
    (data,) = tmp_path.glob("features/*+*")
    words = ["-e", "4", "-k", "1", "--final", "--cpu"]
    assert train.main(["-d", str(data), "-s", str(both), *words]) == 0
    images = ("embed", "-m", both, "-d", tmp_path / "pairs", "-b", "8")
    with monkeypatch.context() as patch:
        jobs: list[Any] = []
        whole = pipeline.extract_features

        def once(job: Any) -> Any:
            jobs.append(job)
            if len(jobs) == 2:
                raise KeyboardInterrupt
            return whole(job)

        patch.setattr(embedding, "extract_features", once)
        assert run(*images, "-s", tmp_path / "out") == 130
    seen.clear()
    assert run(*images, "-s", tmp_path / "out") == 0
    assert sum(seen) == 32
    assert run("embed", "-m", both, "-d", data / "features.npy", "-s", tmp_path / "file") == 0
    for side in ("left", "right"):
        assert np.allclose(rows(tmp_path / "out")[side], rows(tmp_path / "file")[side], atol=1e-6)


# --- features files ---


def features(tmp_path: Path) -> Path:
    return tmp_path / "features" / "tiny"


@pytest.mark.parametrize("name", ["features.npy", "features_pca8.npy"])
def test_a_features_file_gives_the_same_embeddings_without_a_network(
    tmp_path: Path, run: Run, seen: list[int], name: str
) -> None:
    assert run("embed", "-d", tmp_path / "pairs", "-s", tmp_path / "images") == 0
    seen.clear()
    assert run("embed", "-d", features(tmp_path) / name, "-s", tmp_path / "file") == 0
    assert seen == []
    for file in ("embeddings.npy", "frozen.npy"):
        ours, theirs = rows(tmp_path / "file", file), rows(tmp_path / "images", file)
        assert len(ours) == 16  # the flipped views are left out
        assert np.array_equal(ours["left_name"], theirs["left_name"])
        assert np.allclose(ours["right"], theirs["right"], atol=1e-6)


def test_features_that_another_pca_reduced_are_refused(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    shutil.copytree(left(tmp_path), new)
    (new / "a1.png").unlink()
    words = ["--model", "tiny", "--weights", "random", "-p", "adapt-pca", "8", "--cpu"]
    assert extract.main(["-d", str(new), "-s", str(tmp_path / "wrong"), *words]) == 0
    wrong = tmp_path / "wrong" / "tiny" / "features_pca8.npy"
    assert run("embed", "-d", wrong, "-s", tmp_path / "out") == 2
    assert "was reduced by another PCA (" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out" / "embeddings.npy").exists()
    given = ["--pca", str(features(tmp_path) / "pca8.skops")]
    assert extract.main(["-d", str(new), "-s", str(tmp_path / "right"), *words, *given]) == 0
    right = tmp_path / "right" / "tiny" / "features_pca8.npy"
    assert run("embed", "-d", right, "-s", tmp_path / "out") == 0


def test_features_of_another_network_or_of_nobody_knows_which_are_refused(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "tiny", "--weights", "random", "--seed", "5", "-p", "adapt", "--cpu"]
    assert extract.main(["-d", str(tmp_path / "pairs"), "-s", str(tmp_path / "other"), *words]) == 0
    other = tmp_path / "other" / "tiny" / "features.npy"
    assert run("embed", "-d", other, "-s", tmp_path / "out") == 2
    assert "made with other settings than the features that the similarity was trained with (weights seed: 0 there" in (
        one_line(capsys.readouterr().err)
    )
    assert run("embed", "-d", other.with_name("none.npy"), "-s", tmp_path / "out") == 2
    assert "none.npy: no features file could be read here" in one_line(capsys.readouterr().err)
    other.with_suffix(".json").unlink()
    assert run("embed", "-d", other, "-s", tmp_path / "out") == 2
    assert "no .json beside the features says which network" in one_line(capsys.readouterr().err)


def test_the_same_features_file_is_embedded_once(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("embed", "-d", features(tmp_path) / "features.npy", "-s", out) == 0
    before = (out / "embeddings.npy").stat().st_mtime_ns
    assert run("embed", "-d", features(tmp_path) / "features.npy", "-s", out) == 0
    assert "all 16 rows of it are embedded here already" in capsys.readouterr().out
    assert (out / "embeddings.npy").stat().st_mtime_ns == before
    assert run("embed", "-d", features(tmp_path) / "features_pca8.npy", "-s", out) == 2
    assert "holds embeddings of others; give another folder, or --overwrite" in one_line(capsys.readouterr().err)
    assert run("embed", "-d", features(tmp_path) / "features_pca8.npy", "-s", out, "--overwrite") == 0


def test_changed_features_are_refused(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = features(tmp_path) / "features.npy"
    changed = bytearray(path.read_bytes())
    changed[-9] ^= 1
    path.write_bytes(changed)
    assert run("embed", "-d", path, "-s", tmp_path / "out") == 2
    assert "features.npy: was changed or damaged" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_reduced_features_are_refused_where_the_similarity_has_no_pca(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = features(tmp_path) / "features.npy", tmp_path / "unreduced"
    assert train.main(["-d", str(data), "-s", str(model), *["-e", "3", "-k", "1", "--final", "--cpu"]]) == 0
    reduced = data.with_name("features_pca8.npy")
    assert run("embed", "-m", model, "-d", reduced, "-s", tmp_path / "out") == 2
    error = one_line(capsys.readouterr().err)
    assert "was reduced by a PCA, and the similarity was trained without; give features.npy" in error
    assert run("embed", "-m", model, "-d", data, "-s", tmp_path / "out") == 0
    assert rows(tmp_path / "out", "frozen.npy")["left"].shape == (16, 320)


# --- parquet ---


def test_parquet_holds_names_and_embeddings_and_is_never_stale(tmp_path: Path, run: Run, image: Image) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    assert run("embed", "-d", left(tmp_path), "-s", out, "--format", "parquet") == 0
    read = parquet.read_table(out / "embeddings.parquet")
    assert read.column_names == ["name", "features"]
    assert read["name"].to_pylist() == rows(out)["name"].tolist()
    assert np.array_equal(np.array(read["features"].to_pylist(), np.float32), rows(out)["features"])
    image(left(tmp_path) / "new.png", (40, 40), 77)
    assert run("embed", "-d", left(tmp_path), "-s", out) == 0
    assert not (out / "embeddings.parquet").exists()


@pytest.mark.skipif(os.name == "nt", reason="such names are not possible there")
def test_parquet_escapes_names_that_are_not_utf8(tmp_path: Path, run: Run) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (left(tmp_path) / "a0.png").rename(os.fsdecode(os.fsencode(left(tmp_path)) + b"/\xff.png"))
    out = tmp_path / "out"
    assert run("embed", "-d", left(tmp_path), "-s", out, "--format", "parquet") == 0
    assert parquet.read_table(out / "embeddings.parquet")["name"].to_pylist()[-1] == "\\udcff.png"


def test_parquet_of_pairs_has_both_sides(tmp_path: Path, run: Run) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    assert run("embed", "-d", tmp_path / "pairs", "-s", out, "--format", "parquet") == 0
    read = parquet.read_table(out / "embeddings.parquet")
    assert read.column_names == ["left_name", "right_name", "left", "right"]
    for side in ("left", "right"):
        assert np.array_equal(np.array(read[side].to_pylist(), np.float32), rows(out)[side])


def test_a_missing_pyarrow_is_named_before_anything_is_done(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    assert run("embed", "-d", left(tmp_path), "-s", tmp_path / "out", "--format", "parquet") == 2
    assert "needs pyarrow: pip install -r requirements-parquet.txt" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


# --- odd folders ---


def test_subfolders_and_links(tmp_path: Path, run: Run, image: Image) -> None:
    root = tmp_path / "photos"
    image(root / "a.png", (40, 30), 1)
    image(root / "cat" / "a.png", (40, 30), 2)
    image(tmp_path / "elsewhere" / "b.png", (40, 30), 3)
    (root / "b.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    assert run("embed", "-d", root, "-s", tmp_path / "out", "--recursive", "--follow-links") == 0
    assert rows(tmp_path / "out")["name"].tolist() == ["a.png", "b.png", "cat/a.png"]


def test_without_following_links_those_that_lead_out_are_named(
    tmp_path: Path, run: Run, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    image(tmp_path / "elsewhere" / "b.png", (40, 30), 3)
    (left(tmp_path) / "b.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    assert run("embed", "-d", left(tmp_path), "-s", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "b.png: " in message
    assert "--follow-links" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="such names are not possible there")
def test_names_of_any_kind(tmp_path: Path, run: Run, image: Image) -> None:
    names = ["a,b.png", "-x.png", "two\nlines.png", "\u202e.png", 'quo"te.png', "=1+1.png"]
    for number, name in enumerate(names):
        image(tmp_path / "odd" / "x.png", (40, 30), number).rename(tmp_path / "odd" / name)
    raw = os.fsencode(tmp_path / "odd") + b"/\xff.png"
    shutil.copyfile(tmp_path / "odd" / "a,b.png", raw)
    assert run("embed", "-d", tmp_path / "odd", "-s", tmp_path / "out") == 0
    assert {*names} < {*rows(tmp_path / "out")["name"].tolist()}
    words = ("-q", tmp_path / "odd", "-g", tmp_path / "odd", "-k", 2, "-s", tmp_path / "found", "--html")
    assert run("search", *words) == 0
    with (tmp_path / "found" / "results.csv").open(newline="", encoding="utf-8") as file:
        assert {row["query"] for row in csv.DictReader(file)} == {*names, "\\udcff.png"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.mkdir(), "no images"),
        (lambda path: path.write_text("x"), "is a file; give the folder that it is in"),
    ],
)
def test_what_is_no_folder_of_images_is_refused_in_one_line(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "given")
    assert run("embed", "-d", tmp_path / "given", "-s", tmp_path / "out") == 2
    error = one_line(capsys.readouterr().err)
    assert error.startswith("similarity.py: error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_pca_that_keeps_all_dimensions_is_applied_once(tmp_path: Path, learn: Callable[..., Path]) -> None:
    model = learn("--final", "--html", extracted="-p adapt-pca 32 --layers layer1")
    images, words = tmp_path / "pairs", ["-m", str(model), "--cpu"]
    assert similarity.main(["embed", *words, "-d", str(images), "-s", str(tmp_path / "images")]) == 0
    for name in ("features.npy", "features_pca32.npy"):
        file, out = tmp_path / "features" / "tiny" / name, tmp_path / name
        assert similarity.main(["embed", *words, "-d", str(file), "-s", str(out)]) == 0
        assert np.allclose(rows(out)["left"], rows(tmp_path / "images")["left"], atol=1e-5)


def test_files_of_the_users_own_are_not_replaced(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "images.npy").write_bytes(b"mine")
    assert run("embed", "-d", left(tmp_path), "-s", out) == 2
    assert "holds images.npy without embeddings.npy, so they may be yours" in one_line(capsys.readouterr().err)
    assert (out / "images.npy").read_bytes() == b"mine"
    assert run("embed", "-d", left(tmp_path), "-s", out, "--overwrite") == 0


@pytest.mark.parametrize("command", ["embed", "search", "score"])
def test_weights_that_cannot_be_had_are_asked_for_and_nothing_is_left(
    tmp_path: Path, run: Run, learned: Path, empty_caches: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """The row `tiny` has its weights in a package that is missing; a file of them is the way out."""
    known = read_similarity(learned / NAME)
    about = json.loads(json.dumps(known.about))
    about["backbones"][0]["weights"].update(sha256="ab" * 32, seed=None)
    about["backbones"][0]["weights_origin"] = "package:no_such_package/weights.pth"
    write_similarity(tmp_path / "moved.safetensors", replace(known, about=about))
    pairs = tmp_path / "pairs"
    words = {
        "embed": ("-d", pairs),
        "search": ("-q", pairs / "left", "-g", pairs / "right"),
        "score": ("-d", pairs),
    }[command]
    assert run(command, *words, "-m", tmp_path / "moved.safetensors", "-s", tmp_path / "out") == 2
    error = one_line(capsys.readouterr().err)
    assert error.startswith("similarity.py: error: tiny: ")
    assert "--weights FILE" in error
    assert not (tmp_path / "out").exists()


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_out(
    tmp_path: Path, empty_caches: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network of an address in timm, trained with random weights, as if with those of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as where nothing can be reached
    words = ["--model", "timm/test_resnet", "--weights", "random", "-p", "adapt-pca", "8", "--cpu"]
    images = tmp_path / "pairs"
    for number in range(12):
        for side in ("left", "right"):
            draw_image(images / side / f"{number}.png", (40, 30 + number), number)
    assert extract.main(["-d", str(images), "-s", str(tmp_path / "f"), *words]) == 0
    data, model = str(tmp_path / "f" / "timm-test_resnet"), tmp_path / "hub"
    assert train.main(["-d", data, "-s", str(model), *["-e", "2", "-k", "1", "--final", "--cpu"]]) == 0
    known = read_similarity(model / NAME)
    about = json.loads(json.dumps(known.about))
    about["backbones"][0]["weights"].update(sha256="ab" * 32, seed=None)
    about["backbones"][0]["weights_origin"] = "hub:timm/test_resnet.r160_in1k@" + "c" * 40
    write_similarity(model / NAME, replace(known, about=about))
    out = tmp_path / "out"
    capsys.readouterr()
    assert similarity.main(["embed", "-m", str(model), "-d", str(images / "left"), "-s", str(out), "--cpu"]) == 2
    error = one_line(capsys.readouterr().err)
    assert error.startswith("similarity.py: error: timm/test_resnet: weights not found: no connection to the model hub")
    assert "--weights FILE" in error
    assert not out.exists()


def test_a_folder_with_a_leading_dash(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, image: Image) -> None:
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "-photos" / "-a.png", (40, 30), 1)
    assert run("embed", "-d./-photos", "-s=-out") == 0
    assert rows(tmp_path / "-out")["name"].tolist() == ["-a.png"]


@pytest.mark.parametrize("command", ["embed", "search", "score"])
def test_a_run_without_a_similarity_says_how_to_get_one(
    tmp_path: Path, run: Run, learned: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (learned / NAME).unlink()
    pairs = tmp_path / "pairs"
    words = {
        "embed": ("-d", pairs),
        "search": ("-q", pairs / "left", "-g", pairs / "right"),
        "score": ("-d", pairs),
    }[command]
    assert run(command, *words, "-s", tmp_path / "out") == 2
    assert "train.py --final with the same settings adds one" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
