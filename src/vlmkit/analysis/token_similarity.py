"""Similarities of the query tokens of a Q-Former and the image, and differences between images."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class TokenSimilarity(NamedTuple):
    """Cosine similarities of query tokens and vision tokens.

    Args:
        global_to_query: `(B, Q)`, similarities of the global token and each query.
        global_to_image: `(B, N)`, similarities of the global token and each vision token.
        query_to_image: `(B, N)`, similarities of the queries and each vision token, averaged over queries.
    """

    global_to_query: Tensor
    global_to_image: Tensor
    query_to_image: Tensor


@torch.no_grad()
def token_similarity(query_embeds: Tensor, image_embeds: Tensor) -> TokenSimilarity:
    """Compute the cosine similarities of the global token, the queries and the vision tokens.

    Args:
        query_embeds: `(B, 1 + Q, D)`, output of the Q-Former with the global token first.
        image_embeds: `(B, N, D)`, vision tokens that are projected to the width of the queries.

    Raises:
        ValueError: If the shapes do not match, or `query_embeds` contains only the global token.

    Example:
        >>> queries = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]])  # the global token and two queries
        >>> patches = torch.tensor([[[5.0, 0.0]]])
        >>> [cosines.tolist() for cosines in token_similarity(queries, patches)]
        [[[1.0, 0.0]], [[1.0]], [[0.5]]]
    """
    queries, patches = tuple(query_embeds.shape), tuple(image_embeds.shape)
    if len(queries) != 3 or len(patches) != 3 or queries[::2] != patches[::2] or queries[1] < 2:
        raise ValueError(
            "`query_embeds` must have the shape (images, 1 + queries, width) with at least one query, and "
            f"`image_embeds` the shape (images, vision tokens, width), but got {queries} and {patches}."
        )
    tokens, image_units = _unit(query_embeds), _unit(image_embeds)
    global_unit, query_units = tokens[:, :1], tokens[:, 1:]
    return TokenSimilarity(
        global_to_query=(query_units @ global_unit.mT).squeeze(2),
        global_to_image=(image_units @ global_unit.mT).squeeze(2),
        # The mean of the cosines is the product with the mean of the unit vectors of the queries.
        query_to_image=(image_units @ query_units.mean(dim=1, keepdim=True).mT).squeeze(2),
    )


@torch.no_grad()
def discriminative_power(global_tokens: Tensor) -> float:
    """Compute 1 minus the mean cosine similarity of the global tokens of different images.

    The result is 0 if all tokens have the same direction, and 1 if the tokens of different images are orthogonal on
    average. The value of 0.52 for the original captioner was published without a definition. It may have been computed
    differently.

    Args:
        global_tokens: `(B, D)`, the global token of each image. Time and memory are linear in B.

    Raises:
        ValueError: If there are fewer than two images, or the input is not a matrix.

    Example:
        >>> discriminative_power(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        1.0
    """
    if global_tokens.ndim != 2 or len(global_tokens) < 2:
        raise ValueError(
            "`global_tokens` must have the shape (images, width) with at least two images, but got "
            f"{tuple(global_tokens.shape)}."
        )
    units = _unit(global_tokens.double())
    count = len(units)
    # The squared norm of the sum is the sum of the cosines of all pairs, including each token with itself.
    of_different = units.sum(dim=0).square().sum() - units.square().sum()
    return float(1 - of_different / (count * (count - 1)))


def _unit(embeds: Tensor) -> Tensor:
    return F.normalize(embeds if embeds.dtype == torch.float64 else embeds.float(), dim=-1)
