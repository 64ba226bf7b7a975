"""The columns of a batch's rows: read, checked and made ready for a processor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlmkit.images import to_rgb


def get_column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any] | None:
    """The values of a column that all rows have, or None if no row has it.

    Raises:
        ValueError: only some rows have it.
    """
    values = [row.get(name) for row in rows]
    present = sum(value is not None for value in values)
    if 0 < present < len(rows):
        raise ValueError(f"only {present} of {len(rows)} rows have {name!r}; a batch needs it in all rows or in none")
    return values if present else None


def get_required_column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """The values of a column.

    Raises:
        ValueError: a row does not have it.
    """
    values = get_column(rows, name)
    if values is None:
        raise ValueError(f"the rows have no {name!r}, only {sorted(rows[0])}; give Trainer remove_unused_columns=False")
    return values


def get_rgb_images(
    rows: Sequence[dict[str, Any]], augmentation: Callable[[Image.Image], Image.Image] | None
) -> list[Image.Image]:
    """Return the images of rows in RGB, augmented.

    Raises:
        ValueError: a row has no image.
    """
    images = [to_rgb(image) for image in get_required_column(rows, "image")]
    return images if augmentation is None else [augmentation(image) for image in images]


def get_cached_features(rows: Sequence[dict[str, Any]], name: str, *, augmentation: Callable | None) -> Tensor | None:
    """The cached features of the rows' images, `(B, ...)` in float32, or None if no row has them.

    Raises:
        ValueError: only some rows have them, or there is an augmentation.
    """
    features = get_column(rows, name)
    if features is None:
        return None
    if augmentation is not None:
        raise ValueError("augmentation together with cached features changes nothing; give up one of them")
    return stack_features(features)


def choose_captions(rows: Sequence[dict[str, Any]], caption: str) -> list[str]:
    """Return one caption of each row.

    Args:
        rows: with `image_id` and `captions`.
        caption: see [`choose_caption`].

    Raises:
        ValueError: a column is missing, a row has no caption or an empty one, or its captions are no list.
    """
    image_ids, captions = get_required_column(rows, "image_id"), get_required_column(rows, "captions")
    for image_id, texts in zip(image_ids, captions, strict=True):
        if isinstance(texts, str):
            raise ValueError(f"image {image_id}: captions is the string {texts!r}; make it a list of strings")
        if not all(text and text.strip() for text in texts):
            raise ValueError(f"image {image_id} has an empty caption among {list(texts)}; drop it")
    rows_captions = zip(image_ids, captions, strict=True)
    return [choose_caption(image_id, options=options, caption=caption) for image_id, options in rows_captions]


def choose_caption(image_id: str, *, options: Sequence[Any], caption: str) -> Any:
    """One of an image's captions, or of their features.

    Args:
        image_id: for the error.
        options: one per caption.
        caption: "first", or "random" by torch's random numbers.

    Raises:
        ValueError: there is none.
    """
    if len(options) == 0:
        raise ValueError(f"image {image_id} has no caption; drop it")
    return options[0 if caption == "first" else int(torch.randint(len(options), ()))]


def stack_features(features: Sequence[Any]) -> Tensor:
    """Features of equal shape as one tensor `(B, ...)` in float32."""
    return torch.stack([torch.as_tensor(feature, dtype=torch.float32) for feature in features])
