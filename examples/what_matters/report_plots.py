"""Plots of a report: the quality of rows, alone and over what they cost."""

import itertools
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from runs import Rows, baselines_of, mean_of, metric_of, score_of_runs
from verdicts import PUBLISHED

from vlmkit.analysis.figure_style import BLUE, GREY, SERIES, VERMILION

_MARKERS = "os^DvP*X"


def plot_quality(study: str, rows: Rows) -> Figure:
    """A dot per row with two standard errors and its best baseline; the five rows have the published ones beside."""
    metric, names, published = metric_of(rows), list(rows), study == "five"
    figure = Figure(figsize=(10 if published else 7, 1.4 + 0.45 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 1 + published, sharey=True, squeeze=False)[0]
    size = _size(metric)
    for place, (name, runs) in enumerate(rows.items()):
        score, baselines = score_of_runs(runs), baselines_of(runs)
        bar = None if math.isnan(score.error) else 2 * size * score.error
        ours, best = ("mean, two standard errors", "best baseline") if place == 0 else (None, None)
        panels[0].errorbar(size * score.mean, place, xerr=bar, fmt="o", color=BLUE, capsize=3, label=ours)
        panels[0].plot(size * max(baselines, default=math.nan), place, "|", color=GREY, ms=14, label=best)
        if published and name in PUBLISHED:
            panels[1].plot(PUBLISHED[name], place, "D", color=VERMILION)
        if any(run["diverged"] for run in runs):
            names[place] = f"{name} (diverged)"
    _tidy(panels[0], metric)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    if published:
        _tidy(panels[1], "published average")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    return figure


def plot_against(studies: dict[str, Rows], cost: str, label: str) -> Figure:
    """The scores of all rows over what they cost: a colour per study, a marker per row."""
    metric = metric_of(next(iter(studies.values())))
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots()
    for (study, rows), colour in zip(studies.items(), itertools.cycle(SERIES)):
        for (name, runs), marker in zip(rows.items(), itertools.cycle(_MARKERS)):
            price, score = mean_of([run.get(cost) for run in runs]), score_of_runs(runs)
            if metric_of(rows) == metric and price > 0 and score.seeds:
                bar = None if math.isnan(score.error) else 2 * _size(metric) * score.error
                style = {"fmt": marker, "color": colour, "capsize": 3, "label": f"{study}: {name}"}
                axes.errorbar(price, _size(metric) * score.mean, yerr=bar, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=label, ylabel=f"{_axis(metric)}; bars: two standard errors")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.containers:
        figure.legend(loc="outside right upper", frameon=False, fontsize=7)
    return figure


def _tidy(axes: Axes, metric: str) -> None:
    axes.set_xlabel(_axis(metric))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _axis(metric: str) -> str:
    return metric if metric.startswith("cider") else f"{metric}, per cent"


def _size(metric: str) -> float:
    """Accuracies are shown in per cent."""
    return 100 if metric == "accuracy" else 1
