"""A table of labelled images, decoded once, as tensors in memory."""

import warnings
from collections import Counter
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmkit.images import to_rgb
from vlmkit.validation import check_at_least

_LABEL_COLUMNS = ("fine_label", "label")  # taken if there are several columns of classes
_SIZES_SHOWN = 3


class LabelledImages(NamedTuple):
    """N images `(N, 3, S, S)` in uint8, their classes `(N,)` in int64, and the names of the classes."""

    pixels: Tensor
    labels: Tensor
    class_names: list[str]


def read_labelled_images(
    table: datasets.Dataset, *, image_size: int, image_column: str | None = None, label_column: str | None = None
) -> LabelledImages:
    """Decode all images of a table to RGB of one size, and read their classes.

    Images of another size are resized (bicubic, without keeping their proportions), which one warning reports.

    Args:
        table: with a column of the type `datasets.Image` and one of the type `datasets.ClassLabel`.
        image_size: side of the images in pixels.
        image_column: found by its type if not given.
        label_column: found by its type if not given; `fine_label`, then `label`, if there are several.

    Raises:
        TypeError: `table` is not a `datasets.Dataset`.
        ValueError: `image_size` is less than 1; a column is missing, of another type or one of several; an image is
            missing or cannot be decoded; a label is missing or outside its classes. The message names column and row.

    Example:
        >>> columns = {"photo": [Image.new("L", (8, 8), 7)], "animal": [1]}
        >>> types = {"photo": datasets.Image(), "animal": datasets.ClassLabel(names=["cat", "dog"])}
        >>> images = read_labelled_images(datasets.Dataset.from_dict(columns, datasets.Features(types)), image_size=8)
        >>> images.pixels.shape, images.labels, images.class_names
        (torch.Size([1, 3, 8, 8]), tensor([1]), ['cat', 'dog'])
    """
    if not isinstance(table, datasets.Dataset):
        raise TypeError(f"table is a {type(table).__name__}; give one split, such as tables['train']")
    check_at_least("image_size", image_size)
    image_column = _choose_column(table, "image_column", image_column, datasets.Image, ())
    label_column = _choose_column(table, "label_column", label_column, datasets.ClassLabel, _LABEL_COLUMNS)
    table = table.with_format(None)
    class_names = table.features[label_column].names
    labels = _read_labels(table, label_column, len(class_names))
    return LabelledImages(_read_pixels(table, image_column, image_size), labels, class_names)


def _choose_column(
    table: datasets.Dataset, argument: str, name: str | None, kind: type, preferred: tuple[str, ...]
) -> str:
    """The column of a type that is named, the only one, or a preferred one."""
    candidates = [column for column, feature in table.features.items() if isinstance(feature, kind)]
    columns = ", ".join(table.column_names)
    if not candidates:
        raise ValueError(
            f"the table has no column of the type {kind.__name__}, only {columns}; turn one into it with "
            "table.cast_column or table.class_encode_column"
        )
    if name is not None:
        if name not in candidates:
            raise ValueError(f"{argument} is {name!r}; of the type {kind.__name__} are {', '.join(candidates)}")
        return name
    choice = next((column for column in preferred if column in candidates), None)
    if choice is None and len(candidates) > 1:
        raise ValueError(f"the columns {', '.join(candidates)} are of the type {kind.__name__}: name one, {argument}=")
    return choice or candidates[0]


def _read_labels(table: datasets.Dataset, column: str, num_classes: int) -> Tensor:
    values = table[column][:]
    for row, value in enumerate(values):
        if value is None or not 0 <= value < num_classes:
            raise ValueError(
                f"row {row}: {column} is {value}, and the classes are numbered 0 to {num_classes - 1}; drop such rows"
            )
    return torch.tensor(values, dtype=torch.int64)


def _read_pixels(table: datasets.Dataset, column: str, image_size: int) -> Tensor:
    """All images as one tensor `(N, 3, S, S)`."""
    feature = table.features[column]
    encoded = table.cast_column(column, datasets.Image(decode=False))[column]
    pixels: np.ndarray = np.empty((len(table), 3, image_size, image_size), dtype=np.uint8)
    resized: Counter[tuple[int, int]] = Counter()
    for row, value in enumerate(encoded):
        image = to_rgb(_decode(feature, value, f"row {row}: {column}"))
        if image.size != (image_size, image_size):
            resized[image.size] += 1
            image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
        pixels[row] = np.asarray(image).transpose(2, 0, 1)
    if resized:
        sizes = [f"{width}x{height} ({count})" for (width, height), count in resized.most_common(_SIZES_SHOWN)]
        sizes += ["..."] if len(resized) > _SIZES_SHOWN else []
        warnings.warn(
            f"resized {resized.total()} of {len(table)} images to {image_size}x{image_size}; they were "
            f"{', '.join(sizes)}",
            stacklevel=4,
        )
    return torch.from_numpy(pixels)


def _decode(feature: datasets.Image, value: dict[str, Any] | None, where: str) -> Image.Image:
    if value is None:
        raise ValueError(f"{where} is empty; drop such rows")
    try:
        return feature.decode_example(value)
    except Exception as error:  # a broken file makes PIL raise nearly anything
        raise ValueError(f"{where} cannot be decoded: {error}") from error
