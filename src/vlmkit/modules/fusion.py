"""Two ways to show images to a language model: in its input embeddings, or by cross-attention."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import torch_compilable_check

# Images with equal numbers of tokens, `(I, M, D)`, or one tensor `(M_i, D)` per image.
ImageEmbeds = Tensor | Sequence[Tensor]
_NEVER_VISIBLE = torch.iinfo(torch.long).max  # a position after the end of every text


def merge_image_embeds(inputs_embeds: Tensor, *, image_token_mask: Tensor, image_embeds: ImageEmbeds | None) -> Tensor:
    """Replace the embeddings of placeholder tokens with image embeddings.

    Args:
        inputs_embeds: `(B, T, D)`, embeddings of the text tokens.
        image_token_mask: `(B, T)`, true at placeholder tokens.
        image_embeds: Embeddings of all images in the order of the texts, `(I, M, D)` or one `(M_i, D)` per image.
            `None` if there are no images.

    Raises:
        ValueError: If the number of placeholders differs from the number of image embeddings.

    Example:
        >>> texts, images = torch.zeros(1, 4, 2), torch.ones(1, 2, 2)
        >>> mask = torch.tensor([[False, True, True, False]])
        >>> merge_image_embeds(texts, image_token_mask=mask, image_embeds=images)[0, :, 0].tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    check_num_image_tokens(image_token_mask, () if image_embeds is None else image_embeds)
    if image_embeds is None:
        return inputs_embeds
    tokens = image_embeds.flatten(0, 1) if isinstance(image_embeds, Tensor) else torch.cat(list(image_embeds))
    return inputs_embeds.masked_scatter(image_token_mask[..., None], tokens.to(inputs_embeds))


def group_images_by_text(
    image_token_mask: Tensor, image_embeds: ImageEmbeds, *, first_position: int = 0
) -> tuple[Tensor, Tensor]:
    """Concatenate the images of each text, for a language model that attends to them by cross-attention.

    Args:
        image_token_mask: `(B, T)`, true at placeholder tokens, one for each image.
        image_embeds: Embeddings of all images in the order of the texts, `(I, M, D)` or one `(M_i, D)` per image.
        first_position: Position of the first column of `image_token_mask`, if the texts continue earlier ones.

    Returns:
        The image embeddings of each text `(B, N, D)`, padded with zeros, and the position of the placeholder that each
        embedding belongs to `(B, N)`. A text position may attend to the embeddings whose placeholder does not come
        after it. Padding has a position after the end of every text.

    Raises:
        ValueError: If the number of placeholders differs from the number of images.

    Example:
        >>> image_token_mask = torch.tensor([[False, True, False, True], [True, False, False, False]])
        >>> embeds, positions = group_images_by_text(image_token_mask, torch.ones(3, 2, 8))
        >>> embeds.shape, positions[0].tolist(), positions[1, :2].tolist()
        (torch.Size([2, 4, 8]), [1, 1, 3, 3], [0, 0])
    """
    _check_count(image_token_mask, num_tokens=len(image_embeds), num_images=len(image_embeds))
    sizes = torch.tensor([len(image) for image in image_embeds], device=image_token_mask.device)
    padded = image_embeds if isinstance(image_embeds, Tensor) else pad_sequence(list(image_embeds), batch_first=True)
    rows, columns = image_token_mask.nonzero(as_tuple=True)
    counts = image_token_mask.sum(dim=1)
    slots = torch.arange(len(rows), device=image_token_mask.device) - (counts.cumsum(dim=0) - counts)[rows]
    shape = (len(image_token_mask), int(counts.max()), padded.shape[1])
    embeds = padded.new_zeros(*shape, padded.shape[2]).index_put((rows, slots), padded)
    is_real = torch.arange(padded.shape[1], device=image_token_mask.device) < sizes[:, None]
    positions = image_token_mask.new_full(shape, _NEVER_VISIBLE, dtype=torch.long)
    positions[rows, slots] = torch.where(is_real, first_position + columns[:, None], _NEVER_VISIBLE)
    return embeds.flatten(1, 2), positions.flatten(1)


def check_num_image_tokens(image_token_mask: Tensor, image_embeds: ImageEmbeds) -> None:
    """Check that the texts have one placeholder for each image embedding.

    Args:
        image_token_mask: `(B, T)`, true at placeholder tokens.
        image_embeds: See [`merge_image_embeds`].

    Raises:
        ValueError: If the numbers differ.
    """
    counts = [len(image) for image in image_embeds]
    _check_count(image_token_mask, num_tokens=sum(counts), num_images=len(counts))


def cached_images(image_token_mask: Tensor, *, num_image_tokens: Tensor, num_cached_tokens: int) -> Tensor:
    """Find the images whose placeholders are all in the key/value cache.

    Args:
        image_token_mask: `(B, T)`, true at placeholder tokens.
        num_image_tokens: `(I,)`, number of placeholders of each image, in the order of the texts.
        num_cached_tokens: Number of leading tokens of each text that the cache holds.

    Returns:
        Booleans `(I,)`.

    Raises:
        ValueError: If the number of placeholders differs from the number of image tokens, or the cache ends within an
            image.

    Example:
        >>> mask = torch.tensor([[True, True, False, True]])
        >>> cached_images(mask, num_image_tokens=torch.tensor([2, 1]), num_cached_tokens=3).tolist()
        [True, False]
    """
    _check_count(image_token_mask, num_tokens=int(num_image_tokens.sum()), num_images=len(num_image_tokens))
    columns, ends = image_token_mask.nonzero()[:, 1], num_image_tokens.cumsum(dim=0)
    begins_in_cache = columns[ends - num_image_tokens] < num_cached_tokens
    is_cached = columns[ends - 1] < num_cached_tokens
    if (begins_in_cache != is_cached).any():
        raise ValueError(
            f"The cache must not end within an image, but it holds {num_cached_tokens} tokens. "
            "Pass the cache that an earlier call returned."
        )
    return is_cached


def _check_count(image_token_mask: Tensor, *, num_tokens: int, num_images: int) -> None:
    found = image_token_mask.sum()
    torch_compilable_check(
        found == num_tokens,
        lambda: (
            f"The texts must have {num_tokens} image tokens for the {num_images} images, but got {int(found)}. "
            "Pass one image for each image placeholder of the texts."
        ),
    )
