"""The figures, looked at as images."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from adaptation.data.pairs import Pairs
from adaptation.reporting import plots
from adaptation.reporting.comparison import Record
from adaptation.trainer import Run, Scores, Settings, train_runs

SETTINGS = Settings(epochs=3, temperature=15.0, ks=(1, 3))


def drawn_run(train: list[float], test: list[float]) -> Scores:
    return Scores(train={"top 1": train}, test={"top 1": test}, frozen={"top 1": 0.25})


@pytest.fixture
def run(pairs: Pairs) -> Run:
    return train_runs(pairs, SETTINGS, [2])[0]


# ---- curves


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def blue_rows(image: NDArray[np.uint8]) -> NDArray[np.intp]:
    """The rows in which the test curve's blue is found, left of the legend."""
    near = (np.abs(image.astype(int) - [31, 119, 180]) < 12).all(-1)
    return np.flatnonzero(near[:, : image.shape[1] // 2].any(1))


def test_the_plot_is_an_image_that_shows_the_test_curve(tmp_path: Path) -> None:
    plots.write_curves(tmp_path, [drawn_run([0.4, 0.4], [0.95, 0.95])], (1,))
    high = blue_rows(pixels(tmp_path / "curves.png"))
    plots.write_curves(tmp_path, [drawn_run([0.4, 0.4], [0.6, 0.6])], (1,))
    low = blue_rows(pixels(tmp_path / "curves.png"))
    assert high.size
    assert high.max() < low.min()  # rows count from above


def test_the_plot_has_a_part_for_every_k(tmp_path: Path, run: Run) -> None:
    plots.write_curves(tmp_path, [run], (1,))
    one = pixels(tmp_path / "curves.png").shape
    plots.write_curves(tmp_path, [run], (1, 3))
    assert pixels(tmp_path / "curves.png").shape == (one[0], 2 * one[1], 3)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


# ---- bars


def record(model: str, k: int, frozen: float, adapted: float, half: float | None = 0.05) -> Record:
    shown = (adapted, frozen) if half is not None else ()
    low, frozen_low = [mean - (half or 0) for mean in shown] or (None, None)
    high, frozen_high = [mean + (half or 0) for mean in shown] or (None, None)
    return Record(
        rank=1,
        model=model,
        folder=model,
        width=256,
        pca="none",
        k=k,
        runs=5,
        frozen=frozen,
        frozen_sd=0.01,
        frozen_low=frozen_low,
        frozen_high=frozen_high,
        adapted=adapted,
        sd=0.01,
        low=low,
        high=high,
        factor=2.0,
        difference=None,
        difference_low=None,
        difference_high=None,
    )


def records(count: int, ks: tuple[int, ...] = (1, 3, 5)) -> list[Record]:
    return [record(f"timm/model_{n}.of_some_length", k, 0.2, 0.8 - n / 60) for n in range(count) for k in ks]


def image(contents: dict[str, bytes]) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(contents["png"])) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def near(shown: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((np.abs(shown.astype(int) - colour) < 12).all(-1))


BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


def lengths(shown: NDArray[np.uint8], colour: tuple[int, int, int]) -> list[int]:
    """The lengths of the bars of a colour from top to bottom, below the legend."""
    longest = near(shown, colour)[60:].sum(1)
    edges = np.flatnonzero(np.diff((longest > 5).astype(int))).reshape(-1, 2)
    return [int(longest[start + 2 : stop - 1].max()) for start, stop in edges]


def test_bars_are_as_long_as_the_recalls_in_the_order_of_the_records() -> None:
    given = [record("a", 1, 0.2, 0.8, None), record("b", 1, 0.4, 0.4, None), record("c", 1, 0.1, 0.2, None)]
    shown = image(plots.draw_bars(given))
    adapted, frozen = lengths(shown, BLUE), lengths(shown, ORANGE)
    assert [round(length / adapted[0], 2) for length in adapted] == pytest.approx([1, 0.5, 0.25], abs=0.02)
    assert [round(length / adapted[0], 2) for length in frozen] == pytest.approx([0.25, 0.5, 0.125], abs=0.02)


def test_intervals_are_drawn_where_there_are_some() -> None:
    with_interval, without = (
        image(plots.draw_bars([record("a", 1, 0.2, 0.5, half), record("b", 1, 0.2, 0.5, half)])) for half in (0.2, None)
    )
    assert with_interval.shape == without.shape
    differing = np.flatnonzero((with_interval != without).any(-1).any(0))
    width = np.ptp(np.flatnonzero(near(without, BLUE)[60:].any(axis=0))) / 0.5  # pixels of a recall of 1
    assert np.ptp(differing) / width == pytest.approx(0.2 + 0.5, abs=0.05)  # from 0.2 - 0.2 to 0.5 + 0.2


@pytest.mark.parametrize("count", [2, 37])
def test_every_model_has_room_for_its_name(count: int) -> None:
    contents = plots.draw_bars(records(count))
    assert image(contents).shape[0] / 120 > 0.3 * count  # inches; a line of text takes 0.17
    svg = ElementTree.fromstring(contents["svg"])
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    shown = re.findall(rb"<!-- (.*?) -->", contents["svg"])
    assert [name.decode() for name in shown if name.startswith(b"timm")] == [
        f"timm/model_{number}.of_some_length" for number in range(count)
    ]
    assert [name.decode() for name in shown if name.startswith(b"aR@")] == ["aR@1", "aR@3", "aR@5"]


def test_the_same_numbers_give_the_same_bytes() -> None:
    one, other = plots.draw_bars(records(3)), plots.draw_bars(records(3))
    assert set(one) == {"png", "svg"}
    assert one == other
    assert b"<dc:date>" not in one["svg"]
    assert plots.draw_bars(records(4)) != one


@pytest.mark.parametrize("name", ["$x^$", r"\frac{", "a$b", "<&>--", "狐", "%s_%d", ""])
def test_odd_names_are_drawn_as_they_are(name: str) -> None:
    contents = plots.draw_bars([record(name, 1, 0.2, 0.5), record("b", 1, 0.2, 0.5)])
    ElementTree.fromstring(contents["svg"])
