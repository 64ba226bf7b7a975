"""What the query tokens of a Q-Former have taken from the image, and how different it is from image to image."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class TokenSimilarity(NamedTuple):
    """Cosine similarities of query tokens and vision tokens.

    Args:
        global_to_query: `(B, Q)`, of the global token with each query.
        global_to_image: `(B, N)`, of the global token with each vision token.
        query_to_image: `(B, N)`, the mean over the queries of their cosines with each vision token.
    """

    global_to_query: Tensor
    global_to_image: Tensor
    query_to_image: Tensor


@torch.no_grad()
def token_similarity(query_embeds: Tensor, image_embeds: Tensor) -> TokenSimilarity:
    """Compare the global token, the queries and the vision tokens by their cosines.

    Args:
        query_embeds: `(B, 1 + Q, D)` output of the Q-Former, the global token first.
        image_embeds: `(B, N, D)` vision tokens, projected to the width of the queries.

    Raises:
        ValueError: the shapes do not fit each other, or there is no query beside the global token.

    Example:
        >>> queries = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]])  # the global token and two queries
        >>> patches = torch.tensor([[[5.0, 0.0]]])
        >>> [cosines.tolist() for cosines in token_similarity(queries, patches)]
        [[[1.0, 0.0]], [[1.0]], [[0.5]]]
    """
    queries, patches = tuple(query_embeds.shape), tuple(image_embeds.shape)
    if len(queries) != 3 or len(patches) != 3 or queries[::2] != patches[::2] or queries[1] < 2:
        raise ValueError(
            f"query_embeds {queries} must be (images, 1 + queries, width), at least one query, and image_embeds "
            f"{patches} (images, vision tokens, width), of the same images and width"
        )
    tokens, image_units = _unit(query_embeds), _unit(image_embeds)
    global_unit, query_units = tokens[:, :1], tokens[:, 1:]
    return TokenSimilarity(
        global_to_query=(query_units @ global_unit.mT).squeeze(2),
        global_to_image=(image_units @ global_unit.mT).squeeze(2),
        # The mean of the cosines with the queries is the product with the mean of the queries' unit vectors.
        query_to_image=(image_units @ query_units.mean(dim=1, keepdim=True).mT).squeeze(2),
    )


@torch.no_grad()
def discriminative_power(global_tokens: Tensor) -> float:
    """How much the global token differs from image to image: 1 less the mean cosine of two different images.

    0 if the token is the same for all images, 1 if the tokens of two images are on average orthogonal. The figure of
    0.52 that is published for the original captioner comes without a definition: this is one reading of it, and the two
    need not be the same.

    Args:
        global_tokens: `(B, D)`, one of each image. Time and memory grow with B, not with the number of pairs.

    Raises:
        ValueError: there are fewer than two images, or the shape is another.

    Example:
        >>> discriminative_power(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        1.0
    """
    if global_tokens.ndim != 2 or len(global_tokens) < 2:
        raise ValueError(
            f"global_tokens {tuple(global_tokens.shape)} must be (images, width), of at least two images to compare"
        )
    units = _unit(global_tokens.double())
    count = len(units)
    # The squared length of the sum is the sum of the cosines of all pairs; those of a token with itself come off.
    of_different = units.sum(dim=0).square().sum() - units.square().sum()
    return float(1 - of_different / (count * (count - 1)))


def _unit(embeds: Tensor) -> Tensor:
    return F.normalize(embeds if embeds.dtype == torch.float64 else embeds.float(), dim=-1)
