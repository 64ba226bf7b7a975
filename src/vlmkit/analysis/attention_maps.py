"""Where in an image an encoder looks: maps of its attention, and of what covering a patch does to its output."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def class_attention(
    attentions: Sequence[Tensor],
    grid: tuple[int, int],
    *,
    num_prefix_tokens: int = 1,
    layer: int = -1,
    head: int | None = None,
) -> Tensor:
    """How much the class token attends to each patch, in one layer.

    Args:
        attentions: `(B, H, N, N)` attention probabilities of each layer, as with `output_attentions=True`; the class
            token comes first.
        grid: rows h and columns w of patches.
        num_prefix_tokens: tokens before the patches, the class token included: N = num_prefix_tokens + h * w.
        layer: index into `attentions`, by default the last layer.
        head: one of H heads; the mean over all if not given.

    Returns:
        `(B, h, w)`, patches row by row. The weights of an image add up to 1 less the attention to the prefix.

    Raises:
        ValueError: there are no attentions (load the model with `attn_implementation="eager"`), their shape does not
            fit the grid, there is no class token, or the layer or the head does not exist.

    Example:
        >>> uniform = torch.full((1, 2, 7, 7), 1 / 7)  # two heads, a class token and six patches
        >>> class_attention([uniform], grid=(2, 3)).shape
        torch.Size([1, 2, 3])
    """
    _check_attentions(attentions, grid, num_prefix_tokens)
    if not -len(attentions) <= layer < len(attentions):
        raise ValueError(f"layer is {layer}; there are {len(attentions)} layers, from 0")
    weights = select_head(attentions[layer].detach()[:, :, 0], head)
    return weights[:, num_prefix_tokens:].unflatten(1, grid)


def select_head(attention: Tensor, head: int | None, *, name: str = "head") -> Tensor:
    """Return one head `(B, ...)` of attention probabilities `(B, H, ...)`, or the mean of all heads.

    Args:
        attention: attention probabilities, heads in dimension 1.
        head: index of the head; `None` for the mean.
        name: name of the argument that holds the index, for the error.

    Raises:
        ValueError: If the head does not exist.
    """
    if head is None:
        return attention.mean(dim=1)
    if not 0 <= head < attention.shape[1]:
        raise ValueError(f"{name} is {head}; choose one of 0..{attention.shape[1] - 1}")
    return attention[:, head]


def attention_rollout(attentions: Sequence[Tensor], grid: tuple[int, int], *, num_prefix_tokens: int = 1) -> Tensor:
    """How much of each patch reaches the class token through all layers.

    Each layer mixes its tokens by the mean of its heads, averaged with the identity for the residual connection;
    the mixtures of all layers are multiplied.

    Args:
        attentions: `(B, H, N, N)` of each layer, first layer first, as for [`class_attention`].
        grid: rows h and columns w of patches.
        num_prefix_tokens: tokens before the patches, the class token included.

    Returns:
        `(B, h, w)`, patches row by row. The weights of an image add up to 1 less those of the prefix.

    Raises:
        ValueError: as for [`class_attention`].

    References:
        Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (arXiv:2005.00928, section 3).

    Example:
        >>> uniform = torch.full((1, 2, 7, 7), 1 / 7)
        >>> round(attention_rollout([uniform, uniform], grid=(2, 3)).sum().item(), 4)  # (1 - 1/4) * 6/7
        0.6429
    """
    _check_attentions(attentions, grid, num_prefix_tokens)
    # The class token's row of the product, from its last factor on: a vector instead of a matrix.
    weights = torch.zeros_like(attentions[0][:, 0, 0])
    weights[:, 0] = 1
    for heads in reversed(attentions):
        mixed = torch.einsum("bn,bnm->bm", weights, heads.detach().mean(dim=1))
        weights = (mixed + weights) / 2
    return weights[:, num_prefix_tokens:].unflatten(1, grid)


@torch.no_grad()
def occlusion_map(score: Callable[[Tensor], Tensor], pixel_values: Tensor, *, patch_size: int) -> Tensor:
    """How much a score drops when a patch of the image is covered with the image's mean colour.

    Works for every encoder, CNNs included. `score` is called once for the images as they are and once per patch, always
    with all B images in their order, so that each can have a target of its own, such as its similarity to its caption.

    Args:
        score: from `(B, channels, height, width)` to `(B,)`.
        pixel_values: `(B, channels, height, width)`.
        patch_size: side of the covered squares in pixels; divides height and width.

    Returns:
        `(B, h, w)`, h = height / patch_size; negative where the score rises.

    Raises:
        ValueError: `pixel_values` have another shape, the patches do not tile them, or the score is not `(B,)`.

    References:
        Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (arXiv:1311.2901, section 4.2).

    Example:
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[:, :, 0, 3] = 1.0  # one white pixel, at the upper right; the mean colour is 1/16
        >>> occlusion_map(lambda images: images.amax(dim=(1, 2, 3)), image, patch_size=2).tolist()
        [[[0.0, 0.9375], [0.0, 0.0]]]
    """
    if pixel_values.ndim != 4:
        raise ValueError(f"pixel_values {tuple(pixel_values.shape)} must be (images, channels, height, width)")
    batch, _, height, width = pixel_values.shape
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(f"patch_size {patch_size} must divide the height {height} and the width {width} of the images")
    original = score(pixel_values)
    if original.shape != (batch,):
        raise ValueError(
            f"score returned {tuple(original.shape)}; it must return one number for each of {batch} images"
        )
    mean_colour = pixel_values.mean(dim=(2, 3), keepdim=True)
    drops = []
    for top in range(0, height, patch_size):
        for left in range(0, width, patch_size):
            covered = pixel_values.clone()
            covered[:, :, top : top + patch_size, left : left + patch_size] = mean_colour
            drops.append(original - score(covered))
    return torch.stack(drops, dim=1).unflatten(1, (height // patch_size, width // patch_size))


def _check_attentions(attentions: Sequence[Tensor], grid: tuple[int, int], num_prefix_tokens: int) -> None:
    if len(attentions) == 0:
        raise ValueError('there are no attentions; load the model with attn_implementation="eager"')
    if num_prefix_tokens < 1:
        raise ValueError(f"num_prefix_tokens is {num_prefix_tokens}; without a class token, use occlusion_map")
    num_tokens = num_prefix_tokens + grid[0] * grid[1]
    for layer, heads in enumerate(attentions):
        if heads.ndim != 4 or heads.shape[2:] != (num_tokens, num_tokens):
            raise ValueError(
                f"attentions {tuple(heads.shape)} of layer {layer} must be (images, heads, {num_tokens}, {num_tokens}) "
                f"for {num_prefix_tokens} prefix tokens and a grid of {grid[0]} x {grid[1]} patches"
            )
