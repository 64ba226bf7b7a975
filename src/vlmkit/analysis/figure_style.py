"""Colours and coloured cells that the figures share."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
SERIES = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
_CELLS = colormaps["Blues"].with_extremes(bad="#EEEEEE")


def draw_cells(axes: Axes, values: np.ndarray, texts: np.ndarray, fontsize: float = 10) -> None:
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
