"""Figures of retrieval results. This module needs `vlmkit[viz]`.

Each function returns a `matplotlib.figure.Figure`, independent of pyplot. Save it with `figure.savefig("a.png")`.
"""

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox
from PIL import Image

from vlmkit.analysis.figure_style import GREY, SERIES, VERMILION, draw_cells
from vlmkit.images import to_rgb


def recall_heatmap(
    values: np.ndarray,
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    published: np.ndarray | None = None,
) -> Figure:
    """Draw a table of recalls in percent, with darker cells for higher values.

    Args:
        values: `(V, L)` from 0 to 1, such as one recall for each vision and language model. Missing values are NaN.
        row_labels: Labels of the V rows.
        column_labels: Labels of the L columns.
        title: Title above the table.
        published: `(V, L)` values of a paper, written in brackets below the values. Missing values are NaN.

    Raises:
        ValueError: If the numbers of labels or the shape of `published` do not match `values`.

    Example:
        >>> recall = np.array([[0.25, 0.36]])
        >>> columns = ["GPT-2", "GPT-2 medium"]
        >>> figure = recall_heatmap(recall, row_labels=["ViT-B"], column_labels=columns, title="recall@5")
        >>> figure.axes[0].texts[1].get_text()
        '36.0'
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(row_labels), len(column_labels)) or values.size == 0:
        raise ValueError(
            f"`values` must have the shape ({len(row_labels)}, {len(column_labels)}), one row for each of `row_labels` "
            f"and one column for each of `column_labels`, and must not be empty, but got {values.shape}."
        )
    texts = np.vectorize(_percent)(values).astype(object)
    if published is not None:
        published = np.asarray(published, dtype=float)
        if published.shape != values.shape:
            raise ValueError(f"`published` must have the shape {values.shape} of `values`, but got {published.shape}.")
        texts += np.vectorize(lambda theirs: f"\n({_percent(theirs)})")(published)

    rows, columns = values.shape
    cell_width = max(1.1, 0.09 * max(map(len, column_labels)))
    figure = Figure(figsize=(max(4.5, 1.2 + cell_width * columns), 1.2 + 0.7 * rows), layout="constrained")
    axes = figure.subplots()
    draw_cells(axes, values, texts=texts)
    axes.set_aspect("auto")
    axes.set_title(title, fontsize=11, loc="left", pad=10)
    axes.set_xticks(np.arange(columns) + 0.5, column_labels)
    axes.set_yticks(np.arange(rows) + 0.5, row_labels)
    axes.tick_params(length=0)
    unit = "percent" if published is None else "percent, published values in brackets"
    axes.set_xlabel(unit, fontsize=9, color=GREY, loc="left", labelpad=8)
    return figure


def similarity_grid(images: Sequence[Image.Image], captions: Sequence[str], *, similarity: np.ndarray) -> Figure:
    """Draw a matrix of similarities with images on the left and captions on top. True pairs are framed.

    Args:
        images: N images of any size.
        captions: N captions, one for each image.
        similarity: `(N, N)`, similarities of images (rows) and captions (columns).

    Raises:
        ValueError: If the numbers of images and captions differ, or `similarity` has another shape.

    Example:
        >>> squares = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
        >>> figure = similarity_grid(squares, ["a red square", "a blue square"], similarity=np.eye(2))
        >>> len(figure.axes[0].images)
        3
    """
    similarity = np.asarray(similarity, dtype=float)
    count = len(images)
    if count == 0 or len(captions) != count or similarity.shape != (count, count):
        raise ValueError(
            "`images` and `captions` must have the same length N of at least 1, and `similarity` the shape (N, N), but "
            f"got {count}, {len(captions)} and {similarity.shape}."
        )
    headings = [textwrap.wrap(caption, width=17, max_lines=6, placeholder=" …") for caption in captions]
    # Space for images to the left of the matrix and headings above it, in units of a cell.
    left, top = 1.04, 0.15 + 0.12 * max(map(len, headings), default=0)
    figure = Figure(figsize=(1.1 * (left + count), 1.1 * (top + count)))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    draw_cells(axes, similarity, texts=np.vectorize("{:.2f}".format)(similarity))
    for index, (image, heading) in enumerate(zip(images, headings, strict=True)):
        half_width, half_height = 0.46 * np.array(image.size) / max(image.size)
        x, y = -0.54, index + 0.5
        axes.imshow(to_rgb(image), extent=(x - half_width, x + half_width, y + half_height, y - half_height))
        axes.text(index + 0.5, -0.08, "\n".join(heading), ha="center", va="bottom", fontsize=7.5)
        axes.add_patch(Rectangle((index + 0.03, index + 0.03), 0.94, 0.94, fill=False, edgecolor=VERMILION, lw=2))
    axes.set(xlim=(-left, count), ylim=(count, -top), xticks=[], yticks=[])
    return figure


def recall_versus_parameters(
    parameters: Sequence[int],
    *,
    recalls: Sequence[float],
    labels: Sequence[str],
    errors: Sequence[float] | None = None,
    series: Sequence[str] | None = None,
) -> Figure:
    """Draw recall in percent against the number of parameters on a logarithmic axis, with a label for each model.

    Args:
        parameters: `(P,)`, numbers of parameters. The axis is in millions.
        recalls: `(P,)`, recalls from 0 to 1.
        labels: P labels.
        errors: `(P,)`, half lengths of the error bars, from 0 to 1.
        series: Name of the series of each point. Each series has a color and an entry in the legend.

    Raises:
        ValueError: If the lengths differ, or a number of parameters is not positive.

    Example:
        >>> figure = recall_versus_parameters([22_000_000, 86_000_000], recalls=[0.25, 0.36], labels=["ViT-S", "ViT-B"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['ViT-S', 'ViT-B']
    """
    lengths = [len(given) for given in (recalls, labels, errors, series) if given is not None]
    if any(length != len(parameters) for length in lengths):
        raise ValueError(
            f"`recalls`, `labels`, `errors` and `series` must have the length {len(parameters)} of `parameters`, but "
            f"got {lengths}."
        )
    if min(parameters, default=0) <= 0:
        raise ValueError(f"`parameters` must be positive and not empty, but got {list(parameters)}.")

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    x, y = np.asarray(parameters) / 1e6, 100 * np.asarray(recalls)
    bars = 100 * np.asarray([0] * len(y) if errors is None else errors)
    names = np.asarray([""] * len(y) if series is None else series)
    style: dict[str, Any] = {"fmt": "o", "ecolor": GREY, "elinewidth": 1, "capsize": 3, "markersize": 7}
    for name, color in zip(dict.fromkeys(names.tolist()), itertools.cycle(SERIES)):
        of_name = names == name
        axes.errorbar(x[of_name], y[of_name], yerr=bars[of_name], color=color, label=name, **style)
    if series is not None:
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda millions, _: f"{millions:g}"))
    axes.set_xlabel("parameters, millions")
    axes.set_ylabel("recall, percent")
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.draw_without_rendering()  # fixes the layout, and with it the positions in pixels
    _label_points(axes, x, y, bars, labels)
    return figure


def _percent(fraction: float) -> str:
    return "-" if np.isnan(fraction) else f"{100 * fraction:.1f}"


def _label_points(axes: Axes, x: np.ndarray, y: np.ndarray, bars: np.ndarray, labels: Sequence[str]) -> None:
    """Write each label near its point, where it overlaps least with other labels, points and error bars."""
    along_bars = y[:, None] + bars[:, None] * np.linspace(-1, 1, 15)
    pixels = axes.transData.transform(np.stack(np.broadcast_arrays(x[:, None], along_bars), axis=-1).reshape(-1, 2))
    pixels = pixels.reshape(len(x), 15, 2)
    texts: list[Annotation] = []
    for index, label in enumerate(labels):
        text = axes.annotate(
            label, (x[index], y[index]), xytext=(0, 0), textcoords="offset points", va="center", fontsize=8
        )
        above = np.ptp(pixels[index, :, 1]) / 2 * 72 / axes.figure.dpi + 8
        sideways = [(dx, dy, side) for dy in (0, 9, -9, 18, -18) for dx, side in ((8, "left"), (-8, "right"))]
        places = [*sideways, (0, above, "center"), (0, -above, "center")]
        others = np.delete(pixels, index, axis=0).reshape(-1, 2)
        crowding = []
        for dx, dy, side in places:
            text.set(position=(dx, dy), ha=side)
            box = text.get_window_extent()
            reach = Bbox.union([box, Bbox([pixels[index, 7]] * 2)])  # includes the space between point and label
            outside = box.x0 < axes.bbox.x0 or box.x1 > axes.bbox.x1
            written = [other.get_window_extent() for other in texts]
            crowding.append(
                100 * (outside + box.count_overlaps(written))
                + 10 * reach.count_overlaps(written)
                + reach.count_contains(others)
            )
        dx, dy, side = places[int(np.argmin(crowding))]
        text.set(position=(dx, dy), ha=side)
        texts.append(text)
