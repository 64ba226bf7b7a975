"""Figures of results; this module needs the extra `vlmkit[viz]`.

Each function returns a `matplotlib.figure.Figure` of its own, apart from pyplot's state: `figure.savefig("a.png")`
writes it.
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
    """Table of recalls in per cent, the darker the higher.

    Args:
        values: `(V, L)` fractions, such as one recall per vision and language model; NaN where there is none.
        row_labels: V names.
        column_labels: L names.
        title: above the table.
        published: `(V, L)` fractions from a paper, in brackets under ours; NaN where there is none.

    Raises:
        ValueError: the numbers of labels, or the shape of `published`, do not fit `values`.

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
            f"values {values.shape} must have a row for each of {len(row_labels)} row_labels and a column for each of "
            f"{len(column_labels)} column_labels, at least one of each"
        )
    texts = np.vectorize(_per_cent)(values).astype(object)
    if published is not None:
        published = np.asarray(published, dtype=float)
        if published.shape != values.shape:
            raise ValueError(f"published {published.shape} must have the shape of values {values.shape}")
        texts += np.vectorize(lambda theirs: f"\n({_per_cent(theirs)})")(published)

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
    unit = "per cent" if published is None else "per cent, published figures in brackets"
    axes.set_xlabel(unit, fontsize=9, color=GREY, loc="left", labelpad=8)
    return figure


def similarity_grid(images: Sequence[Image.Image], captions: Sequence[str], *, similarity: np.ndarray) -> Figure:
    """Images down the side, captions on top, and their similarities between; the true pairs are framed.

    Args:
        images: N images of any size.
        captions: N captions, the i-th of the i-th image.
        similarity: `(N, N)`, images by captions.

    Raises:
        ValueError: there are not as many captions as images, or the shape of `similarity` does not fit them.

    Example:
        >>> squares = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        >>> figure = similarity_grid(squares, ["a red square", "a blue square"], similarity=np.eye(2))
        >>> len(figure.axes[0].images)
        3
    """
    similarity = np.asarray(similarity, dtype=float)
    count = len(images)
    if count == 0 or len(captions) != count or similarity.shape != (count, count):
        raise ValueError(
            f"{count} images, {len(captions)} captions and similarity {similarity.shape} do not fit: give one caption "
            "per image and a row and a column for each pair, at least one"
        )
    headings = [textwrap.wrap(caption, width=17, max_lines=6, placeholder=" …") for caption in captions]
    # In cells, which are square: images to the left of the matrix, headings above it.
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
    """Recall in per cent over the number of parameters on a logarithmic axis, a labelled point per model.

    Args:
        parameters: `(P,)` numbers of parameters; the axis counts in millions.
        recalls: `(P,)` fractions.
        labels: P names.
        errors: `(P,)` half lengths of the error bars, as fractions.
        series: P names, equal for points that belong together; each series has a colour and a line in the legend.

    Raises:
        ValueError: the lengths differ, or a number of parameters is not positive.

    Example:
        >>> figure = recall_versus_parameters([22_000_000, 86_000_000], recalls=[0.25, 0.36], labels=["ViT-S", "ViT-B"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['ViT-S', 'ViT-B']
    """
    lengths = [len(given) for given in (recalls, labels, errors, series) if given is not None]
    if any(length != len(parameters) for length in lengths):
        raise ValueError(f"{len(parameters)} parameters need as many recalls, labels, errors and series, not {lengths}")
    if min(parameters, default=0) <= 0:
        raise ValueError(f"parameters {list(parameters)} must be positive, for a logarithmic axis, and at least one")

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
    axes.set_ylabel("recall, per cent")
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.draw_without_rendering()  # fixes the layout, and with it the positions in pixels
    _label_points(axes, x, y, bars, labels)
    return figure


def _per_cent(fraction: float) -> str:
    return "-" if np.isnan(fraction) else f"{100 * fraction:.1f}"


def _label_points(axes: Axes, x: np.ndarray, y: np.ndarray, bars: np.ndarray, labels: Sequence[str]) -> None:
    """Write each label near its point, where it crowds the other labels, points and error bars least."""
    along_bars = y[:, None] + bars[:, None] * np.linspace(-1, 1, 15)
    pixels = axes.transData.transform(np.stack(np.broadcast_arrays(x[:, None], along_bars), axis=-1).reshape(-1, 2))
    pixels = pixels.reshape(len(x), 15, 2)
    texts: list[Annotation] = []
    for index, label in enumerate(labels):
        text = axes.annotate(
            label, (x[index], y[index]), xytext=(0, 0), textcoords="offset points", va="center", fontsize=8
        )
        above = np.ptp(pixels[index, :, 1]) / 2 * 72 / axes.figure.dpi + 8
        beside = [(dx, dy, side) for dy in (0, 9, -9, 18, -18) for dx, side in ((8, "left"), (-8, "right"))]
        places = [*beside, (0, above, "center"), (0, -above, "center")]
        others = np.delete(pixels, index, axis=0).reshape(-1, 2)
        crowding = []
        for dx, dy, side in places:
            text.set(position=(dx, dy), ha=side)
            box = text.get_window_extent()
            reach = Bbox.union([box, Bbox([pixels[index, 7]] * 2)])  # also nothing between the point and its label
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
