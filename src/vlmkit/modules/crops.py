"""Crops of split images: one flat batch for the vision tower, and the embeddings of each image after it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmkit.modules.fusion import ImageEmbeds


def flatten_crops(
    pixel_values: Tensor | None,
    *,
    pixel_attention_mask: Tensor | Sequence[Tensor] | None,
    num_crops: Tensor | Sequence[int] | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Flatten images with equal numbers of crops, and leave crops that are already flat as they are.

    Args:
        pixel_values: `(C, 3, H, W)`, or `(I, C_i, 3, H, W)` for images with equal numbers of crops.
        pixel_attention_mask: `(C, H, W)` or `(I, C_i, H, W)`, or a list with one mask per image.
        num_crops: `(I,)`, number of crops of each image.

    Returns:
        `pixel_values (C, 3, H, W)`, `pixel_attention_mask (C, H, W)` and `num_crops (I,)`, each `None` if not known.

    Raises:
        ValueError: If `pixel_values` has another number of dimensions, or `num_crops` is not a vector of integers or
            contradicts the shape of `pixel_values`.

    Example:
        >>> import torch
        >>> pixels, _, num_crops = flatten_crops(
        ...     torch.zeros(2, 5, 3, 8, 8), pixel_attention_mask=None, num_crops=None
        ... )
        >>> pixels.shape, num_crops.tolist()
        (torch.Size([10, 3, 8, 8]), [5, 5])
    """
    if pixel_values is not None and pixel_values.ndim not in (4, 5):
        raise ValueError(
            "`pixel_values` must have the shape (crops, 3, height, width) or (images, crops, 3, height, width), but "
            f"got {tuple(pixel_values.shape)}."
        )
    if num_crops is not None:
        num_crops = torch.as_tensor(num_crops)
        if num_crops.ndim != 1 or num_crops.is_floating_point():
            raise ValueError(
                f"`num_crops` must be a vector of integers, but got {num_crops}. Pass it as the processor returned it."
            )
    if pixel_attention_mask is not None and not isinstance(pixel_attention_mask, Tensor):
        pixel_attention_mask = torch.cat(list(pixel_attention_mask))  # a server passes one mask per image
    if pixel_values is None or pixel_values.ndim == 4:
        return pixel_values, pixel_attention_mask, num_crops
    counts = torch.full((len(pixel_values),), pixel_values.shape[1])
    if num_crops is not None and num_crops.tolist() != counts.tolist():
        raise ValueError(
            f"`num_crops` must be {counts.tolist()} for `pixel_values` of the shape {tuple(pixel_values.shape)}, but "
            f"got {num_crops.tolist()}. Omit it for `pixel_values` of five dimensions."
        )
    if pixel_attention_mask is not None and pixel_attention_mask.ndim == 4:
        pixel_attention_mask = pixel_attention_mask.flatten(0, 1)
    return pixel_values.flatten(0, 1), pixel_attention_mask, counts


def crop_counts(num_crops: Tensor, total: int) -> list[int]:
    """Return the number of crops of each image as integers.

    Args:
        num_crops: `(I,)`, number of crops of each image.
        total: Number of crops C of all images.

    Raises:
        ValueError: If an image has no crop, or the numbers do not add up to `total`.
    """
    counts = num_crops.tolist()
    if sum(counts) != total or min(counts, default=1) < 1:
        raise ValueError(
            f"`num_crops` must be at least 1 for each image and add up to the number of crops {total}, but got "
            f"{counts}. Pass it as the processor returned it."
        )
    return counts


def join_crops(embeds: ImageEmbeds, counts: list[int]) -> ImageEmbeds:
    """Concatenate the embeddings of the crops of each image.

    Args:
        embeds: Embeddings of all crops, `(C, M, D)` or one `(M_c, D)` per crop.
        counts: Number of crops of each image.

    Returns:
        `(I, C_i * M, D)` if all images have the same number of tokens, else one `(M_i, D)` per image.
    """
    if isinstance(embeds, Tensor) and len(set(counts)) == 1:
        return embeds.reshape(len(counts), -1, embeds.shape[-1])
    parts, start = [], 0
    for count in counts:
        parts.append(torch.cat(list(embeds[start : start + count])))
        start += count
    return parts
