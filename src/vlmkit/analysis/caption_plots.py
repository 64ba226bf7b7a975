"""Figures of captions and attention maps. This module needs `vlmkit[viz]`.

Each function returns a `matplotlib.figure.Figure`, independent of pyplot. Save it with `figure.savefig("a.png")`.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from PIL import Image

from vlmkit.analysis.figure_style import BLUE, GREY, HEAT, create_image_rows, draw_heat_map
from vlmkit.images import to_rgb

# Style of a text below the center of an image. Dollar signs do not start a formula.
_BELOW: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "top", "parse_math": False}
_LINE = 0.16  # height of a line of 8 points in inches


def caption_gallery(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    *,
    references: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Draw images with generated captions, and with reference captions in gray below them.

    Texts are wrapped, and shortened with an ellipsis after five lines.

    Args:
        images: N images of any size.
        captions: N generated captions.
        references: N reference captions.
        columns: Number of images in a row.

    Raises:
        ValueError: If `images` is empty, the numbers of images, captions and references differ, or `columns` is less
            than 1.

    Example:
        >>> squares = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
        >>> figure = caption_gallery(squares, ["a red square", "a blue square"])
        >>> [axes.texts[0].get_text() for axes in figure.axes]
        ['a red square', 'a blue square']
    """
    lengths = [len(given) for given in (images, captions, references) if given is not None]
    if min(lengths) == 0 or len(set(lengths)) > 1:
        raise ValueError(
            f"`images`, `captions` and `references` must have the same length of at least 1, but got {lengths}."
        )
    written = [_wrapped(caption) for caption in captions]
    compared = [_wrapped(reference) for reference in references or [""] * len(images)]
    num_lines = [len(texts[0].splitlines() + texts[1].splitlines()) for texts in zip(written, compared, strict=True)]
    figure, cells = create_image_rows(
        images, columns=columns, side=2.2, below=[0.2 + _LINE * lines for lines in num_lines]
    )
    for axes, image, caption, reference in zip(cells, images, written, compared, strict=True):
        axes.imshow(to_rgb(image), interpolation="bicubic")
        below = axes.annotate(caption, (0.5, 0), (0, -4), xycoords="axes fraction", fontsize=8, **_BELOW)
        axes.annotate(reference, (0.5, 0), (0, -3), xycoords=below, fontsize=8, color=GREY, **_BELOW)
    return figure


def word_heatmap_figure(image: Image.Image, words: Sequence[tuple[str, ArrayLike]], *, columns: int = 6) -> Figure:
    """Draw an image and, for each word of its caption, the attention map over a gray copy of the image.

    The colors of each map range from 0 (dark) to its maximum (bright). The maximum is written below the map, as a
    multiple of uniform attention: "up to 1.1 times" means that the attention is almost uniform over the image. Maps
    are interpolated between the centers of patches.

    Args:
        image: Image of any size.
        words: Words with their maps `(h, w)`, which have a sum of 1, such as the output of `join_words`.
        columns: Number of panels in a row. The first panel is the image.

    Raises:
        ValueError: If `words` is empty, a map is not a matrix or has negative or infinite values, or `columns` is less
            than 1.

    Example:
        >>> words = [("dog", np.eye(2) / 2), ("is", np.full((2, 2), 0.25))]
        >>> figure = word_heatmap_figure(Image.new("RGB", (8, 8)), words)
        >>> [axes.get_title() for axes in figure.axes], [axes.texts[0].get_text() for axes in figure.axes[1:]]
        (['', 'dog', 'is'], ['up to 2.0 times', 'up to 1.0 times'])
    """
    if len(words) == 0:
        raise ValueError("`words` must not be empty. Pass at least one word with its map.")
    names = [word for word, _ in words]
    maps = [np.asarray(heat_map, dtype=float) for _, heat_map in words]
    for name, heat_map in zip(names, maps, strict=True):
        if heat_map.ndim != 2 or heat_map.size == 0 or not np.isfinite(heat_map).all() or heat_map.min() < 0:
            raise ValueError(
                f"The map of {name!r} must be a matrix of finite numbers of at least 0, but got the shape "
                f"{heat_map.shape}."
            )
    panels = [image] * (1 + len(words))
    figure, cells = create_image_rows(panels, columns=columns, side=1.5, above=0.25, below=[0.25] * len(panels))
    cells[0].imshow(to_rgb(image), interpolation="bicubic")
    for axes, name, heat_map in zip(cells[1:], names, maps, strict=True):
        draw_heat_map(axes, image=image, heat_map=heat_map, norm=Normalize(0, heat_map.max()))
        axes.set_title(name if len(name) <= 18 else f"{name[:17]}…", fontsize=9, pad=4, parse_math=False)
        peak = f"up to {heat_map.max() * heat_map.size:.1f} times"
        axes.annotate(peak, (0.5, 0), (0, -3), xycoords="axes fraction", fontsize=7, color=GREY, **_BELOW)
    return figure


def similarity_figure(
    image: Image.Image,
    global_to_query: ArrayLike,
    global_to_image: ArrayLike,
    query_to_image: ArrayLike,
    *,
    grid: tuple[int, int],
) -> Figure:
    """Draw the similarities of the global token, the queries and the patches of one image.

    Both maps have the same color scale. The similarities are a row of the output of `token_similarity`.

    Args:
        image: Image of any size.
        global_to_query: `(Q,)`, similarities of the global token and the queries.
        global_to_image: `(N,)`, similarities of the global token and the patches.
        query_to_image: `(N,)`, mean similarities of the queries and the patches.
        grid: Rows h and columns w of patches, with N = h * w.

    Raises:
        ValueError: If the similarities are not vectors, or the maps do not match the grid.

    Example:
        >>> figure = similarity_figure(Image.new("RGB", (8, 8)), np.ones(5), np.ones(6), np.zeros(6), grid=(2, 3))
        >>> len(figure.axes[0].patches)
        5
    """
    bars, *maps = (np.asarray(values, dtype=float) for values in (global_to_query, global_to_image, query_to_image))
    if bars.ndim != 1 or any(values.shape != (grid[0] * grid[1],) for values in maps):
        raise ValueError(
            f"`global_to_query` must be a vector, and `global_to_image` and `query_to_image` must have the shape "
            f"({grid[0] * grid[1]},) for a grid of {grid[0]} x {grid[1]} patches, but got {bars.shape}, "
            f"{maps[0].shape} and {maps[1].shape}."
        )
    figure = Figure(figsize=(9.6, 3.1), layout="constrained")
    chart, *panels = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    chart.bar(np.arange(len(bars)), bars, color=BLUE)
    chart.axhline(0, color=GREY, linewidth=0.8)
    chart.xaxis.set_major_locator(MaxNLocator(integer=True))
    chart.spines[["top", "right"]].set_visible(False)
    chart.tick_params(labelsize=8)
    chart.set_xlabel("query", fontsize=8)
    chart.set_ylabel("cosine", fontsize=8)
    norm = Normalize(min(map(np.min, maps)), max(map(np.max, maps)))
    for axes, values in zip(panels, maps, strict=True):
        draw_heat_map(axes, image=image, heat_map=values.reshape(grid), norm=norm)
        axes.set_axis_off()
    titles = ("global token\nand each query", "global token\nand each patch", "mean of queries\nand each patch")
    for axes, title in zip((chart, *panels), titles, strict=True):
        axes.set_title(title, fontsize=9)
    bar = figure.colorbar(ScalarMappable(norm, HEAT["cmap"]), ax=panels, alpha=HEAT["alpha"], pad=0.01)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure


def _wrapped(caption: str) -> str:
    return "\n".join(textwrap.wrap(caption, width=32, max_lines=5, placeholder=" …"))
