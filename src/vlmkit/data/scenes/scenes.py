"""A data set of drawn scenes whose captions, questions and answers are known to be true."""

import io
import itertools
import random
from collections import defaultdict
from typing import Any

import datasets
import numpy as np

from vlmkit.data.scenes.drawing import draw_scene
from vlmkit.data.scenes.graph import combinations, sample_scene
from vlmkit.data.scenes.language import sample_captions, sample_questions, true_captions
from vlmkit.validation import check_at_least

_FEATURES = datasets.Features(
    {
        "image_id": datasets.Value("string"),
        "image": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")),
        "questions": datasets.List(datasets.Value("string")),
        "answers": datasets.List(datasets.Value("string")),
        "scene": datasets.List(
            {
                "shape": datasets.Value("string"),
                "color": datasets.Value("string"),
                "size": datasets.Value("string"),
                "x": datasets.Value("int32"),
                "y": datasets.Value("int32"),
            }
        ),
    }
)


def load_scenes(
    num_train: int = 4000, *, num_test: int = 200, image_size: int = 64, seed: int = 0, num_validation: int = 200
) -> datasets.DatasetDict:
    """Draw a data set of scenes: two or three coloured shapes, five captions and five questions each.

    Nothing is downloaded, and the same seed gives the same pixels and words everywhere. A fifth of the combinations of
    colour and shape is held out: they are neither shown nor mentioned in the splits `train` and `validation`, while
    every scene of `test` shows at least one, and its captions, questions and answers may mention it. So `test` measures
    whether a model has learnt colours and shapes or their combinations. No scene occurs twice, in one split or in two.

    Columns: `image` (PNG), `image_id` ("scene-test-00012"), `captions` (five true ones), `questions` and `answers`
    (five each), and `scene`, the objects with shape, color, size and centre (x, y), in percent of the image's side.

    Args:
        num_train: images in the split `train`.
        num_test: images in the split `test`.
        image_size: side of the square images in pixels, at least 32. The scenes do not depend on it.
        seed: another seed, other scenes.
        num_validation: images in the split `validation`.

    Raises:
        ValueError: a split would be empty, or the images are too small to tell the shapes apart.

    Example:
        >>> scenes = load_scenes(num_train=4, num_test=2, num_validation=2)
        >>> row = scenes["train"][0]
        >>> row["image_id"], row["image"].size, len(row["captions"])
        ('scene-train-00000', (64, 64), 5)
    """
    for name, size in {"num_train": num_train, "num_test": num_test, "num_validation": num_validation}.items():
        check_at_least(name, size)
    if image_size < 32:
        raise ValueError(f"image_size is {image_size}; shapes cannot be told apart below 32 pixels")

    seen: set[str] = set()
    # The small splits come first, so that they are the same however many images training has.
    test = _draw_split("test", num_test, image_size, seed, seen)
    validation = _draw_split("validation", num_validation, image_size, seed, seen)
    train = _draw_split("train", num_train, image_size, seed, seen)
    return datasets.DatasetDict(train=train, validation=validation, test=test)


def caption_matches(table: datasets.Dataset) -> np.ndarray:
    """Which captions of a split are true of which of its images, by the scenes themselves.

    A caption drawn for one image is often true of others; in retrieval those are right answers as well.

    Args:
        table: a split of [`load_scenes`], or a selection of its rows.

    Returns:
        `(images, captions)` booleans; the captions of all rows are in the order of the rows.

    Raises:
        ValueError: the table has no scenes or no captions.

    Example:
        >>> test = load_scenes(num_train=1, num_test=3, num_validation=1)["test"]
        >>> matches = caption_matches(test)
        >>> matches.shape, matches[0, :5].all().item()
        ((3, 15), True)
    """
    missing = {"captions", "scene"}.difference(table.column_names)
    if missing:
        raise ValueError(f"the table lacks {', '.join(sorted(missing))}; give one split of load_scenes")
    columns = defaultdict(list)
    for column, caption in enumerate(itertools.chain.from_iterable(table["captions"])):
        columns[caption].append(column)
    matches: np.ndarray = np.zeros((len(table), sum(map(len, columns.values()))), dtype=bool)
    for row, scene in enumerate(table["scene"]):
        for caption in true_captions(scene) & columns.keys():
            matches[row, columns[caption]] = True
    return matches


def _draw_split(split: str, num_images: int, image_size: int, seed: int, seen: set[str]) -> datasets.Dataset:
    """Draw scenes that are not among those seen, and add them there."""
    rng = random.Random(f"{split} {seed}")  # seeded by the text itself, unlike hash(), which differs between processes
    held_out = split == "test"
    askable = combinations(held_out=False) + (combinations(held_out=True) if held_out else [])
    rows: list[dict[str, Any]] = []
    while len(rows) < num_images:
        scene = sample_scene(rng, held_out)
        if str(scene) in seen:
            continue
        seen.add(str(scene))
        questions, answers = zip(*sample_questions(scene, askable=askable, rng=rng), strict=True)
        png = io.BytesIO()
        draw_scene(scene, image_size=image_size, rng=rng).save(png, format="PNG")
        rows.append(
            {
                "image_id": f"scene-{split}-{len(rows):05d}",
                "image": {"bytes": png.getvalue(), "path": None},
                "captions": sample_captions(scene, rng),
                "questions": list(questions),
                "answers": list(answers),
                "scene": scene,
            }
        )
    return datasets.Dataset.from_list(rows, features=_FEATURES, split=split)
