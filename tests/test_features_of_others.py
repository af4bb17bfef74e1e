"""`train.py` on features that other code wrote: right numbers, or one line that names what is wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import train
from adaptation.data.pairs import load_pairs
from featuresExtractor.features.writing import write_pairs

N, D = 40, 8
GENERATOR = np.random.default_rng(3)
MEANING = GENERATOR.normal(size=(N, D))
LEFT, RIGHT, LEFT_FLIPPED, RIGHT_FLIPPED = (
    (MEANING + 0.8 * GENERATOR.normal(size=(N, D))).astype(np.float32) for _ in range(4)
)
NAMES = [f"{number:06d}.png" for number in range(N)]
AUGMENTED = [f"augmented_{name}" for name in NAMES]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over so few numbers take ten times as long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def old_file(path: Path, left: Any, right: Any, left_name: Sequence[str], right_name: Sequence[str]) -> Path:
    fields = {"left": left, "right": right, "left_name": list(left_name), "right_name": list(right_name)}
    np.save(path, np.array(fields, dtype=object), allow_pickle=True)
    return path


def trained(save: Path, *given: Path | str, runs: int = 2) -> list[dict[str, bytes]]:
    """What the runs on these files wrote: splits, and the metrics of every epoch."""
    assert train.main(["-d", *map(str, given), "-s", str(save), "-e", "3", "-r", str(runs), "-t", "15", "--cpu"]) == 0
    files = ("split.csv", "train.csv", "val.csv", "frozen.csv")
    return [{file: (save / f"run{run}" / file).read_bytes() for file in files} for run in range(1, runs + 1)]


def held_out(save: Path, run: int = 1) -> set[str]:
    with (save / f"run{run}" / "split.csv").open(newline="", encoding="utf-8") as file:
        return {row["left_name"] for row in csv.DictReader(file) if row["set"] == "test"}


def refused(capsys: pytest.CaptureFixture[str], save: Path, *given: Path | str) -> str:
    assert train.main(["-d", *map(str, given), "-s", str(save), "-e", "1", "--cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not save.exists()
    return line.removeprefix("train.py: error: ")


def shuffled(seed: int, count: int = N) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(count)


# ---- rows are paired by name


def test_files_in_the_order_of_directory_listings_give_the_numbers_of_sorted_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = shuffled(1), shuffled(2)
    names = np.array(NAMES)
    same = old_file(tmp_path / "same.npy", LEFT, RIGHT, NAMES, NAMES)
    listed = old_file(tmp_path / "listed.npy", LEFT[one], RIGHT[two], names[one].tolist(), names[two].tolist())
    first = trained(tmp_path / "same", same)
    assert "note: " not in capsys.readouterr().err
    assert trained(tmp_path / "listed", listed) == first
    moved = int((one != two).sum())
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("note:", "warning:"))]
    assert notes == [f"note: {listed}: {moved} of {N} rows are in another order on the right; paired by name"]


def test_names_that_do_not_agree_are_warned_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = [f"other{number}.png" for number in range(N)]
    path = old_file(tmp_path / "f.npy", LEFT, RIGHT, NAMES, others)
    trained(tmp_path / "runs", path)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("note:", "warning:"))]
    assert len(notes) == 1
    assert notes[0].startswith(f"warning: {path}: {N} of {N} rows have different names on the left and right (")
    assert "000000.png beside other0.png; 000001.png beside other1.png" in notes[0]


# ---- second views


@pytest.mark.parametrize("listed", [False, True])
def test_augmented_names_give_the_numbers_of_a_view_field_and_nothing_leaks(listed: bool, tmp_path: Path) -> None:
    left, right = np.concatenate([LEFT, LEFT_FLIPPED]), np.concatenate([RIGHT, RIGHT_FLIPPED])
    one, two = (shuffled(seed, 2 * N) if listed else np.arange(2 * N) for seed in (1, 2))
    names = np.array(NAMES + AUGMENTED)
    old = old_file(tmp_path / "old.npy", left[one], right[two], names[one].tolist(), names[two].tolist())
    write_pairs(tmp_path / "new.npy", left, right, NAMES * 2, [0] * N + [1] * N)
    assert trained(tmp_path / "old", old) == trained(tmp_path / "new", tmp_path / "new.npy")
    summary = json.loads((tmp_path / "old" / "summary.json").read_text())
    assert summary["pairs"] == {"train": 30, "test": 10}
    assert summary["features"]["views"] == 2
    for run in (1, 2):
        with (tmp_path / "old" / f"run{run}" / "split.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert sorted(row["left_name"] for row in rows) == NAMES  # no view is a pair of its own
        assert len(held_out(tmp_path / "old", run)) == 10


def test_names_that_look_like_views_are_refused_until_the_file_says_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = NAMES + [f"flip_{name}" for name in NAMES]
    left, right = np.concatenate([LEFT, LEFT_FLIPPED]), np.concatenate([RIGHT, RIGHT_FLIPPED])
    path = old_file(tmp_path / "f.npy", left, right, names, names)
    told = refused(capsys, tmp_path / "runs", path)
    assert told.startswith(f"{path}: {N} of {2 * N} names differ from another only by 'flip_' in front (")
    assert "flip_000000.png and 000000.png, flip_000001.png and 000001.png" in told
    assert "Add a field view" in told
    assert "write_pairs in featuresExtractor/features/writing.py" in told
    np.savez(tmp_path / "f.npz", left=left, right=right, name=names, view=[0] * 2 * N)
    trained(tmp_path / "said", tmp_path / "f.npz", runs=1)


# ---- other kinds of files


def test_every_kind_of_file_gives_the_same_numbers(tmp_path: Path) -> None:
    write_pairs(tmp_path / "ours.npy", LEFT, RIGHT, NAMES)
    np.savez(tmp_path / "plain.npz", left=LEFT, right=RIGHT, left_name=NAMES, right_name=NAMES)
    np.savez_compressed(tmp_path / "packed.npz", right=RIGHT.astype(">f8"), name=np.array(NAMES, "S"), left=LEFT)
    rows = np.zeros(N, [("right", ">f8", (D,)), ("name", "S10"), ("left", "f4", (D,))])
    rows["left"], rows["right"], rows["name"] = LEFT, RIGHT, NAMES
    np.save(tmp_path / "rows.npy", rows)
    old_file(tmp_path / "old.npy", list(LEFT), RIGHT.astype("f8"), [np.str_(name) for name in NAMES], NAMES)
    expected = trained(tmp_path / "ours", tmp_path / "ours.npy", runs=1)
    for name in ("plain.npz", "packed.npz", "rows.npy", "old.npy"):
        assert trained(tmp_path / f"runs of {name}", tmp_path / name, runs=1) == expected, name


def test_two_plain_arrays_are_the_sides_of_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, side in (("left", LEFT), ("right", RIGHT)):
        np.save(tmp_path / f"{name}.npy", side)
    write_pairs(tmp_path / "ours.npy", LEFT, RIGHT)
    expected = trained(tmp_path / "ours", tmp_path / "ours.npy", runs=1)
    capsys.readouterr()
    found = trained(tmp_path / "runs", tmp_path / "left.npy", tmp_path / "right.npy", "--paired", runs=1)
    assert found == expected
    assert f"note: {tmp_path / 'left.npy'} and {tmp_path / 'right.npy'}: no names; rows are paired by their order" in (
        capsys.readouterr().err
    )
    features = json.loads((tmp_path / "runs" / "summary.json").read_text())["features"]
    assert (features["file"], features["right"]) == (str(tmp_path / "left.npy"), str(tmp_path / "right.npy"))


def test_paired_takes_two_arrays_of_one_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right, short = (tmp_path / f"{name}.npy" for name in ("left", "right", "short"))
    for path, side in ((left, LEFT), (right, RIGHT), (short, RIGHT[:-1])):
        np.save(path, side)
    save = tmp_path / "runs"
    two = "--paired: takes two files, -d LEFT.npy RIGHT.npy, not "
    assert refused(capsys, save, left, "--paired") == f"{two}{left}"
    assert refused(capsys, save, left, right, short, "--paired") == f"{two}{left}, {right}, {short}"
    assert refused(capsys, save, left, tmp_path, "--paired") == f"{two}{left}, {tmp_path}"
    assert refused(capsys, save, left, left, "--paired").startswith(f"--paired: {left} is given for both sides")
    told = refused(capsys, save, left, short, "--paired")
    assert told == f"{left}: shape (40, 8), {short}: (39, 8); --paired takes two arrays of one shape"
    assert "-d LEFT.npy RIGHT.npy --paired" in refused(capsys, save, left, right)
    np.save(right, RIGHT.astype(int))
    assert refused(capsys, save, left, right, "--paired").startswith(f"{right}: int64, shape (40, 8); float16, float32")


def test_an_array_that_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    from adaptation.data.pairs import survey
    from common.errors import InputError

    left, right = tmp_path / "left.npy", tmp_path / "right.npy"
    np.save(left, LEFT)
    np.save(right, RIGHT)
    found = survey(left, right=right)
    assert np.array_equal(found.load().right[0].numpy(), RIGHT)
    np.save(right, -RIGHT)
    with pytest.raises(InputError, match="was changed while it was worked on"):
        found.load()


def test_an_npz_has_the_name_of_its_folder_and_no_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model, left in (("one", LEFT), ("two", -LEFT)):
        (tmp_path / model).mkdir()
        np.savez(tmp_path / model / "features.npz", left=left, right=RIGHT, name=NAMES)
    (tmp_path / "one" / "features.json").write_text('{"sha256": "0", "settings": {"model": "another"}}')  # of a .npy
    save = tmp_path / "runs"
    files = [str(tmp_path / model / "features.npz") for model in ("one", "two")]
    assert train.main(["-d", *files, "-s", str(save), "-e", "1", "--cpu"]) == 0
    assert {path.name for path in save.iterdir() if path.is_dir()} == {"one", "two"}


# ---- numbers that nothing can be learned from


@pytest.mark.parametrize(
    ("right", "told"),
    [
        (
            np.zeros_like(RIGHT),
            "the right vectors are all zero; likely causes: weights that do not belong to the network",
        ),
        (np.ones_like(RIGHT), "the right vectors are all alike; likely causes: weights that do not belong"),
        (
            np.where(np.arange(N)[:, None] == 7, np.nan, RIGHT),
            "000007.png, right, view 0: nan at index 0, not a finite",
        ),
    ],
)
def test_numbers_that_nothing_can_be_learned_from(
    right: NDArray[Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, left=LEFT, right=right.astype(np.float32), name=NAMES)
    assert refused(capsys, tmp_path / "runs", path).startswith(f"{path}: {told}")


def test_some_zero_vectors_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = np.where(np.isin(np.arange(N), [3, 5, 8])[:, None], 0, LEFT).astype(np.float32)
    np.savez(tmp_path / "f.npz", left=left, right=RIGHT, name=NAMES)
    trained(tmp_path / "runs", tmp_path / "f.npz", runs=1)
    warning = (
        f"warning: {tmp_path / 'f.npz'}: 3 vectors are zero, so their similarity to any other is 0 (000003.png, left"
    )
    assert warning in capsys.readouterr().err


def test_paths_may_be_text(tmp_path: Path) -> None:
    write_pairs(str(tmp_path / "f.npy"), LEFT, RIGHT, NAMES)
    (tmp_path / "some.csv").write_text("name\n000002.png\n")
    assert load_pairs(str(tmp_path / "f.npy"), str(tmp_path / "some.csv")).names == [(NAMES[2], NAMES[2])]


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_float64_beyond_float32_is_refused_by_its_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float
) -> None:
    vectors = np.random.default_rng(0).standard_normal((12, 5)) * factor
    np.savez(tmp_path / "f.npz", left=vectors, right=vectors, name=[f"p{row:02d}x" for row in range(12)])
    assert train.main(["-d", str(tmp_path / "f.npz"), "-s", str(tmp_path / "run"), "-e", "1"]) == 2
    assert "the left vectors hold numbers that float32 does not (the largest is " in capsys.readouterr().err
