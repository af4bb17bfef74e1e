"""The streamed PCA beside numpy's eigendecomposition and scikit-learn's full SVD."""

from __future__ import annotations

import hashlib
import os
import pickle
import tracemalloc
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import FunctionTransformer

from common.errors import InputError, OutOfMemory
from featuresExtractor import pca as pca_module
from featuresExtractor.eigen import leading_eigenpairs
from featuresExtractor.features import features_file
from featuresExtractor.features.features_file import FeaturesWriter, make_rows, open_features, row_type
from featuresExtractor.pca import (
    NARROW,
    Moments,
    Projection,
    check_components,
    fit_pca,
    load_pca,
    pca_digest,
    reduce_features,
    save_pca,
)

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
Matrix = NDArray[np.float32]


def rows_of(count: int, width: int, seed: int = 0, mean: float = 3.0) -> Matrix:
    """Correlated rows whose variances fall off, far from the origin."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(count, width)) * np.geomspace(1, 0.05, width) @ generator.normal(size=(width, width))
    return (mixed + mean).astype(np.float32)


def fit(rows: Matrix, n_components: int, sizes: Sequence[int] = ()) -> PCA:
    """Fits on chunks of the given sizes, and what is left after them."""
    chunks = np.split(rows, np.cumsum(sizes)) if sizes else [rows]
    return fit_pca((chunk for chunk in chunks if len(chunk)), rows.shape[1], n_components, CPU)


def by_hand(rows: Matrix, n_components: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All variances, falling, and the first directions, from numpy's covariance in float64."""
    values, directions = np.linalg.eigh(np.cov(rows.astype(np.float64), rowvar=False))
    return values[::-1], directions[:, ::-1].T[:n_components]


def full_svd(rows: Matrix, n_components: int) -> PCA:
    return PCA(n_components=n_components, svd_solver="full").fit(rows.astype(np.float64))


@pytest.mark.parametrize(("count", "width", "n_components"), [(200, 20, 5), (200, 20, 20), (60, 12, 1), (12, 40, 6)])
def test_directions_and_variances_are_those_of_the_covariance(count: int, width: int, n_components: int) -> None:
    rows = rows_of(count, width)
    pca, (variances, directions) = fit(rows, n_components), by_hand(rows, n_components)
    assert np.allclose(pca.explained_variance_, variances[:n_components], rtol=1e-6)
    assert np.allclose(pca.explained_variance_ratio_, variances[:n_components] / variances.sum(), rtol=1e-6)
    projector, expected = (basis.T @ basis for basis in (pca.components_, directions))
    assert np.abs(projector - expected).max() < 1e-6
    assert np.allclose(np.abs((pca.components_ * directions).sum(1)), 1, atol=1e-9)
    assert np.allclose(pca.mean_, rows.astype(np.float64).mean(0), rtol=1e-12)


@pytest.mark.parametrize(("count", "width", "n_components"), [(200, 20, 5), (30, 30, 12), (12, 40, 6)])
def test_every_fitted_value_is_scikit_learns_signs_included(count: int, width: int, n_components: int) -> None:
    rows = rows_of(count, width)
    pca, reference = fit(rows, n_components), full_svd(rows, n_components)
    assert np.allclose(pca.components_, reference.components_, atol=1e-8)
    for name in ("mean_", "explained_variance_", "explained_variance_ratio_", "singular_values_", "noise_variance_"):
        assert np.allclose(getattr(pca, name), getattr(reference, name), rtol=1e-8), name
    for name in ("n_samples_", "n_components_", "n_features_in_"):
        assert getattr(pca, name) == getattr(reference, name), name


def test_fitted_object_transforms_as_scikit_learns_own() -> None:
    rows, new = rows_of(100, 16), rows_of(9, 16, seed=1)
    pca, reference = fit(rows, 4), full_svd(rows, 4)
    assert np.allclose(pca.transform(new), reference.transform(new), atol=1e-6)
    assert np.allclose(pca.inverse_transform(pca.transform(new)), reference.inverse_transform(reference.transform(new)))


def test_projection_is_scikit_learns_transform_in_float32() -> None:
    rows, new = rows_of(100, 16), rows_of(9, 16, seed=1)
    projected = Projection(fit(rows, 4), CPU)(new)
    assert projected.dtype == np.float32
    assert np.allclose(projected, full_svd(rows, 4).transform(new.astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize("sizes", [[1] * 90, [30, 30, 30], [89, 1], [1, 89], [7, 50, 2]])
def test_chunks_do_not_matter(sizes: list[int]) -> None:
    rows = rows_of(90, 14)
    whole, chunked = fit(rows, 6), fit(rows, 6, sizes)
    assert np.allclose(chunked.components_, whole.components_, atol=1e-10)
    assert np.allclose(chunked.explained_variance_, whole.explained_variance_, rtol=1e-12)
    assert chunked.n_samples_ == 90


def test_apple_gpus_leave_the_pca_to_the_cpu_in_float64() -> None:
    """No Apple GPU is needed: nothing is ever sent there."""
    rows, mps = rows_of(300, 30), torch.device("mps")
    expected = full_svd(rows, 5)
    found = fit_pca([rows[:100], rows[100:]], 30, 5, mps)
    assert found.components_.dtype == np.float64
    assert np.allclose(found.components_, expected.components_, atol=1e-6)
    assert np.allclose(Projection(found, mps)(rows), expected.transform(rows), atol=1e-4)


def test_a_pca_that_the_memory_does_not_hold_is_refused_before(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, needed = rows_of(50, 40), 2 * 8 * 40 * 40  # the covariance and a copy of it, in float64
    monkeypatch.setattr("common.machine.device.free_memory", lambda _: needed)
    fit(rows, 3)
    monkeypatch.setattr("common.machine.device.free_memory", lambda _: needed - 1)
    with pytest.raises(OutOfMemory, match=r"^a PCA of 40 dimensions takes \S+ GiB of memory, "):
        fit(rows, 3)


def test_rows_far_from_the_origin_lose_no_precision() -> None:
    near = rows_of(300, 6, mean=0).astype(np.float64)
    far = (near + 1000).astype(np.float32)
    variances, _ = by_hand(far, 6)
    assert np.allclose(fit(far, 6, [50] * 6).explained_variance_, variances, rtol=1e-9)


@pytest.mark.parametrize(("width", "exact"), [(6, 1e-9), (1100, 1e-4)])
def test_small_variances_far_from_the_origin_are_not_those_of_a_rounded_mean(width: int, exact: float) -> None:
    rows = (30_000 + 0.05 * np.random.default_rng(0).normal(size=(300, width))).astype(np.float32)
    moments = Moments(width, CPU)
    for chunk in np.split(rows, [100, 101]):
        moments.add(torch.from_numpy(chunk))
    expected = np.cov(rows.astype(np.float64), rowvar=False)
    assert np.abs(moments.covariance().numpy() - expected).max() <= exact * expected.max()


@pytest.mark.parametrize(("count", "width"), [(2, 30), (7, 30), (29, 30)])
def test_fewer_rows_than_columns_leave_no_variance_behind(count: int, width: int) -> None:
    rows = rows_of(count, width)
    pca = fit(rows, count - 1)
    assert pca.explained_variance_ratio_.sum() == pytest.approx(1)
    assert np.allclose(pca.inverse_transform(pca.transform(rows)), rows, atol=1e-4)
    last = fit(rows, count)
    assert abs(last.explained_variance_[-1]) < 1e-9
    assert np.isfinite(last.components_).all()


def test_constant_columns_have_no_part_in_any_direction() -> None:
    rows = rows_of(50, 10)
    rows[:, [0, 4]] = 7
    pca = fit(rows, 8)
    assert np.abs(pca.components_[:, [0, 4]]).max() < 1e-9
    assert np.allclose(pca.mean_[[0, 4]], 7)


@pytest.mark.parametrize("width", [3, 2000])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda rows: rows * 0, "zero"),
        (lambda rows: rows * 0 + 2, "alike"),
        (lambda rows: rows * 0 + rows[0], "alike"),
        (lambda rows: rows * 1e-7 + rows[0], "alike"),  # but for rounding
    ],
)
def test_rows_that_are_all_alike_have_no_components(change: Callable[[Any], Any], what: str, width: int) -> None:
    with pytest.raises(InputError, match=f"the vectors are all {what}, so that they have no principal components; "):
        fit(change(rows_of(50, width)).astype(np.float32), 2)


def test_a_tenth_of_a_per_mille_is_variance() -> None:
    rows = rows_of(50, 3)
    assert fit(rows * np.float32(1e-4) + rows[0], 3).explained_variance_ratio_.sum() == pytest.approx(1)


def test_a_path_may_be_text(tmp_path: Path) -> None:
    pca = fit(rows_of(50, 9), 4)
    save_pca(pca, str(tmp_path / "pca.skops"))
    assert np.array_equal(load_pca(str(tmp_path / "pca.skops")).components_, pca.components_)


def test_largest_entry_of_every_direction_is_positive_whatever_the_sign_of_the_data() -> None:
    rows = rows_of(80, 12)
    pca, mirrored = fit(rows, 12), fit(-rows, 12)
    for component in pca.components_:
        assert component[np.abs(component).argmax()] > 0
    assert np.allclose(mirrored.components_, pca.components_, atol=1e-10)
    assert np.allclose(mirrored.transform(-rows), -pca.transform(rows), atol=1e-4)


def test_same_rows_give_the_same_bits() -> None:
    one, two = (fit(rows_of(80, 12), 5, [33]) for _ in range(2))
    assert one.components_.tobytes() == two.components_.tobytes()


def test_at_most_two_chunks_are_alive_at_a_time() -> None:
    alive, most = 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def chunks() -> Iterator[Matrix]:
        nonlocal alive, most
        for seed in range(40):
            chunk = rows_of(20, 6, seed)
            weakref.finalize(chunk, gone)
            alive += 1
            most = max(most, alive)
            yield chunk
            del chunk

    assert fit_pca(chunks(), 6, 3, CPU).n_samples_ == 800
    assert 1 <= most <= 2


# --- wide rows, whose products are in float32 ---

WIDE = 1200  # with the subspace that is iterated for 12 components, wide enough for the iteration


@cache
def turned(width: int) -> NDArray[np.float64]:
    """Orthonormal rows in every direction."""
    return np.asarray(np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))[0])


def wide_rows(mean: float = 3.0, width: int = WIDE, count: int = 1500) -> Matrix:
    """Rows of standard deviations 1, 0.95, 0.95^2, ... in random directions, around `mean`."""
    generator = np.random.default_rng(0)
    rows = (generator.normal(size=(count, width)) * 0.95 ** np.arange(width)) @ turned(width)
    return np.asarray(rows + mean, np.float32)


def sine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of the largest angle between the spaces that the rows of two matrices span."""
    return float(np.linalg.norm(other - other @ one.T @ one, 2))


@pytest.mark.parametrize("mean", [0.0, 3.0, 100.0])
def test_directions_and_variances_of_wide_rows_are_those_of_the_covariance(mean: float) -> None:
    rows = wide_rows(mean)
    pca, (variances, directions) = fit(rows, 12, [700]), by_hand(rows, 12)
    assert sine(pca.components_, directions) < 1e-5
    assert np.abs(pca.components_ @ pca.components_.T - np.eye(12)).max() < 1e-10
    assert np.allclose(pca.explained_variance_, variances[:12], rtol=1e-5)
    assert np.allclose(pca.explained_variance_ratio_, variances[:12] / variances.sum(), rtol=1e-5)
    assert np.allclose(pca.singular_values_, np.sqrt(variances[:12] * 1499), rtol=1e-5)
    assert pca.noise_variance_ == pytest.approx(variances[12:].mean(), rel=1e-4)
    assert np.allclose(pca.mean_, rows.astype(np.float64).mean(0), rtol=0, atol=1e-8 * max(1, mean))
    assert pca.components_.dtype == pca.mean_.dtype == np.float64


@pytest.mark.parametrize("sizes", [[1499], [1, 750], [100] * 15])
def test_chunks_of_wide_rows_do_not_matter(sizes: list[int]) -> None:
    rows = wide_rows()
    whole, chunked = fit(rows, 12), fit(rows, 12, sizes)
    assert sine(chunked.components_, whole.components_) < 1e-5
    assert np.allclose(chunked.explained_variance_, whole.explained_variance_, rtol=1e-5)
    assert np.allclose(chunked.mean_, whole.mean_, rtol=0, atol=1e-7)
    assert chunked.n_samples_ == 1500


@pytest.mark.parametrize("chunks", [1, 15, 16, 17, 32, 33])
def test_covariance_is_whole_after_any_number_of_chunks(chunks: int) -> None:
    """Outer products wait until there are many."""
    rows, moments = rows_of(3 * chunks, 20), Moments(20, CPU)
    for chunk in np.split(rows, chunks):
        moments.add(torch.from_numpy(chunk))
    expected = np.cov(rows.astype(np.float64), rowvar=False)
    assert np.abs(moments.covariance().numpy() - expected).max() <= 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize("chunk", [1, 3])
def test_wide_rows_one_by_one_far_from_the_origin_lose_no_precision(chunk: int) -> None:
    rows = wide_rows(mean=100.0, count=30)
    moments = Moments(WIDE, CPU)
    for start in range(0, 30, chunk):
        moments.add(torch.from_numpy(rows[start : start + chunk]))
    expected = np.cov(rows.astype(np.float64), rowvar=False)
    assert np.abs(moments.covariance().numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("width", [1, 7, 255, 256, 257, 1024, 1025, 1200, 2100])
def test_covariance_is_whole_and_symmetric_at_every_width(width: int) -> None:
    """The blocks on and below the diagonal are computed; the last one is what is left."""
    rows = (np.random.default_rng(0).normal(size=(60, width)) + 5).astype(np.float32)
    moments = Moments(width, CPU)
    for chunk in (rows[:13], rows[13:14], rows[14:]):
        moments.add(torch.from_numpy(chunk))
    covariance, expected = moments.covariance().numpy(), np.cov(rows.astype(np.float64), rowvar=False)
    assert covariance.dtype == np.float64
    exact = 1e-12 if width <= 1024 else 2e-6
    assert np.abs(covariance - expected).max() <= exact * np.abs(expected).max()
    assert np.abs(covariance - covariance.T).max() <= exact * np.abs(expected).max()
    assert moments.count == 60
    # Of single precision the mean keeps what a centred number is rounded by.
    off = np.abs(moments.mean.numpy() - rows.astype(np.float64).mean(0)).max()
    assert off <= (1e-12 if width <= 1024 else 1e-7)


def test_covariance_of_one_row_is_nothing() -> None:
    moments = Moments(1100, CPU)
    moments.add(torch.ones(1, 1100))
    assert not moments.covariance().any()


SETTINGS: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul


@pytest.mark.parametrize("before", [True, False])
def test_no_product_is_rounded_to_tf32_whatever_is_allowed(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    found = [setting.allow_tf32 for setting in SETTINGS]
    add, solve = Moments.add, leading_eigenpairs

    def noting(function: Any) -> Any:
        def noted(*words: Any) -> Any:
            seen.extend(setting.allow_tf32 for setting in SETTINGS)
            return function(*words)

        return noted

    monkeypatch.setattr(Moments, "add", noting(add))
    monkeypatch.setattr(pca_module, "leading_eigenpairs", noting(solve))
    try:
        for setting in SETTINGS:
            setting.allow_tf32 = before
        fit(rows_of(60, 12), 3, [30])
        assert [setting.allow_tf32 for setting in SETTINGS] == [before] * 2
        with pytest.raises(InputError):
            fit(rows_of(3, 12), 5)
        assert [setting.allow_tf32 for setting in SETTINGS] == [before] * 2
    finally:
        for setting, value in zip(SETTINGS, found, strict=True):
            setting.allow_tf32 = value
    assert seen == [False] * 8  # two chunks, their eigenpairs, and the chunk of too few rows


# --- number of components ---


@pytest.mark.parametrize(("n_components", "rows", "width"), [(1, 1, 1), (256, 256, 5440), (5440, 9000, 5440)])
def test_possible_number_of_components_is_admitted(n_components: int, rows: int, width: int) -> None:
    check_components(n_components, rows, width)


@pytest.mark.parametrize(
    ("n_components", "rows", "width", "most"), [(257, 256, 5440, "256"), (5441, 9000, 5440, "5,440"), (0, 5, 5, "5")]
)
def test_impossible_number_of_components_is_told(n_components: int, rows: int, width: int, most: str) -> None:
    with pytest.raises(InputError) as caught:
        check_components(n_components, rows, width)
    assert str(caught.value) == (
        f"{n_components:,} components asked of {rows:,} vectors of {width:,} numbers; 1 to {most} are possible"
    )


def test_fit_on_too_few_rows_is_told() -> None:
    with pytest.raises(InputError, match="4 components asked of 3 vectors of 9 numbers; 1 to 3 are possible"):
        fit(rows_of(3, 9), 4)


# --- the file ---


def test_file_gives_the_same_pca_back(tmp_path: Path) -> None:
    pca = fit(rows_of(50, 9), 4)
    save_pca(pca, tmp_path / "new" / "pca.skops")
    loaded = load_pca(tmp_path / "new" / "pca.skops")
    assert loaded.components_.tobytes() == pca.components_.tobytes()
    new = rows_of(5, 9, seed=1)
    assert np.array_equal(loaded.transform(new), pca.transform(new))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["pca.skops"]


# --- the digest ---


def test_digest_is_that_of_the_numbers_and_not_of_the_file(tmp_path: Path) -> None:
    pca = fit(rows_of(50, 9), 4)
    by_hand = hashlib.sha256()
    for name, values in (("mean_", pca.mean_), ("components_", pca.components_)):
        by_hand.update(f"{name} {values.shape}".encode() + values.astype("<f8").tobytes())
    skops.io.dump(pca, tmp_path / "pca.skops", compression=0)  # with the time and the addresses of this process
    assert pca_digest(pca) == by_hand.hexdigest() == pca_digest(load_pca(tmp_path / "pca.skops"))


@pytest.mark.parametrize("order", [">f8", "<f8"])
def test_digest_does_not_depend_on_the_machine(order: str) -> None:
    pca = fit(rows_of(50, 9), 4)
    expected = pca_digest(pca)
    pca.mean_, pca.components_ = pca.mean_.astype(order), np.asfortranarray(pca.components_.astype(order))
    assert pca_digest(pca) == expected


def test_digest_changes_with_the_last_bit_of_a_number() -> None:
    digests = set()
    for name in ("mean_", "components_", "explained_variance_"):
        pca = fit(rows_of(50, 9), 4)
        values = getattr(pca, name)
        values.flat[-1] = np.nextafter(values.flat[-1], np.inf)
        digests.add(pca_digest(pca))
    assert len(digests) == 3
    assert pca_digest(fit(rows_of(50, 9), 4)) in digests  # the variances change no vector


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_pca(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


def test_types_beyond_scikit_learns_own_are_refused(tmp_path: Path) -> None:
    skops.io.dump(FunctionTransformer(os.mkdir), tmp_path / "pca.skops")
    assert refusal(tmp_path / "pca.skops") == "not a PCA file that extract.py wrote (UntrustedTypesFoundException)"


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "pca.skops").write_bytes(pickle.dumps(Canary(tmp_path / "alive")))
    assert refusal(tmp_path / "pca.skops") == "not a PCA file that extract.py wrote (BadZipFile)"
    assert not (tmp_path / "alive").exists()


@pytest.mark.parametrize(("thing", "kind"), [(LinearRegression(), "LinearRegression"), (PCA(2), "PCA")])
def test_what_is_no_fitted_pca_is_refused(thing: object, kind: str, tmp_path: Path) -> None:
    skops.io.dump(thing, tmp_path / "pca.skops")
    assert refusal(tmp_path / "pca.skops") == f"holds {kind}, not a fitted PCA"


def test_absent_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.skops") == "not a PCA file that extract.py wrote (FileNotFoundError)"


@pytest.mark.parametrize("width", [12, NARROW + 1])
@pytest.mark.parametrize("power", [-80, 70])
def test_numbers_whose_squares_no_float_holds_have_the_same_components(width: int, power: int) -> None:
    rows = np.random.default_rng(0).standard_normal((40, width)).astype(np.float32)
    plain, scaled = (fit_pca([rows * factor], width, 4, torch.device("cpu")) for factor in (np.float32(1), 2.0**power))
    assert np.array_equal(scaled.components_, plain.components_)
    np.testing.assert_allclose(scaled.explained_variance_ratio_, plain.explained_variance_ratio_)


# --- a features file, reduced ---


def write(path: Path, count: int, width: int, sides: tuple[str, ...]) -> None:
    """A features file of `count` items in two views."""
    generator = np.random.default_rng(0)
    row = row_type(sides, width, 12)
    names = [[f"{number}.{side}" for side in sides] for number in range(count)]
    with FeaturesWriter(path, row, count, views=2) as writer:
        values = [generator.normal(size=(count, len(sides), width)).astype(np.float32) for _ in range(2)]
        writer.put(0, [make_rows(row, names, value, view) for view, value in enumerate(values)])


def reduce_file(source: Path, target: Path, pca_file: Path, components: int, columns: slice = slice(None)) -> PCA:
    """Reduces a features file into another one."""
    rows = open_features(source)
    with FeaturesWriter(target, row_type(rows.sides, components, rows.name_length), rows.count) as writer:
        pca = reduce_features(rows, columns, writer, pca_file, components, CPU)
    return pca


@pytest.mark.parametrize("sides", [("left", "right"), ("features",)])
def test_reduction_is_a_pca_fitted_on_all_sides_and_views(
    sides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, pca_file = (tmp_path / name for name in ("f.npy", "f_pca3.npy", "pca3.skops"))
    write(source, 30, 7, sides)
    monkeypatch.setattr(features_file, "CHUNK_BYTES", 500)
    pca = reduce_file(source, target, pca_file, 3)
    before, after = np.load(source), np.load(target)
    stacked = np.concatenate([before[side] for side in sides]).astype(np.float64)
    reference = PCA(3, svd_solver="full").fit(stacked)
    assert pca.n_samples_ == len(stacked) == 60 * len(sides)
    for side in sides:
        assert after[side].shape == (60, 3)
        assert np.allclose(after[side], reference.transform(before[side].astype(np.float64)), atol=1e-5)
    for name in set(before.dtype.names) - set(sides):
        assert np.array_equal(after[name], before[name])
        assert after.dtype[name] == before.dtype[name]
    assert np.array_equal(load_pca(pca_file).components_, pca.components_)


def test_reduction_of_some_columns_is_that_of_a_file_of_those_alone(tmp_path: Path) -> None:
    write(tmp_path / "f.npy", 20, 7, ("left", "right"))
    whole = np.load(tmp_path / "f.npy")
    row = row_type(("left", "right"), 3, 12)
    part = np.zeros(len(whole), row)
    for name in row.names or ():
        part[name] = whole[name][:, 2:5] if name in ("left", "right") else whole[name]
    np.save(tmp_path / "part.npy", part)
    for source, columns in (("f", slice(2, 5)), ("part", slice(None))):
        reduce_file(tmp_path / f"{source}.npy", tmp_path / f"{source}_r.npy", tmp_path / "p.skops", 2, columns)
    assert np.array_equal(np.load(tmp_path / "f_r.npy"), np.load(tmp_path / "part_r.npy"))
    assert load_pca(tmp_path / "p.skops").n_features_in_ == 3


def test_chunks_do_not_matter_to_the_reduction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f.npy", 30, 7, ("left", "right"))
    reduced = []
    for chunk_bytes in (1, 1000, 2**26):
        monkeypatch.setattr(features_file, "CHUNK_BYTES", chunk_bytes)
        reduce_file(tmp_path / "f.npy", tmp_path / "r.npy", tmp_path / "p.skops", 3)
        reduced.append(np.load(tmp_path / "r.npy")["left"])
    assert np.allclose(reduced[0], reduced[1], atol=1e-6)
    assert np.allclose(reduced[0], reduced[2], atol=1e-6)


def peak_of_reduction(folder: Path, count: int) -> int:
    """The most bytes that numpy and Python hold at once while a file of `count` pairs is reduced."""
    write(folder / "f.npy", count, 64, ("left", "right"))
    tracemalloc.start()
    reduce_file(folder / "f.npy", folder / "r.npy", folder / "p.skops", 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_file, "CHUNK_BYTES", 200_000)
    peak_of_reduction(tmp_path, 500)  # imports
    small, large = (peak_of_reduction(tmp_path, count) for count in (500, 5000))
    assert (tmp_path / "f.npy").stat().st_size > 5_000_000
    assert large - small < 200_000
