"""Encoding of padded images of different sizes, each at its own size."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlmkit.modules.backbones import backbone_name, interpolation_keywords, patch_size, pretrained_size


@dataclass
class VisionTowerOutput(BaseModelOutputWithPooling):
    """Output of a vision tower.

    Args:
        last_hidden_state: `(B, N, D)`, the vision features.
        pooler_output: `(B, D)`, one vector per image.
        hidden_states: Hidden states of the backbone, with `output_hidden_states=True`.
        attentions: Attention weights of the backbone, with `output_attentions=True`.
        patch_attention_mask: `(B, rows, columns)`, false for padding, for padded images of different sizes. The patches
            are the last `rows * columns` of the N vision features, in row-major order.
    """

    patch_attention_mask: Tensor | None = None


def image_sizes(pixel_attention_mask: Tensor) -> list[tuple[int, int]]:
    """Return height and width of each image without its padding, in pixels.

    Args:
        pixel_attention_mask: `(B, H, W)`, 1 for pixels of the image and 0 for padding on the right and at the bottom.

    Raises:
        ValueError: If an image is empty, or not a rectangle in the top left corner.

    Example:
        >>> image_sizes(torch.tensor([[[1, 1, 0], [0, 0, 0]]]))
        [(1, 2)]
    """
    is_image = pixel_attention_mask.bool()
    heights, widths = is_image[:, :, 0].sum(dim=1), is_image[:, 0].sum(dim=1)
    rows, columns = (torch.arange(side, device=is_image.device) for side in is_image.shape[1:])
    rectangles = (rows < heights[:, None])[:, :, None] & (columns < widths[:, None])[:, None]
    faulty = (rectangles != is_image).flatten(1).any(dim=1) | (heights * widths == 0)
    if faulty.any():
        raise ValueError(
            "`pixel_attention_mask` must be a rectangle in the top left corner of each image, but is not for image "
            f"{int(faulty.nonzero()[0])}. Pad images on the right and at the bottom, and set the mask to 1 for each "
            "pixel of the image and to 0 for padding."
        )
    return list(zip(heights.tolist(), widths.tolist(), strict=True))


def encode_by_size(
    backbone: PreTrainedModel,
    encode: Callable[..., BaseModelOutputWithPooling],
    *,
    pixel_values: Tensor,
    pixel_attention_mask: Tensor,
    num_prefix_tokens: int,
    **kwargs: Any,
) -> VisionTowerOutput:
    """Encode images of equal size together, without padding, and arrange their patches on the padded grid.

    This is equivalent to masking the padding in every layer, with position embeddings interpolated to the size of each
    image.

    Args:
        backbone: Backbone that encodes the images.
        encode: Function that runs the backbone on `(b, 3, h, w)` and returns vision features and pooled output.
        pixel_values: `(B, 3, H, W)`.
        pixel_attention_mask: `(B, H, W)`, see [`image_sizes`].
        num_prefix_tokens: Number of tokens that `encode` returns before the patches.
        **kwargs: Passed to `encode`.

    Returns:
        `last_hidden_state (B, N, D)`, with zeros for padding, `pooler_output (B, D)` and
        `patch_attention_mask (B, rows, columns)`.

    Raises:
        ValueError: If the mask has another shape than the images, a side is not a multiple of the patch size, or the
            backbone does not support an image size.
    """
    canvas = _padded_size(pixel_values, pixel_attention_mask)
    sizes = image_sizes(pixel_attention_mask)
    if (patch := patch_size(backbone)) is not None:
        _check_multiples(backbone, [*sizes, canvas], patch)
    keywords = {size: kwargs | interpolation_keywords(backbone, size) for size in dict.fromkeys(sizes)}
    members = {size: [image for image, other in enumerate(sizes) if other == size] for size in keywords}
    outputs = {
        size: encode(pixel_values[images, :, : size[0], : size[1]], **keywords[size])
        for size, images in members.items()
    }
    if patch is None:
        patch = _measured_patch(sizes[0], outputs[sizes[0]].last_hidden_state.shape[1] - num_prefix_tokens)
        _check_multiples(backbone, [*sizes, canvas], patch)
    tokens = [
        _padded(backbone, output.last_hidden_state, num_prefix_tokens, size, canvas, patch)
        for size, output in outputs.items()
    ]
    back = torch.tensor(list(chain.from_iterable(members.values())), device=pixel_values.device).argsort()
    unpadded = outputs.get(canvas) if len(outputs) == 1 else None
    return VisionTowerOutput(
        last_hidden_state=torch.cat(tokens)[back],
        pooler_output=torch.cat([output.pooler_output for output in outputs.values()])[back],
        patch_attention_mask=_patch_attention_mask(sizes, canvas, patch, pixel_values.device),
        hidden_states=unpadded and unpadded.hidden_states,
        attentions=unpadded and unpadded.attentions,
    )


def _padded_size(pixel_values: Tensor, pixel_attention_mask: Tensor) -> tuple[int, int]:
    """Return height and width of the padded images."""
    expected = (pixel_values.shape[0], *pixel_values.shape[2:])
    if pixel_attention_mask.shape != expected:
        raise ValueError(
            f"`pixel_attention_mask` must have the shape {expected} for `pixel_values` of the shape "
            f"{tuple(pixel_values.shape)}, but got {tuple(pixel_attention_mask.shape)}. Pass both as the image "
            "processor returns them."
        )
    return expected[1], expected[2]


def _check_multiples(backbone: PreTrainedModel, sizes: list[tuple[int, int]], patch: tuple[int, int]) -> None:
    """Check that image sides are multiples of the patch size, because backbones silently crop the rest.

    The pretrained size is always accepted.
    """
    for height, width in sizes:
        if (height % patch[0] or width % patch[1]) and (height, width) != pretrained_size(backbone):
            raise ValueError(
                f"Image sides must be multiples of {patch[0]} x {patch[1]}, the patch size of "
                f"{backbone_name(backbone.config)} in pixels, but got an image of {height} x {width}. Resize or pad it."
            )


def _measured_patch(size: tuple[int, int], num_patches: int) -> tuple[int, int]:
    """Return the patch size, measured from the number of patches of an image."""
    side = math.isqrt(size[0] * size[1] // num_patches)
    return side, side


def _grid(size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """Return the number of rows and columns of patches."""
    return size[0] // patch[0], size[1] // patch[1]


def _padded(
    backbone: PreTrainedModel,
    tokens: Tensor,
    num_prefix_tokens: int,
    size: tuple[int, int],
    canvas: tuple[int, int],
    patch: tuple[int, int],
) -> Tensor:
    """Pad the tokens `(b, n, D)` of images of one size with zeros to the padded grid, `(b, N, D)`."""
    (rows, columns), (all_rows, all_columns) = _grid(size, patch), _grid(canvas, patch)
    prefix, patches = tokens[:, :num_prefix_tokens], tokens[:, num_prefix_tokens:]
    if patches.shape[1] != rows * columns:
        raise ValueError(
            f"{backbone_name(backbone.config)} must return {rows} x {columns} patches for an image of {size[0]} x "
            f"{size[1]} pixels, but returned {patches.shape[1]}. Use image sides that are multiples of its total "
            "stride, or another backbone."
        )
    grid = patches.unflatten(1, (rows, columns))
    grid = nn.functional.pad(grid, (0, 0, 0, all_columns - columns, 0, all_rows - rows))
    return torch.cat([prefix, grid.flatten(1, 2)], dim=1)


def _patch_attention_mask(
    sizes: list[tuple[int, int]], canvas: tuple[int, int], patch: tuple[int, int], device: torch.device
) -> Tensor:
    """Return a mask `(B, rows, columns)` of the patches that belong to each image."""
    grids = torch.tensor([_grid(size, patch) for size in sizes], device=device)
    rows, columns = (torch.arange(side, device=device) for side in _grid(canvas, patch))
    return (rows < grids[:, :1])[:, :, None] & (columns < grids[:, 1:])[:, None]
