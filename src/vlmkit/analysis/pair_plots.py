"""Figures of classification results: heat maps, embeddings and errors. This module needs `vlmkit[viz]`.

Each function returns a `matplotlib.figure.Figure`, independent of pyplot. Save it with `figure.savefig("a.png")`.
"""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter
from PIL import Image

from vlmkit.analysis.figure_style import GREEN, GREY, SERIES, VERMILION, draw_cells, draw_heat_map
from vlmkit.images import to_rgb
from vlmkit.validation import check_at_least

_MARKERS = "os^Dv"


def heat_overlay(
    images: Sequence[Image.Image], maps: np.ndarray, *, titles: Sequence[str] | None = None, columns: int = 4
) -> Figure:
    """Draw each image, and below it the heat map over a gray copy of the image.

    The colors of a map range from its minimum (dark) to its maximum (bright). Both are written below the map.

    Args:
        images: N images of any size.
        maps: `(N, h, w)`, such as the output of `class_attention` or `occlusion_map`.
        titles: N titles above the images.
        columns: Number of images in a row.

    Raises:
        ValueError: If `images` is empty, the numbers of images, maps and titles differ, or `columns` is less than 1.

    Example:
        >>> squares = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
        >>> figure = heat_overlay(squares, np.arange(32).reshape(2, 4, 4), titles=["red", "blue"])
        >>> len(figure.axes)
        4
    """
    maps = np.asarray(maps, dtype=float)
    titles = [""] * len(images) if titles is None else titles
    if len(images) == 0 or maps.ndim != 3 or not len(images) == len(maps) == len(titles):
        raise ValueError(
            "`images`, `maps` (N, h, w) and `titles` must have the same length of at least 1, but got "
            f"{len(images)} images, maps {maps.shape} and {len(titles)} titles."
        )
    figure, cells = _image_grid(images, columns, rows_per_image=2)
    for (upper, lower), image, heat, title in zip(cells, images, maps, titles, strict=True):
        upper.imshow(to_rgb(image))
        upper.set_title(title, fontsize=8)
        draw_heat_map(lower, image=image, heat_map=heat, norm=Normalize(heat.min(), heat.max()))
        lower.set_xlabel(f"{heat.min():.2g} to {heat.max():.2g}", fontsize=7, color=GREY)
    return figure


def error_gallery(
    images: Sequence[Image.Image],
    *,
    true_captions: Sequence[str],
    predicted_captions: Sequence[str],
    probabilities: Sequence[float],
    columns: int = 4,
) -> Figure:
    """Draw images with their true caption in green above, and the predicted caption and its probability in red below.

    Args:
        images: N images of any size.
        true_captions: N true captions.
        predicted_captions: N predicted captions.
        probabilities: `(N,)`, probabilities of the predicted captions, from 0 to 1.
        columns: Number of images in a row.

    Raises:
        ValueError: If `images` is empty, the numbers of images, captions and probabilities differ, or `columns` is less
            than 1.

    Example:
        >>> image = Image.new("RGB", (8, 4))
        >>> true, predicted = ["oak, bus"], ["pine, bus"]
        >>> figure = error_gallery([image], true_captions=true, predicted_captions=predicted, probabilities=[0.75])
        >>> figure.axes[0].get_title(), figure.axes[0].get_xlabel()
        ('oak, bus', 'pine, bus (75 %)')
    """
    lengths = [len(images), len(true_captions), len(predicted_captions), len(probabilities)]
    if min(lengths) == 0 or len(set(lengths)) > 1:
        raise ValueError(
            "`images`, `true_captions`, `predicted_captions` and `probabilities` must have the same length of at least "
            f"1, but got {lengths}."
        )
    answers = [f"{caption} ({100 * p:.0f} %)" for caption, p in zip(predicted_captions, probabilities, strict=True)]
    above, below = (["\n".join(textwrap.wrap(text, width=32)) for text in texts] for texts in (true_captions, answers))
    num_lines = sum(1 + max(text.count("\n") for text in texts) for texts in (above, below))
    figure, cells = _image_grid(images, columns, rows_per_image=1, text_height=0.25 + 0.16 * num_lines)
    for (axes,), image, true, predicted in zip(cells, images, above, below, strict=True):
        axes.imshow(to_rgb(image))
        axes.set_title(true, fontsize=8, color=GREEN)
        axes.set_xlabel(predicted, fontsize=8, color=VERMILION)
    return figure


def embedding_map(points: np.ndarray, *, series: Sequence[str], background: np.ndarray | None = None) -> Figure:
    """Draw embeddings as points in the plane, with a color and marker for each series.

    Args:
        points: `(N, 2)`, output of `project_embeddings`.
        series: Name of the series of each point. Up to 30 series can be distinguished.
        background: `(M, 2)`, small gray points in the background, such as captions that were projected in the same
            call.

    Raises:
        ValueError: If the shapes do not match, or `points` is empty.

    Example:
        >>> figure = embedding_map(np.eye(2), series=["cat", "dog"], background=np.zeros((5, 2)))
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['cat', 'dog']
    """
    points, behind = np.asarray(points), np.zeros((0, 2)) if background is None else np.asarray(background)
    if len(points) == 0 or points.shape != (len(series), 2) or behind.shape != (len(behind), 2):
        raise ValueError(
            "`points` must have the shape (N, 2) with N >= 1, `series` the length N and `background` the shape (M, 2), "
            f"but got {points.shape}, {len(series)} and {behind.shape}."
        )
    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.scatter(behind[:, 0], behind[:, 1], s=4, color="#CCCCCC", linewidths=0)
    names = np.asarray(series)
    styles = itertools.product(_MARKERS, SERIES)
    for name, (marker, color) in zip(dict.fromkeys(names.tolist()), itertools.cycle(styles)):
        x, y = points[names == name].T
        axes.scatter(x, y, s=22, color=color, marker=marker, linewidths=0, label=name)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_color("#CCCCCC")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, labelspacing=0.3)
    return figure


def confusion_heatmap(confusion: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix in percent of each true class (row). Empty cells are 0.

    Args:
        confusion: `(C, C)` counts, output of `confusion_matrix` or `merge_classes`.
        names: Names of the C classes.

    Raises:
        ValueError: If the matrix has another size than the names, or all counts are 0.

    Example:
        >>> figure = confusion_heatmap(np.array([[3, 1], [0, 2]]), ["oak", "pine"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['75', '25', '', '100']
    """
    counts = np.asarray(confusion, dtype=float)
    if counts.shape != (len(names), len(names)) or not counts.sum() > 0:
        raise ValueError(
            f"`confusion` must have the shape ({len(names)}, {len(names)}), one row and column for each of `names`, "
            f"and a positive sum, but got {counts.shape} with a sum of {counts.sum():g}."
        )
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    cells = [[f"{share:.0f}" if share > 0 else "" for share in row] for row in shares]
    side = max(4.0, 1.8 + 0.36 * len(names))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    draw_cells(axes, shares, texts=np.array(cells), fontsize=8)
    centers = np.arange(len(names)) + 0.5
    axes.set_xticks(centers, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(centers, names, fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted, percent of the row", fontsize=9, color=GREY)
    axes.set_ylabel("true", fontsize=9, color=GREY)
    return figure


def metric_ladder(
    rows: Sequence[str], *, metrics: Mapping[str, Sequence[float]], references: Mapping[str, float]
) -> Figure:
    """Draw the metrics of the rows of an ablation on a logarithmic scale.

    Args:
        rows: N names of rows, in the order in which changes were added.
        metrics: N values from 0 to 1 for each metric. Up to six metrics can be distinguished.
        references: Value of each metric for predictions that ignore the images, drawn as a dotted line of the same
            color.

    Raises:
        ValueError: If `rows` is empty, or a metric has another number of values or lacks a reference.

    Example:
        >>> figure = metric_ladder(["tiny", "large"], metrics={"top@1": [0.01, 0.02]}, references={"top@1": 0.005})
        >>> figure.axes[0].get_ylabel()
        'percent'
    """
    for name, values in metrics.items():
        if len(rows) == 0 or len(values) != len(rows) or name not in references:
            raise ValueError(
                f"Metric {name!r} must have one value for each row, at least one row, and a reference, but got "
                f"{len(values)} values for {len(rows)} rows, and references for {', '.join(references)}."
            )
    figure = Figure(figsize=(1.6 + 0.9 * len(rows), 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, values), color in zip(metrics.items(), itertools.cycle(SERIES)):
        axes.plot(range(len(rows)), [100 * value for value in values], marker="o", color=color, label=name)
        axes.axhline(100 * references[name], color=color, linestyle=":", linewidth=1)
        for place, value in enumerate(values):
            text = axes.annotate(f"{100 * value:.1f}", (place, 100 * value), (0, 5), textcoords="offset points")
            text.set(color=color, ha="center", fontsize=8)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xticks(range(len(rows)), rows, rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_ylabel("percent")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=len(metrics), frameon=False, fontsize=8)
    return figure


def _image_grid(
    images: Sequence[Image.Image], columns: int, rows_per_image: int, text_height: float = 0.25
) -> tuple[Figure, list[list[Axes]]]:
    """Create a figure with `rows_per_image` empty axes for each image in a column, `text_height` inches apart."""
    check_at_least("columns", columns)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns) * rows_per_image
    width = 2.2
    height = width * max(image.height / image.width for image in images)
    size = (columns * (width + 0.2), rows * (height + text_height) + 0.1)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.05))
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    cells = [
        [grid[top + row, column] for row in range(rows_per_image)]
        for top in range(0, rows, rows_per_image)
        for column in range(columns)
    ]
    for unused in itertools.chain(*cells[len(images) :]):
        unused.remove()
    return figure, cells[: len(images)]
