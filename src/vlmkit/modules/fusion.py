"""How images enter a language model: in places of its texts, or beside them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import torch_compilable_check

# Of all images alike `(I, M, D)`, or of each its own number of tokens `(M_i, D)`.
ImageEmbeds = Tensor | Sequence[Tensor]
_NOWHERE = torch.iinfo(torch.long).max  # behind the end of every text


def merge_image_embeds(inputs_embeds: Tensor, is_place: Tensor, image_embeds: ImageEmbeds | None) -> Tensor:
    """Put the tokens of images into the places that texts keep for them.

    Args:
        inputs_embeds: `(B, T, D)`, of the texts' tokens.
        is_place: `(B, T)`, true where a token of an image belongs.
        image_embeds: `(I, M, D)`, the images of all texts in their order, or one `(M_i, D)` for each; or those of their
            tokens that belong into a part of the texts, `(1, M, D)`; `None` if there are none.

    Raises:
        ValueError: the texts have more or fewer places than the images have tokens.

    Example:
        >>> texts, images = torch.zeros(1, 4, 2), torch.ones(1, 2, 2)
        >>> merge_image_embeds(texts, torch.tensor([[False, True, True, False]]), images)[0, :, 0].tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    check_places(is_place, () if image_embeds is None else image_embeds)
    if image_embeds is None:
        return inputs_embeds
    tokens = image_embeds.flatten(0, 1) if isinstance(image_embeds, Tensor) else torch.cat(list(image_embeds))
    return inputs_embeds.masked_scatter(is_place[..., None], tokens.to(inputs_embeds))


def images_beside_texts(is_place: Tensor, image_embeds: ImageEmbeds, first_column: int = 0) -> tuple[Tensor, Tensor]:
    """Lay the images of each text side by side, for a language model that looks at them by cross-attention.

    Args:
        is_place: `(B, T)`, true where an image stands in a text, one place for each.
        image_embeds: `(I, M, D)`, the images of all texts in their order, or one `(M_i, D)` for each.
        first_column: of the texts' first token, if they are the end of longer ones.

    Returns:
        `(B, N, D)`, the tokens of each text's images in their order; and `(B, N)`, the column of the place that each
        belongs to: positions from there on see it. Texts with fewer images have zeros, which no position sees.

    Raises:
        ValueError: the texts have more or fewer places than there are images.

    Example:
        >>> is_place = torch.tensor([[False, True, False, True], [True, False, False, False]])
        >>> tokens, columns = images_beside_texts(is_place, torch.ones(3, 2, 8))
        >>> tokens.shape, columns[0].tolist(), columns[1, :2].tolist()
        (torch.Size([2, 4, 8]), [1, 1, 3, 3], [0, 0])
    """
    _check_count(is_place, len(image_embeds), len(image_embeds))
    sizes = torch.tensor([len(image) for image in image_embeds], device=is_place.device)
    padded = image_embeds if isinstance(image_embeds, Tensor) else pad_sequence(list(image_embeds), batch_first=True)
    rows, columns = is_place.nonzero(as_tuple=True)
    counts = is_place.sum(dim=1)
    slots = torch.arange(len(rows), device=is_place.device) - (counts.cumsum(dim=0) - counts)[rows]
    shape = (len(is_place), int(counts.max()), padded.shape[1])
    tokens = padded.new_zeros(*shape, padded.shape[2]).index_put((rows, slots), padded)
    is_real = torch.arange(padded.shape[1], device=is_place.device) < sizes[:, None]
    places = is_place.new_full(shape, _NOWHERE, dtype=torch.long)
    places[rows, slots] = torch.where(is_real, first_column + columns[:, None], _NOWHERE)
    return tokens.flatten(1, 2), places.flatten(1)


def check_places(is_place: Tensor, image_embeds: ImageEmbeds) -> None:
    """Refuse texts whose places are not as many as the tokens of their images.

    Args:
        is_place: `(B, T)`, true where a token of an image belongs.
        image_embeds: as [`merge_image_embeds`] takes them.

    Raises:
        ValueError: see above.
    """
    counts = [len(image) for image in image_embeds]
    _check_count(is_place, sum(counts), len(counts))


def cached_images(is_place: Tensor, num_places: Tensor, num_cached_tokens: int) -> Tensor:
    """Which images lie in that part of texts whose keys and values are known already.

    Args:
        is_place: `(B, T)`, true where a token of an image belongs.
        num_places: `(I,)`, of each image in the order of the texts.
        num_cached_tokens: of each text, from its beginning.

    Returns:
        `(I,)` booleans.

    Raises:
        ValueError: the texts have more or fewer places than the images have tokens, or the cache ends within an image.

    Example:
        >>> cached_images(torch.tensor([[True, True, False, True]]), torch.tensor([2, 1]), 3).tolist()
        [True, False]
    """
    _check_count(is_place, int(num_places.sum()), len(num_places))
    columns, ends = is_place.nonzero()[:, 1], num_places.cumsum(dim=0)
    begins, is_cached = columns[ends - num_places] < num_cached_tokens, columns[ends - 1] < num_cached_tokens
    if (begins != is_cached).any():
        raise ValueError(
            f"the cache of {num_cached_tokens} tokens ends within an image; give one that an earlier call has left"
        )
    return is_cached


def _check_count(is_place: Tensor, num_places: int, num_images: int) -> None:
    found = is_place.sum()
    torch_compilable_check(
        found == num_places,
        lambda: (
            f"the texts have {int(found)} image tokens, but {num_places} are needed for the images given "
            f"({num_images}); give as many images as the texts have places for"
        ),
    )
