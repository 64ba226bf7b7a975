"""Colours, coloured cells and rows of pictures that the figures share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from vlmkit.images import to_rgb
from vlmkit.validation import check_at_least

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
SERIES = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
HEAT: dict[str, Any] = {"cmap": "inferno", "alpha": 0.6}
_CELLS = colormaps["Blues"].with_extremes(bad="#EEEEEE")


def draw_cells(axes: Axes, values: np.ndarray, *, texts: np.ndarray, fontsize: float = 10) -> None:
    """Coloured cells of size 1 from the upper left corner (0, 0), each with its text in a readable colour."""
    rows, columns = values.shape
    # The ends of the colour map are left out: white cells vanish, and the darkest blues look the same.
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.2 * (high - low) or 1.0
    norm = Normalize(low - margin, high + margin)
    axes.imshow(values, cmap=_CELLS, norm=norm, extent=(0, columns, rows, 0))
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = _CELLS(norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        colour = "white" if dark else "black"
        axes.text(
            column + 0.5, row + 0.5, texts[row, column], ha="center", va="center", color=colour, fontsize=fontsize
        )
    axes.vlines(range(1, columns), 0, rows, color="white", linewidth=2)
    axes.hlines(range(1, rows), 0, columns, color="white", linewidth=2)
    axes.spines[:].set_visible(False)


def draw_heat_map(axes: Axes, *, image: Image.Image, heat_map: np.ndarray, norm: Normalize) -> None:
    """A heat map `(h, w)`, smooth, over its image in grey."""
    extent = (0, image.width, image.height, 0)
    axes.imshow(to_rgb(image).convert("L"), cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="bicubic")
    axes.imshow(heat_map, norm=norm, extent=extent, interpolation="bicubic", **HEAT)


def create_image_rows(
    images: Sequence[Image.Image], *, columns: int, side: float, below: Sequence[float], above: float = 0.1
) -> tuple[Figure, list[Axes]]:
    """A figure with empty axes of each image's shape, all images of a row on one line; lengths are in inches.

    The axes have fixed places, unlike those of matplotlib's layouts, which leave gaps where images differ in shape.

    Args:
        images: at least one.
        columns: images side by side.
        side: of the square into which each image fits.
        below: room for the text beneath each image.
        above: room over each row.

    Raises:
        ValueError: columns is not positive.
    """
    check_at_least("columns", columns)
    columns = min(columns, len(images))
    gap = 0.15 * side
    sizes = [side * np.array(image.size) / max(image.size) for image in images]
    rows = [range(first, min(first + columns, len(images))) for first in range(0, len(images), columns)]
    heights = [above + max(sizes[index][1] for index in row) for row in rows]
    depths = [max(below[index] for index in row) for row in rows]
    width, height = columns * (side + gap), sum(heights) + sum(depths)
    figure, places, line = Figure(figsize=(width, height)), [], height
    for row, row_height, depth in zip(rows, heights, depths, strict=True):
        line -= row_height
        for column, index in enumerate(row):
            left = column * (side + gap) + (side + gap - sizes[index][0]) / 2
            places.append(figure.add_axes((left / width, line / height, *(sizes[index] / (width, height)))))
        line -= depth
    for axes in places:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure, places
