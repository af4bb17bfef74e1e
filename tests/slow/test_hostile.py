"""Files of strangers, given to the commands: each is refused in one line, runs nothing, and fills no memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import shlex
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featuresExtractor.features.features_file import row_type
from tests.conftest import draw_image
from tests.slow.processes import ended, start
from tests.slow.test_killed_train import write_features

pytestmark = pytest.mark.slow

BOUND = 300 * 2**20  # bytes of memory that a refusal may take
TRAIN = ["train.py", "-s", "out", "-e", "1", "--cpu", "-d"]
EXTRACT = ["extract.py", "-s", "out", "--cpu", "-p", "adapt", "--model", "timm/test_resnet", "-d", "pairs"]


class Canary:
    """Sings, in a file, when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(str(self.place / 'canary'))}",)


def header(row: np.dtype[Any], rows: int) -> bytes:
    """The header of a `.npy` that promises so many rows."""
    target = io.BytesIO()
    descr = {"descr": np.lib.format.dtype_to_descr(row), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_2_0(target, descr)
    return target.getvalue()


def many_rows(place: Path) -> None:
    (place / "x.npy").write_bytes(header(row_type(("left", "right"), 8, 8), 10**12))


def wide_rows(place: Path) -> None:
    (place / "x.npy").write_bytes(header(row_type(("left", "right"), 2**26, 8), 1))


def many_rows_of_holes(place: Path) -> None:
    row = row_type(("left", "right"), 64, 8)
    start = header(row, 10**9)
    with (place / "x.npy").open("wb") as file:
        file.write(start)
        file.truncate(len(start) + 10**9 * row.itemsize)


def objects(place: Path) -> None:
    with (place / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, np.array({"left": Canary(place)}, object), allow_pickle=True)


def objects_in_rows(place: Path) -> None:
    rows = np.zeros(3, [("left", object), ("right", "<f4", (4,))])
    rows["left"] = [Canary(place)] * 3
    with (place / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, rows, allow_pickle=True)


def header_that_is_code(place: Path) -> None:
    text = f"__import__('os').system({('touch ' + shlex.quote(str(place / 'canary')))!r})".encode()
    (place / "x.npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text)


def endless_header(place: Path) -> None:
    (place / "x.npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"(" * 10**6)


def header_of_holes(place: Path) -> None:
    with (place / "x.npy").open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31))
        file.truncate(2**31 + 100)


def old_file_of_holes(place: Path) -> None:
    with (place / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, np.array({}, object), allow_pickle=True)
        file.truncate(2**40)


def json_of_holes(place: Path) -> None:
    write_features(place / "x.npy", 0)
    with (place / "x.json").open("wb") as file:
        file.truncate(2**31)


def bare_pickle(place: Path) -> None:
    (place / "x.npy").write_bytes(pickle.dumps(Canary(place)))


def pickle_that_claims_length(place: Path) -> None:
    with (place / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, np.array({}, object), allow_pickle=True)
        file.seek(-10, os.SEEK_END)
        file.write(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"few.")


def hostile_json(place: Path) -> None:
    write_features(place / "x.npy", 0)
    (place / "x.json").write_text("[" * 10**6)
    (place / "x.npy").write_bytes((place / "x.npy").read_bytes()[:-1])


def changed_byte(place: Path) -> None:
    write_features(place / "x.npy", 0)
    digest = "0" * 64
    (place / "x.json").write_text(json.dumps({"sha256": digest, "settings": {"model": "../../x\x1b[31m"}}))


FEATURES = [
    *(many_rows, wide_rows, many_rows_of_holes, objects, objects_in_rows, header_that_is_code, endless_header),
    *(bare_pickle, pickle_that_claims_length, hostile_json, changed_byte),
    *(header_of_holes, old_file_of_holes, json_of_holes),
]


def weights_bomb(place: Path) -> None:
    with zipfile.ZipFile(place / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", pickle.dumps({"weight": 1}))
        archive.writestr("w/version", "3\n")
        with archive.open("w/data/0", "w") as file:
            for _ in range(1500):
                file.write(bytes(2**20))


def weights_with_code(place: Path) -> None:
    torch.save({"state_dict": {"weight": Canary(place)}}, place / "w.pt")


def old_weights_with_code(place: Path) -> None:
    torch.save({"weight": Canary(place)}, place / "w.pt", _use_new_zipfile_serialization=False)


def pickled_weights(place: Path) -> None:
    (place / "w.pt").write_bytes(pickle.dumps(Canary(place)))


def weights_of_a_number(place: Path) -> None:
    """A few bytes that ask for 2 GB."""
    code = b"\x80\x02}X\x01\x00\x00\x00wcbuiltins\nbytearray\nJ" + struct.pack("<i", 2 * 10**9) + b"\x85Rs."
    with zipfile.ZipFile(place / "w.pt", "w") as archive:
        archive.writestr("w/data.pkl", code)
        archive.writestr("w/version", "3\n")


def tensors_that_lie(place: Path) -> None:
    """A header of safetensors that promises a terabyte."""
    text = json.dumps({"w": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}).encode()
    (place / "w.pt").with_suffix(".safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(100))


def long_safetensors_header(place: Path) -> None:
    (place / "w.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


WEIGHTS = [
    *(weights_bomb, weights_with_code, old_weights_with_code, pickled_weights, tensors_that_lie),
    *(long_safetensors_header, weights_of_a_number),
]


def refused(command: list[str], place: Path) -> str:
    """The one line with which a command refuses what is in its folder."""
    assert ended(start(command, place)) == 2, (place / "log.txt").read_text()
    text = (place / "log.txt").read_text()
    assert "Traceback" not in text
    assert not (place / "canary").exists()
    assert int((place / "memory.txt").read_text()) < BOUND
    line = text.splitlines()[-1]
    assert "error: " in line
    assert line.isprintable()
    return line


@pytest.mark.parametrize("make", FEATURES)
def test_features_of_a_stranger(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    line = refused([*TRAIN, "x.npy"], tmp_path)
    assert "x.npy" in line or "x.json: damaged" in line
    assert not list(tmp_path.glob("out/run*"))


@pytest.mark.parametrize("make", WEIGHTS)
def test_weights_of_a_stranger(make: Callable[[Path], None], tmp_path: Path) -> None:
    for side in ("left", "right"):
        draw_image(tmp_path / "pairs" / side / "a.png")
    make(tmp_path)
    (weights,) = tmp_path.glob("w.*")
    assert weights.name in refused([*EXTRACT, "--weights", weights.name], tmp_path)
    assert not list(tmp_path.glob("out/*/*.npy"))


def test_the_canary_does_sing_where_pickles_are_trusted(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path)))
    assert (tmp_path / "canary").exists()


def test_names_lead_nowhere(tmp_path: Path) -> None:
    """Names in a CSV are compared with names, and never opened."""
    for side in ("left", "right"):
        for name in ("a.png", "b.png"):
            draw_image(tmp_path / "pairs" / side / name)
    with (tmp_path / "holes.csv").open("wb") as file:
        file.truncate(2**31)
    assert "a CSV of names has no more" in refused([*EXTRACT, "--weights", "random", "--subset", "holes.csv"], tmp_path)
    (tmp_path / "names.csv").write_text("name\n../../../../etc/passwd\n/etc/passwd\n\x1b[31mred.png\na.png\n")
    line = refused([*EXTRACT, "--weights", "random", "--subset", "names.csv"], tmp_path)
    assert "../../../../etc/passwd" in line


def test_images_behind_links_out_of_the_folder_are_not_read(tmp_path: Path) -> None:
    for side in ("left", "right"):
        draw_image(tmp_path / "pairs" / side / "a.png")
        draw_image(tmp_path / "private" / side / "b.png", seed=1)
        (tmp_path / "pairs" / side / "b.png").symlink_to(tmp_path / "private" / side / "b.png")
    refused([*EXTRACT, "--weights", "random"], tmp_path)
    assert "left/b.png: a link to a place outside of the dataset" in (tmp_path / "log.txt").read_text()
    assert ended(start([*EXTRACT, "--weights", "random", "--follow-links"], tmp_path)) == 0


def test_links_in_the_output_folder_are_not_written_through(tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out" / "timm-test_resnet"
    victim.write_text("precious")
    for side in ("left", "right"):
        for number in range(8):
            draw_image(tmp_path / "pairs" / side / f"{number}.png", seed=number)
    words = [*EXTRACT, "--weights", "random", "-b", "2"]
    for name, code in (("features.npy", 2), ("units.jsonl", 2), ("plan.json", 2)):
        assert ended(start(words, tmp_path, "after common.storage.staging.Staging.add", 2)) != 0
        path = out / ".unfinished" / "features" / name
        path.unlink()
        path.symlink_to(victim)
        assert ended(start(words, tmp_path)) == code, (tmp_path / "log.txt").read_text()
        assert victim.read_text() == "precious"
        shutil.rmtree(out)
    out.mkdir()
    (out / ".unfinished").symlink_to(tmp_path)
    assert "is no folder of its own; remove it" in refused(words, tmp_path)


def test_names_in_any_encoding_go_all_the_way(tmp_path: Path) -> None:
    """From the images to the table; nothing that could rewrite a terminal is printed."""
    names = [b"caf\xe9", "e\u0301t\u00e9".encode(), b"a b\tc", b"new\nline", b"\x1b[31mred", "🎈".encode(), b"x" * 200]
    names += [b"%d" % number for number in range(9)]
    for side in ("left", "right"):
        for number, name in enumerate(names):
            draw_image(tmp_path / "pairs" / side / f"{os.fsdecode(name)}.png", seed=number)
    assert ended(start([*EXTRACT, "--weights", "random"], tmp_path)) == 0, (tmp_path / "log.txt").read_text()
    train = ["train.py", "-d", "out/timm-test_resnet", "-s", "runs", "-e", "2", "-r", "2", "-k", "1", "--cpu"]
    assert ended(start(train, tmp_path)) == 0, (tmp_path / "log.txt").read_text()
    assert "\x1b[31m" not in (tmp_path / "log.txt").read_text()
    rows = np.load(tmp_path / "out" / "timm-test_resnet" / "features.npy")
    stored = {os.fsencode(str(name)).removesuffix(b".png") for name in rows["left_name"]}
    assert stored == set(names)
    (tmp_path / "pairs" / "left" / "\x1b[31mred.png").write_bytes(b"")
    again = [*EXTRACT[:2], "other", *EXTRACT[3:], "--weights", "random"]
    assert ended(start(again, tmp_path)) == 2
    assert "\x1b[31m" not in (tmp_path / "log.txt").read_text()
    assert r"left/\x1b[31mred.png: cannot be read (an empty file)" in (tmp_path / "log.txt").read_text()
