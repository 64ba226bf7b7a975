"""How images enter a language model."""

from torch import Tensor
from transformers.utils import torch_compilable_check


def merge_image_embeds(inputs_embeds: Tensor, is_place: Tensor, image_embeds: Tensor | None, num_places: int) -> Tensor:
    """Put the tokens of images into the places that texts keep for them.

    Args:
        inputs_embeds: `(B, T, D)`, of the texts' tokens.
        is_place: `(B, T)`, true where a token of an image belongs.
        image_embeds: `(I, num_places, D)`, the images of all texts in their order, or those of their tokens that belong
            into a part of the texts, `(1, M, D)`; `None` if there are none.
        num_places: places of an image.

    Raises:
        ValueError: the texts have places for more or fewer images.

    Example:
        >>> import torch
        >>> texts, images = torch.zeros(1, 4, 2), torch.ones(1, 2, 2)
        >>> merge_image_embeds(texts, torch.tensor([[False, True, True, False]]), images, 2)[0, :, 0].tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    num_given = 0 if image_embeds is None else image_embeds.shape[0] * image_embeds.shape[1]
    _check_count(is_place, num_given, num_places)
    if image_embeds is None:
        return inputs_embeds
    return inputs_embeds.masked_scatter(is_place[..., None], image_embeds.to(inputs_embeds))


def cached_images(is_place: Tensor, num_images: int, num_places: int, num_cached_tokens: int) -> Tensor:
    """Which images lie in that part of texts whose keys and values are known already.

    Args:
        is_place: `(B, T)`, true where a token of an image belongs.
        num_images: of all texts.
        num_places: places of an image.
        num_cached_tokens: of each text, from its beginning.

    Returns:
        `(I,)` booleans.

    Raises:
        ValueError: the texts have places for more or fewer images, or the cache ends within an image.

    Example:
        >>> import torch
        >>> cached_images(torch.tensor([[True, True, False, True, True]]), 2, 2, 3).tolist()
        [True, False]
    """
    _check_count(is_place, num_images * num_places, num_places)
    columns = is_place.nonzero()[:, 1].view(num_images, num_places)
    is_cached = columns < num_cached_tokens
    if (is_cached.any(dim=1) != is_cached.all(dim=1)).any():
        raise ValueError(
            f"the cache of {num_cached_tokens} tokens ends within an image; give one that an earlier call has left"
        )
    return is_cached.all(dim=1)


def _check_count(is_place: Tensor, num_given: int, num_places: int) -> None:
    found, num_images = is_place.sum(), num_given // num_places
    torch_compilable_check(
        found == num_given,
        lambda: (
            f"the texts have {int(found)} image tokens, {num_places} for each image, but there "
            f"{'is 1 image' if num_images == 1 else f'are {num_images} images'}; give as many images as the texts have "
            "places for"
        ),
    )
