"""Decoding of a table of labeled images into tensors in memory."""

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

_LABEL_COLUMNS = ("fine_label", "label")  # preferred if several columns have class labels
_MAX_SIZES_IN_WARNING = 3


class LabelledImages(NamedTuple):
    """Images and class labels in memory.

    Args:
        pixels: RGB images `(N, 3, S, S)` in uint8.
        labels: Class labels `(N,)` in int64.
        class_names: Names of the classes.
    """

    pixels: Tensor
    labels: Tensor
    class_names: list[str]


def read_labelled_images(
    table: datasets.Dataset, *, image_size: int, image_column: str | None = None, label_column: str | None = None
) -> LabelledImages:
    """Decode all images of a table to square RGB images, and read their class labels.

    Images of other sizes are resized with bicubic interpolation, which does not preserve the aspect ratio. One warning
    reports their number and sizes.

    Args:
        table: Table with a column of the type `datasets.Image` and a column of the type `datasets.ClassLabel`.
        image_size: Side of the images in pixels.
        image_column: Name of the image column. Defaults to the only column of its type.
        label_column: Name of the label column. Defaults to the only column of its type, or to `fine_label` or `label`
            if there are several.

    Raises:
        TypeError: If `table` is not a `datasets.Dataset`.
        ValueError: If `image_size` is less than 1, a column is missing or has another type, the choice of a column is
            ambiguous, an image is missing or cannot be decoded, or a label is missing or out of range.

    Example:
        >>> columns = {"photo": [Image.new("L", (8, 8), 7)], "animal": [1]}
        >>> types = {"photo": datasets.Image(), "animal": datasets.ClassLabel(names=["cat", "dog"])}
        >>> images = read_labelled_images(datasets.Dataset.from_dict(columns, datasets.Features(types)), image_size=8)
        >>> images.pixels.shape, images.labels, images.class_names
        (torch.Size([1, 3, 8, 8]), tensor([1]), ['cat', 'dog'])
    """
    if not isinstance(table, datasets.Dataset):
        raise TypeError(
            f"`table` must be a `datasets.Dataset`, but got a {type(table).__name__}. Pass one split, such as "
            "tables['train']."
        )
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
    """Return the column with the given name, or the only or a preferred column of a type."""
    candidates = [column for column, feature in table.features.items() if isinstance(feature, kind)]
    columns = ", ".join(table.column_names)
    if not candidates:
        raise ValueError(
            f"`table` must have a column of the type {kind.__name__}, but got the columns {columns}. Convert a column "
            "with `table.cast_column` or `table.class_encode_column`."
        )
    if name is not None:
        if name not in candidates:
            raise ValueError(
                f"`{argument}` must be a column of the type {kind.__name__} ({', '.join(candidates)}), but got "
                f"{name!r}."
            )
        return name
    choice = next((column for column in preferred if column in candidates), None)
    if choice is None and len(candidates) > 1:
        raise ValueError(
            f"`{argument}` is required, because several columns have the type {kind.__name__}: {', '.join(candidates)}."
        )
    return choice or candidates[0]


def _read_labels(table: datasets.Dataset, column: str, num_classes: int) -> Tensor:
    values = table[column][:]
    for row, value in enumerate(values):
        if value is None or not 0 <= value < num_classes:
            raise ValueError(
                f"Row {row}: `{column}` must be from 0 to {num_classes - 1}, but got {value}. Drop rows with invalid "
                "labels."
            )
    return torch.tensor(values, dtype=torch.int64)


def _read_pixels(table: datasets.Dataset, column: str, image_size: int) -> Tensor:
    """Decode all images to a tensor `(N, 3, S, S)`."""
    feature = table.features[column]
    encoded = table.cast_column(column, datasets.Image(decode=False))[column]
    pixels: np.ndarray = np.empty((len(table), 3, image_size, image_size), dtype=np.uint8)
    resized: Counter[tuple[int, int]] = Counter()
    for row, value in enumerate(encoded):
        image = to_rgb(_decode(feature, value, f"Row {row}: the image in the column {column!r}"))
        if image.size != (image_size, image_size):
            resized[image.size] += 1
            image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
        pixels[row] = np.asarray(image).transpose(2, 0, 1)
    if resized:
        sizes = [f"{width}x{height} ({count})" for (width, height), count in resized.most_common(_MAX_SIZES_IN_WARNING)]
        sizes += ["others"] if len(resized) > _MAX_SIZES_IN_WARNING else []
        warnings.warn(
            f"Resized {resized.total()} of {len(table)} images to {image_size}x{image_size}. The original sizes were "
            f"{', '.join(sizes)}.",
            stacklevel=4,
        )
    return torch.from_numpy(pixels)


def _decode(feature: datasets.Image, value: dict[str, Any] | None, where: str) -> Image.Image:
    if value is None:
        raise ValueError(f"{where} is missing. Drop rows without images.")
    try:
        return feature.decode_example(value)
    except Exception as error:  # PIL raises many types of exceptions for corrupt files
        raise ValueError(f"{where} cannot be decoded: {error}") from error
