"""Archives that would fill the memory, and files that are the same wherever they are made."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
import torch
from sklearn.decomposition import PCA

from common.errors import InputError
from common.storage import archives
from common.storage.archives import SLACK, canonical, check_archive
from featuresExtractor.backbones.weights.loading import read_tensors
from featuresExtractor.pca import load_pca, save_pca

ROOT = Path(archives.__file__).parents[2]


def bomb(path: Path, size: int, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive of `size` zeros."""
    with zipfile.ZipFile(path, "w", compression) as archive, archive.open("schema.json", "w") as file:
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
        file.write(bytes(size % 2**20))
    return path


def overlapping(path: Path, entries: int, size: int) -> Path:
    """An archive whose directory names the same stored bytes many times: small without any compression."""
    bomb(path, size, zipfile.ZIP_STORED)
    contents = path.read_bytes()
    (start,) = struct.unpack_from("<I", contents, contents.rindex(b"PK\5\6") + 16)
    (entry,) = (contents[start : contents.rindex(b"PK\5\6")],)
    directory = b"".join(entry.replace(b"schema", f"{number:06d}".encode()) for number in range(entries))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, entries, entries, len(directory), start, 0)
    path.write_bytes(contents[:start] + directory + end)
    return path


def fitted() -> PCA:
    return PCA(3, svd_solver="full").fit(np.random.default_rng(0).standard_normal((40, 8)))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_would_grow_is_refused(tmp_path: Path, compression: int) -> None:
    path = bomb(tmp_path / "pca.skops", 20 * 2**20, compression)
    with pytest.raises(InputError) as told:
        check_archive(path)
    size = path.stat().st_size
    assert str(told.value) == (
        f"{path}: its {size:,} bytes would become 20,971,520: not an archive of arrays; do not use it"
    )


def test_entries_that_are_the_same_bytes_are_refused(tmp_path: Path) -> None:
    path = overlapping(tmp_path / "pca.skops", 300, 2**20)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 300
    with pytest.raises(InputError, match=r"would become 314,572,800: not an archive of arrays"):
        check_archive(path)


@pytest.mark.parametrize("more", [0, 1])
def test_a_little_more_is_what_text_may_be_compressed_by(tmp_path: Path, more: int) -> None:
    path = bomb(tmp_path / "small.zip", SLACK)
    size = path.stat().st_size
    while True:  # until what it holds is its own size and the slack
        bomb(path, SLACK + size + more)
        if path.stat().st_size == size:
            break
        size = path.stat().st_size
    if more:
        with pytest.raises(InputError):
            check_archive(path)
    else:
        check_archive(path)


def test_a_format_of_the_future_is_no_way_around(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(5_000_000)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    contents = bytearray(path.read_bytes())
    for start in (match.start() for match in re.finditer(b"PK\x01\x02", contents)):
        struct.pack_into("<H", contents, start + 6, 99)  # which zipfile does not read, and torch does
    path.write_bytes(contents)
    with pytest.raises(InputError, match="not a whole archive of arrays"):
        read_tensors(path)


READS = """
import resource, sys
from pathlib import Path
from common.errors import InputError
from featuresExtractor.pca import load_pca
from featuresExtractor.backbones.weights.loading import read_tensors
resource.setrlimit(resource.RLIMIT_DATA, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 2**30,) * 2)
for read, path in zip((load_pca, read_tensors), sys.argv[1:]):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read(Path(path))
        print("read")
    except InputError:
        print("refused", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    bombs = [bomb(tmp_path / name, 200 * 2**20) for name in ("pca.skops", "weights.pt")]
    command = [sys.executable, "-c", READS, *map(str, bombs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        word, kilobytes = line.split()
        assert word == "refused"
        assert int(kilobytes) < 50_000
    assert len(done.stdout.splitlines()) == 2


def test_an_ordinary_checkpoint_passes(tmp_path: Path) -> None:
    tensors = {f"layer{number}.weight": torch.randn(64, 64) for number in range(50)}
    torch.save(tensors, tmp_path / "weights.pt")
    check_archive(tmp_path / "weights.pt")
    assert torch.equal(read_tensors(tmp_path / "weights.pt")["layer7.weight"], tensors["layer7.weight"])


def test_an_ordinary_pca_passes(tmp_path: Path) -> None:
    skops.io.dump(fitted(), tmp_path / "theirs.skops")
    save_pca(fitted(), tmp_path / "ours.skops")
    for name in ("theirs", "ours"):
        check_archive(tmp_path / f"{name}.skops")
        assert np.array_equal(load_pca(tmp_path / f"{name}.skops").components_, fitted().components_)


@pytest.mark.parametrize("contents", [b"", b"no archive", b"P", b"PK\5\6" + bytes(18)])
def test_what_is_no_archive_is_left_to_its_reader(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "file").write_bytes(contents)
    check_archive(tmp_path / "file")
    check_archive(tmp_path / "nowhere")


@pytest.mark.parametrize("contents", [b"PK", b"PK\3\4", b"PK\5\6" + b"\xff" * 18])
def test_half_an_archive_is_refused(tmp_path: Path, contents: bytes) -> None:
    """Another reader might take it for a whole one."""
    (tmp_path / "file").write_bytes(contents)
    with pytest.raises(InputError, match="not a whole archive of arrays"):
        check_archive(tmp_path / "file")


# ---- the same bytes

SAVES = """
import sys
from pathlib import Path
import numpy as np
from sklearn.decomposition import PCA
from featuresExtractor.pca import save_pca
ballast = [bytearray(1000 * int(sys.argv[2])) for _ in range(100)]  # so that addresses are others
save_pca(PCA(3, svd_solver="full").fit(np.random.default_rng(0).standard_normal((40, 8))), Path(sys.argv[1]))
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("1", "2"):
        command = [sys.executable, "-c", SAVES, str(tmp_path / name), name]
        subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_without_it_the_bytes_are_others() -> None:
    first, second = (skops.io.dumps(fitted()) for _ in range(2))  # or the test above could not fail
    assert first != second
    assert canonical(first) == canonical(second)


def test_what_is_read_back_is_what_was_written(tmp_path: Path) -> None:
    expected = fitted()
    save_pca(expected, tmp_path / "pca.skops")
    found = load_pca(tmp_path / "pca.skops")
    assert set(vars(found)) == set(vars(expected))
    for name, value in vars(expected).items():
        assert np.array_equal(getattr(found, name), value), name


def test_another_object_has_other_bytes() -> None:
    other = fitted()
    other.mean_[3] += 1
    assert canonical(skops.io.dumps(other)) != canonical(skops.io.dumps(fitted()))


def test_canonical_bytes_stay_as_they_are() -> None:
    once = canonical(skops.io.dumps(fitted()))
    assert canonical(once) == once


def test_arrays_that_are_one_stay_one() -> None:
    array = np.arange(5.0)
    contents = canonical(skops.io.dumps({"one": array, "same": array, "other": array.copy()}))
    found = skops.io.loads(contents)
    assert all(np.array_equal(found[name], array) for name in ("one", "same", "other"))
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        assert sorted(archive.namelist()) == sorted(set(archive.namelist()))
        assert len(archive.namelist()) == 3


def test_no_time_is_kept() -> None:
    with zipfile.ZipFile(io.BytesIO(canonical(skops.io.dumps(fitted())))) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_anything_in_front_of_an_archive_is_no_way_around(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.skops", 50_000_000)
    path.write_bytes(b"X" + path.read_bytes())
    with pytest.raises(InputError, match="would become"):
        check_archive(path)


def test_a_packed_pickle_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"N." * 10)
    with pytest.raises(InputError, match="holds a packed pickle"):
        check_archive(tmp_path / "w.pt")
