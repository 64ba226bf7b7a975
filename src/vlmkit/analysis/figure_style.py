"""Colors, colored cells and rows of images, shared by all figures."""

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

# Palette of Okabe and Ito, which color-blind readers can distinguish.
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
SERIES = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
HEAT: dict[str, Any] = {"cmap": "inferno", "alpha": 0.6}
_CELLS = colormaps["Blues"].with_extremes(bad="#EEEEEE")


def draw_cells(axes: Axes, values: np.ndarray, *, texts: np.ndarray, fontsize: float = 10) -> None:
    """Draw colored cells of size 1 from the upper left corner (0, 0), with texts in a legible color."""
    rows, columns = values.shape
    # The ends of the color map are not used: white cells are invisible, and the darkest blues look the same.
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.2 * (high - low) or 1.0
    norm = Normalize(low - margin, high + margin)
    axes.imshow(values, cmap=_CELLS, norm=norm, extent=(0, columns, rows, 0))
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = _CELLS(norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        color = "white" if dark else "black"
        axes.text(column + 0.5, row + 0.5, texts[row, column], ha="center", va="center", color=color, fontsize=fontsize)
    axes.vlines(range(1, columns), 0, rows, color="white", linewidth=2)
    axes.hlines(range(1, rows), 0, columns, color="white", linewidth=2)
    axes.spines[:].set_visible(False)


def draw_heat_map(axes: Axes, *, image: Image.Image, heat_map: np.ndarray, norm: Normalize) -> None:
    """Draw an interpolated heat map `(h, w)` over its image in gray."""
    extent = (0, image.width, image.height, 0)
    axes.imshow(to_rgb(image).convert("L"), cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="bicubic")
    axes.imshow(heat_map, norm=norm, extent=extent, interpolation="bicubic", **HEAT)


def create_image_rows(
    images: Sequence[Image.Image], *, columns: int, side: float, below: Sequence[float], above: float = 0.1
) -> tuple[Figure, list[Axes]]:
    """Create a figure with empty axes that have the aspect ratios of the images. All lengths are in inches.

    The axes have fixed positions, because layouts of matplotlib leave gaps between images of different shapes.

    Args:
        images: At least one image.
        columns: Number of images in a row.
        side: Side of the square that contains an image.
        below: Space below each image.
        above: Space above each row.

    Returns:
        The figure, and one axes object for each image.

    Raises:
        ValueError: If `columns` is less than 1.
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
