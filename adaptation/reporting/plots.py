"""The figures: curves of the runs, and bars of the models that are compared."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adaptation.reporting.comparison import Record
from adaptation.trainer import Scores
from common.storage.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FROZEN, ADAPTED = "tab:orange", "tab:blue"  # in both figures
THICKNESS = 0.4  # of a bar, where models are 1 apart


def write_curves(folder: Path, runs: Sequence[Scores], ks: Sequence[int]) -> None:
    """Draws aR@k over the epochs, mean of the runs and the band of one standard deviation, as `curves.png`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(ks), 4), layout="constrained")
    for k, axes in zip(ks, figure.subplots(1, len(ks), squeeze=False)[0], strict=True):
        metric = f"top {k}"
        for name, colour, curves in (
            ("train", "tab:grey", [run.train[metric] for run in runs]),
            ("test", ADAPTED, [run.test[metric] for run in runs]),
        ):
            mean, sd = np.mean(curves, axis=0), np.std(curves, axis=0)
            epochs = np.arange(1, len(mean) + 1)
            axes.plot(epochs, mean, color=colour, label=name, marker="." if len(mean) == 1 else "")
            axes.fill_between(epochs, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
        frozen = float(np.mean([run.frozen[metric] for run in runs]))
        axes.axhline(frozen, color=FROZEN, linestyle="--", label="frozen features, test")
        axes.set(title=f"aR@{k}", xlabel="epoch", ylim=(0, 1))
        axes.legend(loc="lower right")
    with written_whole(folder / "curves.png") as partial:
        figure.savefig(partial, dpi=120)


def draw_bars(records: Sequence[Record]) -> dict[str, bytes]:
    """Frozen and adapted aR@k of each model with their 95 % intervals, a panel for each k, models in the order of the
    records: the `png` and the `svg` of one figure. The same records give the same bytes."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "comparison"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name may have letters that the font does not
        figure = _bars(records)
        return {kind: _saved(figure, kind) for kind in ("png", "svg")}


def _bars(records: Sequence[Record]) -> Figure:
    from matplotlib.figure import Figure

    ks = sorted({record.k for record in records})
    models = [record.model for record in records if record.k == ks[0]]
    size = (1 + 0.075 * max(map(len, models)) + 3.2 * len(ks), 1.2 + 0.4 * len(models))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(ks), sharey=True, squeeze=False)[0]
    for k, axes in zip(ks, panels, strict=True):
        _panel(axes, [record for record in records if record.k == k])
        axes.set(title=f"aR@{k}", xlim=(0, 1))
    panels[0].set_yticks(range(len(models)), models, parse_math=False)
    panels[0].set_ylim(len(models) - 0.4, -0.6)  # the first on top
    runs = records[0].runs
    over = f"; whiskers: 95 % t interval over {runs} runs" if runs > 1 else ""
    figure.supxlabel(f"share of test pairs{over}", fontsize="medium")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure


def _panel(axes: Axes, records: Sequence[Record]) -> None:
    """The two bars of each model at one k."""
    places = np.arange(len(records))
    for offset, name, colour, values in (
        (-THICKNESS / 2, "frozen", FROZEN, [(record.frozen, record.frozen_low) for record in records]),
        (THICKNESS / 2, "adapted", ADAPTED, [(record.adapted, record.low) for record in records]),
    ):
        means = [mean for mean, _ in values]
        halves = [0.0 if low is None else mean - low for mean, low in values]  # the intervals are symmetric
        whiskers = {"elinewidth": 1, "capsize": 1.5}
        axes.barh(places + offset, means, THICKNESS, color=colour, label=name, xerr=halves, error_kw=whiskers)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _saved(figure: Figure, kind: str) -> bytes:
    """The figure in a format, without the time of day that an SVG would have in it."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()
