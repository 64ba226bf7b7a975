"""A data set of drawn scenes of several aspect ratios, with details that only the full resolution shows."""

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

# How an outline is stretched, across and down, in parts of the object's radius.
PROPORTIONS = {"wide": (1.0, 0.5), "tall": (0.5, 1.0), "even": (0.75, 0.75)}
PATTERNS = ("rows", "columns", "checks", "plain")
_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
# What is asked about a shape, by kind of question, which is also the object's key that holds the answer.
_OBJECT_QUESTIONS = {
    "color": "what color is the {shape} ?",
    "proportion": "is the {shape} wide , tall or even ?",
    "pattern": "which pattern is on the {shape} ?",
}
_COUNT_QUESTION = "how many objects are there ?"

_GRIDS = ((4, 4), (4, 2), (2, 4))  # columns and rows; a cell's side is a quarter of the long side
_RADIUS, _JITTER = 0.45, 0.04  # in parts of a cell's side; together below a half, so that an object stays in its cell
_BADGE = 18 / 448  # side of a badge in parts of the long side
_GREY = 128
_OVERSAMPLING = 2  # an outline is drawn so many times larger and scaled down, which smooths its edges

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


# Every word that a caption, a question or an answer can have, in alphabetical order.
DETAILED_SCENE_WORDS: tuple[str, ...] = _all_words()


class DetailedObject(TypedDict):
    """One object; its cell is counted from the left (column) and from the top (row), from 0."""

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
    """Draw a data set of scenes on which image size and aspect ratio matter.

    A few objects, all of different shape and colour, lie in the cells of a grid of 4 x 4, 4 x 2 or 2 x 4. The
    image is square, twice as wide as high, or twice as high as wide. Each object is wide, tall or even, which squashing
    the image to a square falsifies. In its middle is a small square, the badge, with a pattern: rows or columns of
    black and white lines, or checks, all one pixel wide, or plain grey. Halved in size by averaging (Pillow's BOX), all
    four are the same grey, so a question about a pattern needs the full resolution. (Squashed to a square, a wide image
    is halved across only and keeps its rows, a tall one its columns.) Antialiasing with a wider filter,
    such as BILINEAR or BICUBIC, leaves the same grey inside, but a faint trace of the lines along the badge's border.

    Nothing is downloaded, and the same seed gives the same pixels and words everywhere. No scene occurs twice, in one
    split or in two. Words and punctuation are separated by single spaces, and `DETAILED_SCENE_WORDS` has all of them.

    Columns: `image` (PNG), `image_id` ("detailed-test-00012"), `captions` (one, which describes all objects, row by
    row: "star orange tall rows . circle blue even plain ."), `questions`, `answers` and `kinds`, and `scene`, the
    objects with shape, color, proportion, pattern, column and row. There is one question of each kind `color`,
    `proportion` and `pattern` per object, and one of the kind `count` if their number differs, in random order.

    Args:
        num_train: images in the split `train`.
        num_test: images in the split `test`.
        num_validation: images in the split `validation`.
        long_side: the longer side of the images in pixels, a multiple of 8 from 224 on. The scenes do not depend on it.
        seed: another seed, other scenes.
        num_objects: of which the number of a scene's objects is drawn by lot, from 1 to 4.

    Raises:
        ValueError: a split would be empty, the images are too small for a badge, the grid does not fit their side, or
            there cannot be so many objects.

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
        raise ValueError(f"long_side is {long_side}; give a multiple of 8 from 224 on")
    _check_num_objects(num_objects)

    seen: set[str] = set()
    # The small splits come first, so that they are the same however many images training has.
    test = _draw_split("test", num_test, long_side, seed, num_objects, seen)
    validation = _draw_split("validation", num_validation, long_side, seed, num_objects, seen)
    train = _draw_split("train", num_train, long_side, seed, num_objects, seen)
    return datasets.DatasetDict(train=train, validation=validation, test=test)


def detailed_scene_texts(num: int, *, seed: int = 0, num_objects: Sequence[int] = (2, 3, 4)) -> datasets.Dataset:
    """What is said and asked about scenes like those of [`load_detailed_scenes`], to train a language model on.

    The scenes are drawn by lot and not compared with others, so that some may be in the data set too.

    Args:
        num: rows, one per scene.
        seed: another seed, other scenes.
        num_objects: see [`load_detailed_scenes`].

    Returns:
        A table with the columns `captions`, `questions`, `answers` and `kinds`.

    Raises:
        ValueError: num is below 1, or there cannot be so many objects.

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
    """Draw the objects and their badges on a light background that shades from corner to corner.

    Args:
        scene: the objects, each in a cell of its own.
        grid: number of columns and rows; the larger is 4.
        long_side: the longer side of the picture in pixels, a multiple of 8.
        rng: chooses the background, and moves each object a little from the middle of its cell.

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
        centre = [(thing[axis] + 0.5 + rng.uniform(-_JITTER, _JITTER)) * cell for axis in ("column", "row")]
        # The badge begins at an even pixel, so that halving the picture puts its lines together in pairs.
        left, top = (2 * round((middle - side / 2) / 2) for middle in centre)
        mask = _outline_mask(thing, cell)
        picture.paste(COLORS[thing["color"]], (left + (side - cell) // 2, top + (side - cell) // 2), mask)
        picture.paste(_badge(thing["pattern"], side), (left, top))
    return picture


def _outline_mask(thing: DetailedObject, cell: int) -> Image.Image:
    """The object's smoothed outline in the middle of a square with the side of a cell."""
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
    """A grey square with a pattern, without any smoothing."""
    rows, columns = np.indices((side, side))
    white = {"rows": rows % 2, "columns": columns % 2, "checks": (rows + columns) % 2}
    pixels = white[pattern] * 255 if pattern in white else np.full((side, side), _GREY)
    return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")


def _check_num_objects(num_objects: Sequence[int]) -> None:
    if not num_objects or not set(num_objects) <= _NUMBERS.keys():
        raise ValueError(f"num_objects is {num_objects}; give one or several numbers from 1 to {max(_NUMBERS)}")


def _sample_scene(grid: tuple[int, int], num_objects: Sequence[int], rng: random.Random) -> list[DetailedObject]:
    """Draw the objects of a scene by lot, sorted by their cells, row by row."""
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
    """The columns of a scene's description, and of all questions about it in random order."""
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
    """Draw scenes that are not among those seen, and add them there."""
    rng = random.Random(f"{split} {seed}")  # seeded by the text itself, unlike hash(), which differs between processes
    rows: list[dict[str, Any]] = []
    misses = 0
    while len(rows) < num_images:
        grid = rng.choice(_GRIDS)
        scene = _sample_scene(grid, num_objects, rng)
        if str(scene) in seen:
            misses += 1
            if misses > 20 * num_images + 1000:
                raise ValueError(
                    f"there are hardly more than {len(seen)} scenes of {num_objects} objects; ask for fewer images, or "
                    "give a larger num_objects"
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
