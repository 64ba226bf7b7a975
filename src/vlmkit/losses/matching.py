"""Image-text matching: binary classification of true pairs and hard negatives."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmkit.distributed import mean_over_processes


class MatchingPairs(NamedTuple):
    """Combinations of the images and texts of a batch of B pairs: true pairs, wrong texts and wrong images.

    Args:
        image_rows: `(3 B,)`, row of the image of each combination.
        text_rows: `(3 B,)`, row of the text of each combination.
        targets: `(3 B,)`, 1 for true pairs and 0 for negatives.
        weights: `(3 B,)`, 0 for queries without a negative in the batch, and 1 otherwise.
    """

    image_rows: Tensor
    text_rows: Tensor
    targets: Tensor
    weights: Tensor


def matching_pairs(logits_per_image: Tensor, group_ids: Tensor | None = None, *, draw: bool = True) -> MatchingPairs:
    """Combine each image with its text and a similar wrong text, and each text with a similar wrong image.

    [`hard_negatives`] chooses the negatives from the batch of this process, not from the joined batch of all processes.

    Args:
        logits_per_image: `(B, B)`, similarities of images and texts, divided by the temperature.
        group_ids: `(B,)` integers, equal for pairs of the same image. Defaults to a different group for each pair.
        draw: Whether to draw negatives at random, see [`hard_negatives`].

    Raises:
        ValueError: If the similarities are not square, or `group_ids` has another length.

    Example:
        >>> pairs = matching_pairs(torch.tensor([[9.0, 3.0], [1.0, 9.0]]))
        >>> pairs.image_rows.tolist(), pairs.text_rows.tolist()
        ([0, 1, 0, 1, 1, 0], [0, 1, 1, 0, 0, 1])
    """
    wrong_texts = hard_negatives(logits_per_image, group_ids, draw=draw)
    wrong_images = hard_negatives(logits_per_image.T, group_ids, draw=draw)
    own = torch.arange(len(logits_per_image), device=logits_per_image.device)
    chosen = torch.cat([own, wrong_texts, wrong_images])
    return MatchingPairs(
        image_rows=torch.cat([own, own, wrong_images.clamp(min=0)]),
        text_rows=torch.cat([own, wrong_texts.clamp(min=0), own]),
        targets=(torch.arange(len(chosen), device=own.device) < len(own)).float(),
        weights=(chosen >= 0).float(),
    )


def matching_loss(logits: Tensor, pairs: MatchingPairs) -> Tensor:
    """Compute the binary cross entropy of true pairs and hard negatives.

    For the logit x of a combination and its target y, the loss is `-y log sigmoid(x) - (1 - y) log sigmoid(-x)`. Use it
    for models that encode image and text jointly, in addition to a contrastive loss that provides the similarities.

    Args:
        logits: `(3 B,)`, one logit for each combination.
        pairs: Output of [`matching_pairs`].

    Returns:
        A float32 scalar, the mean over the combinations of all processes with a weight of 1. It is log 2 if all logits
        are 0.

    Raises:
        ValueError: If the number of logits differs from the number of combinations.

    References:
        Li et al., "BLIP-2" (arXiv:2301.12597, section 3.2).

    Example:
        >>> pairs = matching_pairs(torch.eye(2))
        >>> round(matching_loss(torch.zeros(6), pairs).item(), 4)
        0.6931
    """
    if logits.shape != pairs.targets.shape:
        raise ValueError(
            f"`logits` must have the shape ({len(pairs.targets)},), one for each combination, but got "
            f"{tuple(logits.shape)}."
        )
    losses = F.binary_cross_entropy_with_logits(logits.float(), pairs.targets, reduction="none")
    return mean_over_processes(losses, pairs.weights)


def hard_negatives(similarity: Tensor, group_ids: Tensor | None = None, *, draw: bool = True) -> Tensor:
    """Choose a wrong candidate for each query of a batch, preferably a similar one.

    Query i belongs to candidate i. Other candidates of its group (other captions of the same image) are correct as
    well, and are never chosen.

    Args:
        similarity: `(B, B)`, similarities of queries (rows) and candidates, divided by the temperature.
        group_ids: `(B,)` integers, equal for pairs of the same image. Defaults to a different group for each pair.
        draw: Whether to draw each negative with the softmax of the similarities as probabilities. Otherwise, the most
            similar candidate is chosen.

    Returns:
        `(B,)`, the candidate chosen for each query, or -1 for a query whose group is the whole batch.

    Raises:
        ValueError: If the similarities are not square, or `group_ids` has another length.

    References:
        Li et al., "Align before Fuse" (ALBEF, arXiv:2107.07651, section 3.2).

    Example:
        >>> similarity = torch.tensor([[9.0, 3.0, 1.0], [0.0, 9.0, 2.0], [5.0, 4.0, 9.0]])
        >>> hard_negatives(similarity, draw=False)
        tensor([1, 2, 0])
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(
            f"`similarity` must have the shape (B, B) with pairs on the diagonal, but got {tuple(similarity.shape)}."
        )
    if group_ids is not None and group_ids.shape != similarity.shape[:1]:
        raise ValueError(
            f"`group_ids` must have the shape ({len(similarity)},), one integer for each row, but got "
            f"{tuple(group_ids.shape)}."
        )
    if group_ids is None:
        group_ids = torch.arange(len(similarity), device=similarity.device)
    right = group_ids[:, None] == group_ids[None, :]
    alone = right.all(dim=1)
    scores = similarity.detach().float().masked_fill(right, float("-inf"))
    if draw:
        # A query without negatives draws from all candidates, and its result is discarded.
        probabilities = scores.masked_fill(alone[:, None], 0.0).softmax(dim=1)
        chosen = torch.multinomial(probabilities, num_samples=1).squeeze(1)
    else:
        chosen = scores.argmax(dim=1)
    return chosen.masked_fill(alone, -1)
