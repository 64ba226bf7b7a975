"""Synthetic data set of drawn scenes with captions, questions and answers."""

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
    """Generate a data set of scenes with two or three colored shapes, five captions and five questions.

    The data set measures compositional generalization. About a fifth of the combinations of color and shape is held
    out. The splits `train` and `validation` neither show nor mention these combinations. Every scene of `test` shows at
    least one of them, and the captions, questions and answers may mention it. All scenes are different, also between
    splits.

    Nothing is downloaded. The same seed gives the same images and texts on all machines.

    Args:
        num_train: Number of images in the split `train`.
        num_test: Number of images in the split `test`.
        image_size: Side of the square images in pixels, at least 32. The scenes do not depend on it.
        seed: Seed of the scenes.
        num_validation: Number of images in the split `validation`.

    Returns:
        A `DatasetDict` with the splits `train`, `validation` and `test`, whose tables have the columns

        - `image`: the image, stored as PNG.
        - `image_id`: a string such as "scene-test-00012".
        - `captions`: five true captions.
        - `questions` and `answers`: five of each.
        - `scene`: the objects, with `shape`, `color`, `size` and the center `x`, `y` in percent of the image side.

    Raises:
        ValueError: If the size of a split is less than 1, or `image_size` is less than 32.

    Example:
        >>> scenes = load_scenes(num_train=4, num_test=2, num_validation=2)
        >>> row = scenes["train"][0]
        >>> row["image_id"], row["image"].size, len(row["captions"])
        ('scene-train-00000', (64, 64), 5)
    """
    for name, size in {"num_train": num_train, "num_test": num_test, "num_validation": num_validation}.items():
        check_at_least(name, size)
    if image_size < 32:
        raise ValueError(f"`image_size` must be at least 32 to distinguish the shapes, but got {image_size}.")

    seen: set[str] = set()
    # Test and validation are drawn first, so that they do not depend on the size of train.
    test = _draw_split("test", num_test, image_size, seed, seen)
    validation = _draw_split("validation", num_validation, image_size, seed, seen)
    train = _draw_split("train", num_train, image_size, seed, seen)
    return datasets.DatasetDict(train=train, validation=validation, test=test)


def caption_matches(table: datasets.Dataset) -> np.ndarray:
    """Compute which captions of a split are true for which images.

    A caption that was drawn for one image is often true for other images as well, and is then also a correct result in
    retrieval. The matches are computed from the scenes, so they are exact.

    Args:
        table: Split of [`load_scenes`], or a selection of its rows.

    Returns:
        Boolean array `(images, captions)`, with the captions of all rows concatenated in the order of the rows.

    Raises:
        ValueError: If the table lacks the column `scene` or `captions`.

    Example:
        >>> test = load_scenes(num_train=1, num_test=3, num_validation=1)["test"]
        >>> matches = caption_matches(test)
        >>> matches.shape, matches[0, :5].all().item()
        ((3, 15), True)
    """
    missing = {"captions", "scene"}.difference(table.column_names)
    if missing:
        raise ValueError(
            f"`table` must have the columns captions and scene, but lacks {' and '.join(sorted(missing))}. Pass one "
            "split of `load_scenes`."
        )
    columns = defaultdict(list)
    for column, caption in enumerate(itertools.chain.from_iterable(table["captions"])):
        columns[caption].append(column)
    matches: np.ndarray = np.zeros((len(table), sum(map(len, columns.values()))), dtype=bool)
    for row, scene in enumerate(table["scene"]):
        for caption in true_captions(scene) & columns.keys():
            matches[row, columns[caption]] = True
    return matches


def _draw_split(split: str, num_images: int, image_size: int, seed: int, seen: set[str]) -> datasets.Dataset:
    """Draw scenes that are not in `seen`, and add them to `seen`."""
    rng = random.Random(f"{split} {seed}")  # a string seed is the same in all processes
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
