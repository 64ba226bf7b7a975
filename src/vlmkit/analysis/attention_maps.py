"""Maps of the image regions that an encoder uses, by attention or occlusion."""

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
    """Return the attention of the class token to each patch in one layer.

    Args:
        attentions: `(B, H, N, N)` attention weights of each layer, from a model that is loaded with
            `attn_implementation="eager"` and called with `output_attentions=True`. The class token comes first.
        grid: Rows h and columns w of patches.
        num_prefix_tokens: Number of tokens before the patches, including the class token: N = num_prefix_tokens +
            h * w.
        layer: Index into `attentions`. Defaults to the last layer.
        head: Index of the head, from 0 to H - 1. Defaults to the mean of all heads.

    Returns:
        `(B, h, w)`. The sum over an image is 1 minus the attention to prefix tokens.

    Raises:
        ValueError: If `attentions` is empty or does not match the grid, `num_prefix_tokens` is less than 1, or the
            layer or head does not exist.

    Example:
        >>> uniform = torch.full((1, 2, 7, 7), 1 / 7)  # two heads, a class token and six patches
        >>> class_attention([uniform], grid=(2, 3)).shape
        torch.Size([1, 2, 3])
    """
    _check_attentions(attentions, grid, num_prefix_tokens)
    if not -len(attentions) <= layer < len(attentions):
        raise ValueError(
            f"`layer` must be from {-len(attentions)} to {len(attentions) - 1}, the index of a layer, but got {layer}."
        )
    weights = select_head(attentions[layer].detach()[:, :, 0], head)
    return weights[:, num_prefix_tokens:].unflatten(1, grid)


def select_head(attention: Tensor, head: int | None, *, name: str = "head") -> Tensor:
    """Return one head `(B, ...)` of attention weights `(B, H, ...)`, or the mean of all heads.

    Args:
        attention: Attention weights with heads in dimension 1.
        head: Index of the head, or `None` for the mean.
        name: Name of the argument with the index, for the error message.

    Raises:
        ValueError: If the head does not exist.

    Example:
        >>> select_head(torch.tensor([[1.0, 3.0]]), head=None)
        tensor([2.])
    """
    if head is None:
        return attention.mean(dim=1)
    if not 0 <= head < attention.shape[1]:
        raise ValueError(f"`{name}` must be from 0 to {attention.shape[1] - 1}, the index of a head, but got {head}.")
    return attention[:, head]


def attention_rollout(attentions: Sequence[Tensor], grid: tuple[int, int], *, num_prefix_tokens: int = 1) -> Tensor:
    """Compute the attention rollout of the class token over all layers.

    Each layer is a matrix A = (mean of its heads + identity) / 2, where the identity represents the residual
    connection. The rollout is the row of the class token in the product of these matrices. Prefer it to
    [`class_attention`] for the effect of the whole model instead of a single layer.

    Args:
        attentions: `(B, H, N, N)` attention weights of each layer, from the first to the last, see
            [`class_attention`].
        grid: Rows h and columns w of patches.
        num_prefix_tokens: Number of tokens before the patches, including the class token.

    Returns:
        `(B, h, w)`. The sum over an image is 1 minus the weights of prefix tokens.

    Raises:
        ValueError: As [`class_attention`] raises.

    References:
        Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (arXiv:2005.00928, section 3).

    Example:
        >>> uniform = torch.full((1, 2, 7, 7), 1 / 7)
        >>> round(attention_rollout([uniform, uniform], grid=(2, 3)).sum().item(), 4)  # (1 - 1/4) * 6/7
        0.6429
    """
    _check_attentions(attentions, grid, num_prefix_tokens)
    # Computing only the row of the class token, starting with the last factor, avoids products of matrices.
    weights = torch.zeros_like(attentions[0][:, 0, 0])
    weights[:, 0] = 1
    for heads in reversed(attentions):
        mixed = torch.einsum("bn,bnm->bm", weights, heads.detach().mean(dim=1))
        weights = (mixed + weights) / 2
    return weights[:, num_prefix_tokens:].unflatten(1, grid)


@torch.no_grad()
def occlusion_map(score: Callable[[Tensor], Tensor], pixel_values: Tensor, *, patch_size: int) -> Tensor:
    """Compute the decrease of a score when a patch of the image is covered with the mean color of the image.

    This works for every encoder, including CNNs. `score` is called once with the original images and once for each
    patch, always with all B images in the same order, so that each image can have its own target, such as the
    similarity to its caption.

    Args:
        score: Function from `(B, channels, height, width)` to `(B,)`.
        pixel_values: `(B, channels, height, width)`.
        patch_size: Side of the covered squares in pixels, a divisor of height and width.

    Returns:
        `(B, h, w)` with h = height / patch_size. Values are negative where the score increases.

    Raises:
        ValueError: If `pixel_values` or the score have another shape, or `patch_size` does not divide the sides.

    References:
        Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (arXiv:1311.2901, section 4.2).

    Example:
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[:, :, 0, 3] = 1.0  # one white pixel, at the upper right; the mean color is 1/16
        >>> occlusion_map(lambda images: images.amax(dim=(1, 2, 3)), image, patch_size=2).tolist()
        [[[0.0, 0.9375], [0.0, 0.0]]]
    """
    if pixel_values.ndim != 4:
        raise ValueError(
            f"`pixel_values` must have the shape (images, channels, height, width), but got "
            f"{tuple(pixel_values.shape)}."
        )
    batch, _, height, width = pixel_values.shape
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"`patch_size` must divide the height {height} and the width {width} of the images, but got {patch_size}."
        )
    original = score(pixel_values)
    if original.shape != (batch,):
        raise ValueError(
            f"`score` must return one number for each of the {batch} images, but returned {tuple(original.shape)}."
        )
    mean_color = pixel_values.mean(dim=(2, 3), keepdim=True)
    drops = []
    for top in range(0, height, patch_size):
        for left in range(0, width, patch_size):
            covered = pixel_values.clone()
            covered[:, :, top : top + patch_size, left : left + patch_size] = mean_color
            drops.append(original - score(covered))
    return torch.stack(drops, dim=1).unflatten(1, (height // patch_size, width // patch_size))


def _check_attentions(attentions: Sequence[Tensor], grid: tuple[int, int], num_prefix_tokens: int) -> None:
    if len(attentions) == 0:
        raise ValueError(
            '`attentions` must not be empty. Load the model with `attn_implementation="eager"`, and pass '
            "`output_attentions=True`."
        )
    if num_prefix_tokens < 1:
        raise ValueError(
            f"`num_prefix_tokens` must be at least 1 for the class token, but got {num_prefix_tokens}. Use "
            "`occlusion_map` for models without a class token."
        )
    num_tokens = num_prefix_tokens + grid[0] * grid[1]
    for layer, heads in enumerate(attentions):
        if heads.ndim != 4 or heads.shape[2:] != (num_tokens, num_tokens):
            raise ValueError(
                f"`attentions` of layer {layer} must have the shape (images, heads, {num_tokens}, {num_tokens}) for "
                f"{num_prefix_tokens} prefix tokens and a grid of {grid[0]} x {grid[1]} patches, but got "
                f"{tuple(heads.shape)}."
            )
