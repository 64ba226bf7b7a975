"""Figures of what a captioner writes and where it looks; this module needs the extra `vlmkit[viz]`.

Each function returns a `matplotlib.figure.Figure` of its own, apart from pyplot's state: `figure.savefig("a.png")`
writes it.
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

# Of a text under the middle of a picture. A dollar sign is a dollar sign, not the beginning of a formula.
_BELOW: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "top", "parse_math": False}
_LINE = 0.16  # inches, of text of 8 points


def caption_gallery(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    *,
    references: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Images with the captions that a model wrote below, and those that people wrote below these, in grey.

    Texts are wrapped and, after five lines, shortened with an ellipsis.

    Args:
        images: N images of any size.
        captions: N captions.
        references: N captions to compare with.
        columns: images side by side.

    Raises:
        ValueError: there are no images, or not as many captions or references.

    Example:
        >>> squares = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        >>> figure = caption_gallery(squares, ["a red square", "a blue square"])
        >>> [axes.texts[0].get_text() for axes in figure.axes]
        ['a red square', 'a blue square']
    """
    lengths = [len(given) for given in (images, captions, references) if given is not None]
    if min(lengths) == 0 or len(set(lengths)) > 1:
        raise ValueError(f"{lengths} images, captions and references; give as many of each, at least one")
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
    """An image, and for each word of its caption where the model looked, laid over the image in grey.

    Each word has its own scale of colours, from zero, dark, to the highest value of its map, bright. That value is
    written beneath, as a multiple of what each patch would have if the attention were spread evenly: for a word with
    "up to 1.1 times" the model looked nowhere in particular. Maps are interpolated between the centres of patches.

    Args:
        image: of any size.
        words: each word with its map `(h, w)`, which adds up to 1, as from `join_words`.
        columns: panels side by side, the first of which shows the image.

    Raises:
        ValueError: there are no words, or a map is not `(h, w)` or has negative or infinite values.

    Example:
        >>> words = [("dog", np.eye(2) / 2), ("is", np.full((2, 2), 0.25))]
        >>> figure = word_heatmap_figure(Image.new("RGB", (8, 8)), words)
        >>> [axes.get_title() for axes in figure.axes], [axes.texts[0].get_text() for axes in figure.axes[1:]]
        (['', 'dog', 'is'], ['up to 2.0 times', 'up to 1.0 times'])
    """
    if len(words) == 0:
        raise ValueError("there are no words; give at least one, with its map")
    names = [word for word, _ in words]
    maps = [np.asarray(heat_map, dtype=float) for _, heat_map in words]
    for name, heat_map in zip(names, maps, strict=True):
        if heat_map.ndim != 2 or heat_map.size == 0 or not np.isfinite(heat_map).all() or heat_map.min() < 0:
            raise ValueError(f"the map of {name!r}, {heat_map.shape}, must be (h, w), finite and nowhere negative")
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
    """The similarities of one image: the global token with the queries, and both with the patches.

    Both maps share one scale of colours.

    Args:
        image: of any size.
        global_to_query: `(Q,)`, as the next two from `token_similarity`.
        global_to_image: `(N,)`.
        query_to_image: `(N,)`.
        grid: rows h and columns w of patches, N = h * w.

    Raises:
        ValueError: the similarities are not vectors, or the maps do not fit the grid.

    Example:
        >>> figure = similarity_figure(Image.new("RGB", (8, 8)), np.ones(5), np.ones(6), np.zeros(6), grid=(2, 3))
        >>> len(figure.axes[0].patches)
        5
    """
    bars, *maps = (np.asarray(values, dtype=float) for values in (global_to_query, global_to_image, query_to_image))
    if bars.ndim != 1 or any(values.shape != (grid[0] * grid[1],) for values in maps):
        raise ValueError(
            f"global_to_query {bars.shape}, global_to_image {maps[0].shape} and query_to_image {maps[1].shape} must be "
            f"those of one image, the latter two ({grid[0] * grid[1]},) for a grid of {grid[0]} x {grid[1]} patches"
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
