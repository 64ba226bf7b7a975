"""Validation and conversion of the columns of a batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlmkit.images import to_rgb


def get_column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any] | None:
    """Return the values of an optional column, or `None` if the rows do not have it.

    Args:
        rows: Rows of the batch.
        name: Name of the column.

    Raises:
        ValueError: If only some rows have a value.
    """
    values = [row.get(name) for row in rows]
    present = sum(value is not None for value in values)
    if 0 < present < len(rows):
        raise ValueError(
            f"Either all rows of a batch or none must have {name!r}, but got {present} of {len(rows)} rows."
        )
    return values if present else None


def get_required_column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """Return the values of a required column.

    Args:
        rows: Rows of the batch.
        name: Name of the column.

    Raises:
        ValueError: If a row does not have a value.
    """
    values = get_column(rows, name)
    if values is None:
        raise ValueError(
            f"The rows must have the column {name!r}, but got {sorted(rows[0])}. With `Trainer`, set "
            "`remove_unused_columns=False`."
        )
    return values


def get_rgb_images(
    rows: Sequence[dict[str, Any]], augmentation: Callable[[Image.Image], Image.Image] | None
) -> list[Image.Image]:
    """Return the augmented RGB images of a batch.

    Args:
        rows: Rows with the column `image`.
        augmentation: Function that is applied to each RGB image, or `None`.

    Raises:
        ValueError: If a row does not have an image.
    """
    images = [to_rgb(image) for image in get_required_column(rows, "image")]
    return images if augmentation is None else [augmentation(image) for image in images]


def get_cached_features(rows: Sequence[dict[str, Any]], name: str, *, augmentation: Callable | None) -> Tensor | None:
    """Return the cached features of a batch, or `None` if the rows do not have any.

    Args:
        rows: Rows of the batch.
        name: Name of the column with the features.
        augmentation: Augmentation of the images, which must be `None` if there are features.

    Returns:
        Features `(B, ...)` in float32, or `None`.

    Raises:
        ValueError: If only some rows have features, or there is an augmentation in addition to features.
    """
    features = get_column(rows, name)
    if features is None:
        return None
    if augmentation is not None:
        raise ValueError(
            f"`augmentation` must be `None` if the rows have cached features ({name!r}). Remove the augmentation, or "
            "drop the column."
        )
    return stack_features(features)


def choose_captions(rows: Sequence[dict[str, Any]], caption: str) -> list[str]:
    """Return one caption of each row.

    Args:
        rows: Rows with `image_id` and `captions`.
        caption: `"first"` or `"random"`, see [`choose_caption`].

    Raises:
        ValueError: If a column is missing, a row does not have a caption, a caption is empty, or `captions` is a string
            instead of a list.
    """
    image_ids, captions = get_required_column(rows, "image_id"), get_required_column(rows, "captions")
    for image_id, texts in zip(image_ids, captions, strict=True):
        if isinstance(texts, str):
            raise ValueError(
                f"`captions` of the image {image_id} must be a list of strings, but got the string {texts!r}."
            )
        if not all(text and text.strip() for text in texts):
            raise ValueError(
                f"Captions must not be empty, but the image {image_id} has {list(texts)}. Drop empty captions."
            )
    rows_captions = zip(image_ids, captions, strict=True)
    return [choose_caption(image_id, options=options, caption=caption) for image_id, options in rows_captions]


def choose_caption(image_id: str, *, options: Sequence[Any], caption: str) -> Any:
    """Choose one caption of an image, or the features of one caption.

    Args:
        image_id: Id of the image for the error message.
        options: Captions or features to choose from.
        caption: `"first"`, or `"random"` to draw one with torch's global random number generator.

    Raises:
        ValueError: If `options` is empty.
    """
    if len(options) == 0:
        raise ValueError(f"The image {image_id} does not have a caption. Drop images without captions.")
    return options[0 if caption == "first" else int(torch.randint(len(options), ()))]


def stack_features(features: Sequence[Any]) -> Tensor:
    """Stack features of equal shape to a float32 tensor `(B, ...)`."""
    return torch.stack([torch.as_tensor(feature, dtype=torch.float32) for feature in features])
