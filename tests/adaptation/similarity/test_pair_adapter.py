"""The estimator beside `train.py` on the same pairs, beside plain numpy, and inside scikit-learn's own tools."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import train
from adaptation import memory, trainer
from adaptation.similarity import pair_adapter
from adaptation.similarity.pair_adapter import PairAdapter
from featuresExtractor.features.writing import write_pairs

Vectors = NDArray[np.float32]
PAIRS, WIDTH, NOISY = 40, 10, 2


def sides() -> tuple[Vectors, Vectors]:
    """40 pairs: eight numbers that partners share, and two louder ones that say nothing."""
    generator = np.random.default_rng(7)
    meaning = generator.standard_normal((PAIRS, WIDTH - NOISY))

    def side() -> Vectors:
        noise = generator.standard_normal((PAIRS, WIDTH))
        return np.hstack([meaning + 0.1 * noise[:, NOISY:], 3 * noise[:, :NOISY]]).astype(np.float32)

    return side(), side()


LEFT, RIGHT = sides()
TRAIN, TEST = slice(0, 30), slice(30, None)


def adapter(**changed: Any) -> PairAdapter:
    return PairAdapter(**{"n_components": 6, "epochs": 12, "device": "cpu", **changed})


def weights(fitted: PairAdapter) -> torch.Tensor:
    weight: torch.Tensor = fitted.head_.state_dict()["0.weight"]
    return weight


# ---- beside train.py


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["--pca-fit", "train", "--components", "6"], {}),
        (
            ["--batch-size", "8", "--loss", "sigmoid", "--seed", "4", "-t", "3"],
            {"n_components": None, "batch_size": 8, "loss": "sigmoid", "random_state": 4, "temperature": 3},
        ),
    ],
)
def test_the_adapter_is_the_first_run_of_train_on_the_same_split(
    flags: list[str], changed: dict[str, Any], tmp_path: Path
) -> None:
    names = [f"{row:02d}.jpg" for row in range(PAIRS)]
    write_pairs(tmp_path / "features.npy", LEFT, RIGHT, names)
    given = ["-d", str(tmp_path / "features.npy"), "-s", str(tmp_path / "run"), "-e", "12", "-t", "15", "--cpu"]
    assert train.main([*given, *flags]) == 0
    run = tmp_path / "run" / "run1"
    parts = {row["left_name"]: row["set"] for row in rows(run / "split.csv")}
    trained, tested = (np.array([parts[name] == part for name in names]) for part in ("train", "test"))
    assert (trained.sum(), tested.sum()) == (30, 10)

    fitted = adapter(**changed).fit(LEFT[trained], RIGHT[trained])
    expected = torch.load(run / "checkpoint.pt", weights_only=True)["head"]
    assert torch.equal(weights(fitted), expected["0.weight"])
    assert fitted.loss_curve_ == [float(row["Loss"]) for row in rows(run / "train.csv")]
    assert fitted.score(LEFT[tested], RIGHT[tested]) == float(rows(run / "val.csv")[-1]["top 1"])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- beside plain numpy


def reference(fitted: PairAdapter, vectors: Vectors) -> NDArray[np.float64]:
    """PCA, ReLU(W x), unit length, in float64."""
    reduced = vectors.astype(np.float64)
    if fitted.pca_ is not None:
        reduced = (reduced - fitted.pca_.mean_) @ fitted.pca_.components_.T
    embeddings = np.maximum(reduced @ weights(fitted).double().numpy().T, 0)
    unit: NDArray[np.float64] = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit


@pytest.mark.parametrize("n_components", [None, 6])
def test_embeddings_are_those_of_plain_numpy_and_have_unit_length(n_components: int | None) -> None:
    fitted = adapter(n_components=n_components).fit(LEFT, RIGHT)
    for side in (LEFT, RIGHT):
        embeddings = fitted.transform(side)
        assert embeddings.shape == (PAIRS, 1024)
        assert embeddings.dtype == np.float32
        assert np.linalg.norm(embeddings.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(embeddings, reference(fitted, side), atol=1e-5)


def test_score_is_the_share_of_pairs_that_find_each_other_from_one_side_or_the_other() -> None:
    fitted = adapter().fit(LEFT[TRAIN], RIGHT[TRAIN])
    similarities = reference(fitted, LEFT[TEST]) @ reference(fitted, RIGHT[TEST]).T
    partners = np.arange(len(similarities))
    hits = (similarities.argmax(1) == partners) | (similarities.argmax(0) == partners)
    assert 0 < hits.mean() < 1
    assert fitted.score(LEFT[TEST], RIGHT[TEST]) == pytest.approx(hits.mean())


def test_pca_is_fitted_on_both_sides_of_the_pairs() -> None:
    fitted = adapter().fit(LEFT, RIGHT)
    expected = PCA(6, svd_solver="full").fit(np.vstack([LEFT, RIGHT]).astype(np.float64))
    assert fitted.pca_ is not None
    np.testing.assert_allclose(fitted.pca_.mean_, expected.mean_, atol=1e-6)
    np.testing.assert_allclose(np.abs((fitted.pca_.components_ * expected.components_).sum(1)), 1, atol=1e-6)


def test_more_epochs_bring_partners_together() -> None:
    few, many = (adapter(epochs=epochs).fit(LEFT[TRAIN], RIGHT[TRAIN]) for epochs in (1, 80))
    assert many.score(LEFT[TEST], RIGHT[TEST]) > few.score(LEFT[TEST], RIGHT[TEST])
    assert len(many.loss_curve_) == 80
    assert many.loss_curve_[-1] < many.loss_curve_[0]


def test_dummy_head_gives_the_reduced_features_themselves() -> None:
    fitted = adapter(head="dummy").fit(LEFT, RIGHT)
    assert fitted.pca_ is not None
    reduced = fitted.pca_.transform(LEFT.astype(np.float64))
    np.testing.assert_allclose(
        fitted.transform(LEFT), reduced / np.linalg.norm(reduced, axis=1, keepdims=True), atol=1e-5
    )
    assert len(fitted.loss_curve_) == 1


def test_rows_are_embedded_in_parts_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = adapter().fit(LEFT, RIGHT)
    whole = fitted.transform(LEFT)
    monkeypatch.setattr(pair_adapter, "CHUNK_BYTES", 4 * 1024 * 7)
    np.testing.assert_allclose(fitted.transform(LEFT), whole, atol=1e-6)


# ---- kinds of input


@pytest.mark.parametrize(
    "kind",
    [
        lambda side: side.tolist(),
        lambda side: torch.from_numpy(side.copy()).requires_grad_(),
        lambda side: side.astype(np.float64),
        lambda side: np.asfortranarray(side),
        lambda side: side.astype(">f4"),
    ],
    ids=["lists", "tensors", "float64", "by columns", "big-endian"],
)
def test_lists_tensors_and_arrays_of_any_layout_are_alike(kind: Callable[[Vectors], Any]) -> None:
    expected, fitted = adapter().fit(LEFT, RIGHT), adapter().fit(kind(LEFT), kind(RIGHT))
    assert torch.equal(weights(fitted), weights(expected))
    assert np.array_equal(fitted.transform(kind(LEFT)), expected.transform(LEFT))
    assert fitted.score(kind(LEFT), kind(RIGHT)) == expected.score(LEFT, RIGHT)


def test_arrays_are_not_changed_and_may_be_read_only() -> None:
    left, right = LEFT.copy(), RIGHT.copy()
    left.flags.writeable = right.flags.writeable = False
    fitted = adapter(n_components=None).fit(left, right)
    assert fitted.transform(left).flags.writeable
    assert np.array_equal(left, LEFT)
    assert np.array_equal(right, RIGHT)


def test_tensors_of_half_precision_are_taken() -> None:
    left, right = (torch.from_numpy(side).bfloat16() for side in (LEFT, RIGHT))
    fitted = adapter().fit(left, right)
    assert torch.equal(weights(fitted), weights(adapter().fit(left.float().numpy(), right.float().numpy())))


# ---- seeds


def test_a_seed_gives_the_same_head_each_time_and_another_seed_another() -> None:
    first = weights(adapter(random_state=3).fit(LEFT, RIGHT))
    assert torch.equal(first, weights(adapter(random_state=3).fit(LEFT, RIGHT)))
    assert torch.equal(first, weights(adapter(random_state=np.int64(3)).fit(LEFT, RIGHT)))
    assert not torch.equal(first, weights(adapter(random_state=4).fit(LEFT, RIGHT)))


def test_a_random_state_draws_a_seed_for_each_fit() -> None:
    one, other = (adapter(random_state=np.random.RandomState(5)) for _ in range(2))
    first, second = weights(one.fit(LEFT, RIGHT)), weights(one.fit(LEFT, RIGHT))
    assert not torch.equal(first, second)
    assert torch.equal(first, weights(other.fit(LEFT, RIGHT)))
    np.random.seed(1)
    third = weights(adapter(random_state=None).fit(LEFT, RIGHT))
    assert not torch.equal(third, weights(adapter(random_state=None).fit(LEFT, RIGHT)))


# ---- inside scikit-learn


def test_parameters_are_those_of_the_signature_and_a_clone_has_them() -> None:
    defaults = {
        **{"n_components": 256, "temperature": 15.0, "epochs": 150, "head": "original", "loss": "contrastive"},
        **{"batch_size": None, "random_state": 0, "device": None},
    }
    assert PairAdapter().get_params() == defaults
    given = PairAdapter().set_params(temperature=3, epochs=2)
    assert given.get_params() == {**defaults, "temperature": 3, "epochs": 2}
    fitted = adapter().fit(LEFT, RIGHT)
    copied = clone(fitted)
    assert copied.get_params() == fitted.get_params()
    assert not hasattr(copied, "head_")
    assert torch.equal(weights(copied.fit(LEFT, RIGHT)), weights(fitted))


def test_grid_search_chooses_a_temperature_by_the_score_of_each_fold() -> None:
    folds = KFold(4, shuffle=True, random_state=0)
    search = GridSearchCV(adapter(epochs=40), {"temperature": [0.01, 15.0]}, cv=folds).fit(LEFT, RIGHT)
    for row, temperature in enumerate((0.01, 15.0)):
        for fold, (some, others) in enumerate(folds.split(LEFT)):
            fitted = adapter(epochs=40, temperature=temperature).fit(LEFT[some], RIGHT[some])
            assert search.cv_results_[f"split{fold}_test_score"][row] == fitted.score(LEFT[others], RIGHT[others])
    best = max(
        (0.01, 15.0), key=dict(zip((0.01, 15.0), search.cv_results_["mean_test_score"], strict=True)).__getitem__
    )
    assert search.best_params_ == {"temperature": best}
    expected = adapter(epochs=40, temperature=best).fit(LEFT, RIGHT)
    assert torch.equal(weights(search.best_estimator_), weights(expected))


def test_steps_before_it_in_a_pipeline_change_the_left_sides_alone() -> None:
    pipeline = make_pipeline(StandardScaler(), adapter()).fit(LEFT, RIGHT)
    scaler = StandardScaler().fit(LEFT)
    expected = adapter().fit(scaler.transform(LEFT), RIGHT)
    assert torch.equal(weights(pipeline[-1]), weights(expected))
    assert np.array_equal(pipeline.transform(LEFT), expected.transform(scaler.transform(LEFT)))
    assert pipeline.score(LEFT, RIGHT) == expected.score(scaler.transform(LEFT), RIGHT)


def test_steps_behind_it_in_a_pipeline_get_embeddings() -> None:
    pipeline = make_pipeline(adapter(), PCA(2, svd_solver="full"))
    reduced = pipeline.fit_transform(LEFT, RIGHT)
    embeddings = adapter().fit_transform(LEFT, RIGHT)
    np.testing.assert_allclose(reduced, PCA(2, svd_solver="full").fit_transform(embeddings), atol=1e-5)
    assert pipeline.transform(RIGHT).shape == (PAIRS, 2)


def test_embeddings_have_names() -> None:
    fitted = adapter().fit(LEFT, RIGHT)
    assert fitted.n_features_in_ == WIDTH
    names = fitted.get_feature_names_out()
    assert (len(names), names[0], names[-1]) == (1024, "pairadapter0", "pairadapter1023")


class SelfPaired(PairAdapter):
    """An adapter whose right sides are the left ones. scikit-learn's checks pass a y of one column or of class labels,
    which is no right side of any X with more columns; all else that they check is of the adapter itself."""

    def __init__(
        self,
        n_components: int | None = None,
        temperature: float = 15.0,
        epochs: int = 3,
        head: str = "original",
        loss: str = "contrastive",
        batch_size: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str | torch.device | None = "cpu",
    ) -> None:
        super().__init__(n_components, temperature, epochs, head, loss, batch_size, random_state, device)

    def fit(self, X: Any, y: Any) -> PairAdapter:
        right: Any = None if y is None else X
        return super().fit(X, right)

    def score(self, X: Any, y: Any) -> float:
        return super().score(X, X)


@pytest.mark.parametrize("n_components", [None, 1])
def test_all_checks_of_scikit_learn_hold_but_for_their_y(n_components: int | None) -> None:
    results = check_estimator(SelfPaired(n_components), on_skip=None)
    passed = [result["check_name"] for result in results if result["status"] == "passed"]
    assert [result["check_name"] for result in results if result["status"] == "failed"] == []
    assert len(passed) > 40
    assert {"check_transformer_general", "check_fit_score_takes_y", "check_requires_y_none"} <= {*passed}


def test_checks_of_scikit_learn_fail_by_the_shape_of_their_y_alone() -> None:
    results = check_estimator(adapter(n_components=None, epochs=1), on_fail=None, on_skip=None)
    failed = {result["check_name"]: str(result["exception"]) for result in results if result["status"] == "failed"}
    about_y = ("the shapes must be equal", "Expected 2D array, got 1D array instead", "raised ValueError unexpectedly")
    assert {name for name, message in failed.items() if not any(part in message for part in about_y)} == set()
    assert {"check_requires_y_none", "check_get_params_invariance", "check_estimators_unfitted"}.isdisjoint(failed)


# ---- errors


@pytest.mark.parametrize("use", [lambda new: new.transform(LEFT), lambda new: new.score(LEFT, RIGHT)])
def test_an_adapter_that_was_not_fitted_says_so(use: Callable[[PairAdapter], object]) -> None:
    failed = adapter(epochs=0)
    with pytest.raises(ValueError, match="epochs"):
        failed.fit(LEFT, RIGHT)
    for new in (adapter(), failed):
        with pytest.raises(NotFittedError, match="PairAdapter instance is not fitted yet"):
            use(new)


SHAPES = "; row i of both is pair i, so that the shapes must be equal"
WRONG_PARAMETERS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"n_components": 11},
        ValueError,
        "n_components=11: 80 vectors of 10 features have 1 to 10 principal components; None uses the features as they "
        "are",
    ),
    ({"n_components": 0}, ValueError, "n_components == 0, must be >= 1."),
    ({"epochs": 0}, ValueError, "epochs == 0, must be >= 1."),
    ({"epochs": 1.5}, TypeError, "epochs must be an instance of int, not float."),
    ({"temperature": 0}, ValueError, "temperature == 0, must be > 0."),
    (
        {"temperature": 1e38},
        ValueError,
        "the loss is not finite at a temperature (-t) of 1e+38; give a smaller one",
    ),
    ({"batch_size": 0}, ValueError, "batch_size == 0, must be >= 1."),
    ({"random_state": -1}, ValueError, "random_state == -1, must be >= 0."),
    ({"random_state": "x"}, ValueError, "'x' cannot be used to seed a numpy.random.RandomState instance"),
    (
        {"head": "orignal"},
        ValueError,
        "unknown head 'orignal'; did you mean 'original'? allowed are original, peterson, dummy, and one of your own: "
        "FILE.py:NAME",
    ),
    (
        {"loss": "triplet"},
        ValueError,
        "unknown loss 'triplet'; allowed are contrastive, sigmoid, and one of your own: FILE.py:NAME",
    ),
    ({"head": "no/such.py:Head"}, ValueError, "no/such.py: cannot be read (No such file or directory)"),
    ({"device": "tpu"}, ValueError, "device='tpu': 'cpu', 'cuda', or None for the GPU where there is one"),
]


@pytest.mark.parametrize(("changed", "kind", "message"), WRONG_PARAMETERS)
def test_a_wrong_parameter_is_named_when_it_is_fitted(
    changed: dict[str, Any], kind: type[Exception], message: str
) -> None:
    wrong = adapter(**changed)
    with pytest.raises(kind) as raised:
        wrong.fit(LEFT, RIGHT)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (LEFT, RIGHT[:39], f"X (left) has shape (40, 10) and y (right) (39, 10){SHAPES}"),
        (LEFT, RIGHT[:, :9], f"X (left) has shape (40, 10) and y (right) (40, 9){SHAPES}"),
        (
            LEFT,
            None,
            "PairAdapter requires y to be passed, but the target y is None; give the right sides of the pairs",
        ),
        (LEFT[:1], RIGHT[:1], "Found array with 1 sample(s) (shape=(1, 10)) while a minimum of 2 is required by PairA"),
        (LEFT * np.nan, RIGHT, "Input X contains NaN."),
        (LEFT, RIGHT * np.inf, "Input y contains infinity or a value too large for dtype('float32')."),
        (LEFT, RIGHT.astype(np.float64) * 1e39, "Input y contains infinity or a value too large for dtype('float32')."),
        (LEFT, RIGHT[0], "Expected 2D array, got 1D array instead"),
        (LEFT, np.ones_like(RIGHT), "y (right): the vectors are all alike; likely causes: weights that do not belong"),
        (LEFT * 0, RIGHT, "X (left): the vectors are all zero; likely causes: weights that do not belong"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(left: Any, right: Any, message: str) -> None:
    with pytest.raises(ValueError) as raised, np.errstate(all="ignore"):  # noqa: PT011
        adapter().fit(left, right)
    assert str(raised.value).startswith(message)


def test_pairs_of_another_width_are_refused_once_fitted() -> None:
    fitted = adapter().fit(LEFT, RIGHT)
    for use in (lambda: fitted.transform(LEFT[:, :9]), lambda: fitted.score(LEFT[:, :9], RIGHT[:, :9])):
        with pytest.raises(ValueError, match="X has 9 features, but PairAdapter is expecting 10 features"):
            use()


def test_too_little_memory_is_a_memory_error_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda _: 1e5)
    with pytest.raises(
        MemoryError, match=r"training on 40 pairs takes some .*; batch_size takes fewer pairs at a time"
    ):
        adapter().fit(LEFT, RIGHT)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=repr,
)
def test_a_gpu_that_is_full_while_training_is_a_memory_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(trainer, "train_epoch", full)
    with pytest.raises(MemoryError) as caught:
        adapter().fit(LEFT, RIGHT)
    assert str(caught.value) == str(error)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device='cuda:0': torch finds no such GPU; 'cpu', 'cuda', or None"):
        adapter(device="cuda:0").fit(LEFT, RIGHT)


@pytest.mark.gpu
def test_a_gpu_learns_what_the_cpu_learns_and_the_head_can_be_used_on_either() -> None:
    fitted, expected = (adapter(device=device).fit(LEFT, RIGHT) for device in ("cuda", "cpu"))
    torch.testing.assert_close(weights(fitted), weights(expected), atol=1e-4, rtol=1e-3)
    embeddings = fitted.transform(LEFT)
    np.testing.assert_allclose(fitted.set_params(device="cpu").transform(LEFT), embeddings, atol=1e-5)
    assert fitted.score(LEFT, RIGHT) == fitted.set_params(device="cuda").score(LEFT, RIGHT)


HEAD = """
from torch import nn

class Tanh(nn.Sequential):
    def __init__(self, features):
        super().__init__(nn.Linear(features, 5), nn.Tanh())
"""


def test_a_head_of_a_file_of_the_users_is_trained(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HEAD, encoding="utf-8")
    fitted = adapter(head=f"{tmp_path / 'mine.py'}:Tanh").fit(LEFT, RIGHT)
    assert fitted.transform(LEFT).shape == (PAIRS, 5)
    assert type(fitted.head_).__name__ == "Tanh"
