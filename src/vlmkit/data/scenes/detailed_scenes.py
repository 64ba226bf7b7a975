"""Synthetic data set of scenes with several aspect ratios and fine details."""

import io
import itertools
import random
from collections.abc import Sequence
from typing import Any, TypedDict

import datasets
import numpy as np
from PIL import Image, ImageDraw

from vlmkit.data.scenes.drawing import OUTLINES
from vlmkit.data.scenes.graph import COLORS, SHAPES
from vlmkit.validation import check_at_least

# Horizontal and vertical stretch of an outline, as a fraction of the radius of the object.
PROPORTIONS = {"wide": (1.0, 0.5), "tall": (0.5, 1.0), "even": (0.75, 0.75)}
PATTERNS = ("rows", "columns", "checks", "plain")
_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
# Question about a shape by kind. The kind is also the key of the object with the answer.
_OBJECT_QUESTIONS = {
    "color": "what color is the {shape} ?",
    "proportion": "is the {shape} wide , tall or even ?",
    "pattern": "which pattern is on the {shape} ?",
}
_COUNT_QUESTION = "how many objects are there ?"

_GRIDS = ((4, 4), (4, 2), (2, 4))  # columns and rows; the side of a cell is a quarter of the long side
_RADIUS, _JITTER = (
    0.45,
    0.04,
)  # fractions of the side of a cell; the sum is below 0.5, so that objects stay in their cells
_BADGE = 18 / 448  # side of a badge as a fraction of the long side
_GRAY = 128
_OVERSAMPLING = 2  # outlines are drawn larger by this factor and scaled down for antialiasing

_TEXT_FEATURES = {
    "captions": datasets.List(datasets.Value("string")),
    "questions": datasets.List(datasets.Value("string")),
    "answers": datasets.List(datasets.Value("string")),
    "kinds": datasets.List(datasets.Value("string")),
}
_FEATURES = datasets.Features(
    {
        "image_id": datasets.Value("string"),
        "image": datasets.Image(),
        **_TEXT_FEATURES,
        "scene": datasets.List(
            {
                "shape": datasets.Value("string"),
                "color": datasets.Value("string"),
                "proportion": datasets.Value("string"),
                "pattern": datasets.Value("string"),
                "column": datasets.Value("int32"),
                "row": datasets.Value("int32"),
            }
        ),
    }
)


def _all_words() -> tuple[str, ...]:
    vocabulary = [*SHAPES, *COLORS, *PROPORTIONS, *PATTERNS, *_NUMBERS.values(), "."]
    questions = " ".join([*_OBJECT_QUESTIONS.values(), _COUNT_QUESTION]).replace("{shape}", "")
    return tuple(sorted({*vocabulary, *questions.split()}))


DETAILED_SCENE_WORDS: tuple[str, ...] = _all_words()
"""All words of the captions, questions and answers of [`load_detailed_scenes`], in alphabetical order."""


class DetailedObject(TypedDict):
    """Object of a scene, with the 0-based column and row of its cell, from the left and the top."""

    shape: str
    color: str
    proportion: str
    pattern: str
    column: int
    row: int


def load_detailed_scenes(
    num_train: int = 4000,
    *,
    num_test: int = 500,
    num_validation: int = 200,
    long_side: int = 448,
    seed: int = 0,
    num_objects: Sequence[int] = (2, 3, 4),
) -> datasets.DatasetDict:
    """Generate a data set of scenes that requires high resolution and the correct aspect ratio.

    The scenes have a grid of 4 x 4, 4 x 2 or 2 x 4 cells, so the images are square, wide or tall. A few cells contain
    an object. The objects of a scene have different shapes and colors. Two properties of an object can be lost in the
    preprocessing of the image:

    - The proportion (wide, tall or even) changes if the image is resized to a square.
    - The pattern of the badge, a small square in the center of the object, consists of rows, columns or checks with a
      width of one pixel, or is plain gray. If the image is resized to half its size with a box filter, all patterns
      become the same gray, so questions about patterns require the full resolution. Wider filters, such as bilinear and
      bicubic ones, leave faint traces at the border of the badge. If an image is resized to a square, the rows of wide
      images and the columns of tall images are preserved.

    Nothing is downloaded. The same seed gives the same images and texts on all machines, and all scenes are different,
    also between splits. Words and punctuation are separated by single spaces, and `DETAILED_SCENE_WORDS` is the
    vocabulary.

    Args:
        num_train: Number of images in the split `train`.
        num_test: Number of images in the split `test`.
        num_validation: Number of images in the split `validation`.
        long_side: Longer side of the images in pixels, a multiple of 8 and at least 224. The scenes do not depend on
            it.
        seed: Seed of the scenes.
        num_objects: Numbers of objects per scene to choose from at random, each from 1 to 4.

    Returns:
        A `DatasetDict` with the splits `train`, `validation` and `test`, whose tables have the columns

        - `image`: the image, stored as PNG.
        - `image_id`: a string such as "detailed-test-00012".
        - `captions`: one caption of all objects, row by row, such as "star orange tall rows . circle blue even plain ."
        - `questions`, `answers` and `kinds`: in random order, one question of each kind `color`, `proportion` and
          `pattern` per object, and one of the kind `count` unless `num_objects` is a single number.
        - `scene`: the objects, with `shape`, `color`, `proportion`, `pattern`, `column` and `row`.

    Raises:
        ValueError: If the size of a split is less than 1, `long_side` or `num_objects` is invalid, or there are not
            enough different scenes.

    Example:
        >>> scenes = load_detailed_scenes(num_train=4, num_test=2, num_validation=2)
        >>> row = scenes["train"][0]
        >>> row["image_id"], row["image"].size
        ('detailed-train-00000', (448, 224))
        >>> row["captions"]
        ['square red even columns . diamond orange even columns . circle purple even checks .']
    """
    for name, size in {"num_train": num_train, "num_test": num_test, "num_validation": num_validation}.items():
        check_at_least(name, size)
    if long_side < 224 or long_side % 8:
        raise ValueError(f"`long_side` must be a multiple of 8 and at least 224, but got {long_side}.")
    _check_num_objects(num_objects)

    seen: set[str] = set()
    # Test and validation are drawn first, so that they do not depend on the size of train.
    test = _draw_split("test", num_test, long_side, seed, num_objects, seen)
    validation = _draw_split("validation", num_validation, long_side, seed, num_objects, seen)
    train = _draw_split("train", num_train, long_side, seed, num_objects, seen)
    return datasets.DatasetDict(train=train, validation=validation, test=test)


def detailed_scene_texts(num: int, *, seed: int = 0, num_objects: Sequence[int] = (2, 3, 4)) -> datasets.Dataset:
    """Generate captions and questions of random scenes without images, to train a language model.

    The scenes have the same distribution as in [`load_detailed_scenes`]. They can repeat, and can also occur in that
    data set.

    Args:
        num: Number of scenes, which is the number of rows.
        seed: Seed of the scenes.
        num_objects: Numbers of objects per scene to choose from at random, each from 1 to 4.

    Returns:
        A table with the columns `captions`, `questions`, `answers` and `kinds`.

    Raises:
        ValueError: If `num` is less than 1, or `num_objects` is invalid.

    Example:
        >>> row = detailed_scene_texts(num=3)[0]
        >>> row["questions"][0], row["answers"][0], row["kinds"][0]
        ('which pattern is on the diamond ?', 'checks', 'pattern')
    """
    check_at_least("num", num)
    _check_num_objects(num_objects)
    rng = random.Random(f"text {seed}")
    rows = [_texts(_sample_scene(rng.choice(_GRIDS), num_objects, rng), num_objects, rng) for _ in range(num)]
    return datasets.Dataset.from_list(rows, features=datasets.Features(_TEXT_FEATURES))


def draw_detailed_scene(
    scene: Sequence[DetailedObject], *, grid: tuple[int, int], long_side: int, rng: random.Random
) -> Image.Image:
    """Draw the objects of a scene and their badges on a light background with a random color gradient.

    Args:
        scene: Objects of the scene, in different cells.
        grid: Numbers of columns and rows, the larger of which must be 4.
        long_side: Longer side of the image in pixels, a multiple of 8.
        rng: Random number generator for the background and for small offsets of the objects from their cell centers.

    Example:
        >>> star = DetailedObject(shape="star", color="blue", proportion="wide", pattern="rows", column=3, row=0)
        >>> picture = draw_detailed_scene([star], grid=(4, 2), long_side=448, rng=random.Random(0))
        >>> picture.size, picture.getpixel((392 - 20, 56))
        ((448, 224), (40, 90, 220))
    """
    cell = long_side // 4
    corners = Image.new("RGB", (2, 2))
    corners.putdata([tuple(rng.randint(225, 255) for _ in range(3)) for _ in range(4)])
    picture = corners.resize((grid[0] * cell, grid[1] * cell), Image.Resampling.BILINEAR)
    side = 2 * round(_BADGE * long_side / 2)
    for thing in scene:
        center = [(thing[axis] + 0.5 + rng.uniform(-_JITTER, _JITTER)) * cell for axis in ("column", "row")]
        # The badge starts at an even pixel, so that resizing to half the size averages pairs of its lines.
        left, top = (2 * round((middle - side / 2) / 2) for middle in center)
        mask = _outline_mask(thing, cell)
        picture.paste(COLORS[thing["color"]], (left + (side - cell) // 2, top + (side - cell) // 2), mask)
        picture.paste(_badge(thing["pattern"], side), (left, top))
    return picture


def _outline_mask(thing: DetailedObject, cell: int) -> Image.Image:
    """Return an antialiased mask of an object in the center of its cell."""
    side = cell * _OVERSAMPLING
    stretch_x, stretch_y = PROPORTIONS[thing["proportion"]]
    outline = [
        ((0.5 + _RADIUS * stretch_x * x) * side, (0.5 + _RADIUS * stretch_y * y) * side)
        for x, y in OUTLINES[thing["shape"]]
    ]
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    return mask.reduce(_OVERSAMPLING)


def _badge(pattern: str, side: int) -> Image.Image:
    """Return a square image of a pattern, without antialiasing."""
    rows, columns = np.indices((side, side))
    white = {"rows": rows % 2, "columns": columns % 2, "checks": (rows + columns) % 2}
    pixels = white[pattern] * 255 if pattern in white else np.full((side, side), _GRAY)
    return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")


def _check_num_objects(num_objects: Sequence[int]) -> None:
    if not num_objects or not set(num_objects) <= _NUMBERS.keys():
        raise ValueError(
            f"`num_objects` must contain at least one number, and only numbers from 1 to {max(_NUMBERS)}, but got "
            f"{num_objects}."
        )


def _sample_scene(grid: tuple[int, int], num_objects: Sequence[int], rng: random.Random) -> list[DetailedObject]:
    """Sample the objects of a scene, sorted by their cells, row by row."""
    count = rng.choice(num_objects)
    cells = sorted(rng.sample(list(itertools.product(range(grid[1]), range(grid[0]))), count))
    shapes, colors = rng.sample(SHAPES, count), rng.sample(list(COLORS), count)
    return [
        DetailedObject(
            shape=shape,
            color=color,
            proportion=rng.choice(list(PROPORTIONS)),
            pattern=rng.choice(PATTERNS),
            column=column,
            row=row,
        )
        for shape, color, (row, column) in zip(shapes, colors, cells, strict=True)
    ]


def _texts(scene: Sequence[DetailedObject], num_objects: Sequence[int], rng: random.Random) -> dict[str, list[str]]:
    """Return the text columns of a scene: its caption, and all questions in random order."""
    caption = " ".join("{shape} {color} {proportion} {pattern} .".format(**thing) for thing in scene)
    asked = [("count", _COUNT_QUESTION, _NUMBERS[len(scene)])] if len(set(num_objects)) > 1 else []
    for thing in scene:
        values: dict[str, Any] = dict(thing)
        asked += [(kind, text.format(**values), values[kind]) for kind, text in _OBJECT_QUESTIONS.items()]
    rng.shuffle(asked)
    kinds, questions, answers = map(list, zip(*asked, strict=True))
    return {"captions": [caption], "questions": questions, "answers": answers, "kinds": kinds}


def _draw_split(
    split: str, num_images: int, long_side: int, seed: int, num_objects: Sequence[int], seen: set[str]
) -> datasets.Dataset:
    """Draw scenes that are not in `seen`, and add them to `seen`."""
    rng = random.Random(f"{split} {seed}")  # a string seed is the same in all processes
    rows: list[dict[str, Any]] = []
    misses = 0
    while len(rows) < num_images:
        grid = rng.choice(_GRIDS)
        scene = _sample_scene(grid, num_objects, rng)
        if str(scene) in seen:
            misses += 1
            if misses > 20 * num_images + 1000:
                raise ValueError(
                    f"Only {len(seen)} different scenes were found for `num_objects` {num_objects}. Reduce the number "
                    "of images, or allow more objects."
                )
            continue
        seen.add(str(scene))
        png = io.BytesIO()
        draw_detailed_scene(scene, grid=grid, long_side=long_side, rng=rng).save(png, format="PNG")
        rows.append(
            {
                "image_id": f"detailed-{split}-{len(rows):05d}",
                "image": {"bytes": png.getvalue(), "path": None},
                **_texts(scene, num_objects, rng),
                "scene": scene,
            }
        )
    return datasets.Dataset.from_list(rows, features=_FEATURES, split=split)
