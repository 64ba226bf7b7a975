"""Telling true pairs of image and text from similar wrong ones."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmkit.distributed import mean_over_processes


class MatchingPairs(NamedTuple):
    """Which images to read together with which texts, as rows of a batch of B pairs.

    Args:
        image_rows: `(3 B,)`.
        text_rows: `(3 B,)`.
        targets: `(3 B,)`, 1 for true pairs and 0 for wrong ones.
        weights: `(3 B,)`, 0 for those that stand in for a negative that the batch does not have.
    """

    image_rows: Tensor
    text_rows: Tensor
    targets: Tensor
    weights: Tensor


def matching_pairs(logits_per_image: Tensor, group_ids: Tensor | None = None, *, draw: bool = True) -> MatchingPairs:
    """Combine each image with its text and with a similar wrong one, and each text with a similar wrong image.

    The negatives are those of [`hard_negatives`], from this process's batch alone: in several processes they are others
    than those of the joined batch.

    Args:
        logits_per_image: `(B, B)` similarities of images with texts, divided by the temperature.
        group_ids: `(B,)` integers, equal for equal images; every row is a group of its own if not given.
        draw: see [`hard_negatives`].

    Raises:
        ValueError: as [`hard_negatives`] does.

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
    """Binary cross entropy of whether each image and text belong together.

    Args:
        logits: `(3 B,)`, one for each of the pairs.
        pairs: of [`matching_pairs`].

    Returns:
        A float32 scalar, the mean over the pairs that there are in all processes; log 2 for logits of 0.

    Raises:
        ValueError: there is not one logit for each pair.

    References:
        Li et al., "BLIP-2" (arXiv:2301.12597, section 3.2).

    Example:
        >>> pairs = matching_pairs(torch.eye(2))
        >>> round(matching_loss(torch.zeros(6), pairs).item(), 4)
        0.6931
    """
    if logits.shape != pairs.targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} must hold one number for each of {len(pairs.targets)} pairs")
    losses = F.binary_cross_entropy_with_logits(logits.float(), pairs.targets, reduction="none")
    return mean_over_processes(losses, pairs.weights)


def hard_negatives(similarity: Tensor, group_ids: Tensor | None = None, *, draw: bool = True) -> Tensor:
    """Choose a wrong candidate for each query of a batch, a similar one rather than another.

    Query i belongs to candidate i. The candidates of its group (other captions of the same photograph) are right, too,
    and are never chosen.

    Args:
        similarity: `(B, B)` of queries (rows) with candidates, divided by the temperature.
        group_ids: `(B,)` integers, equal for equal images; every row is a group of its own if not given.
        draw: whether to draw each negative with the softmax of its similarity as probability; otherwise the most
            similar one is taken, which needs no random numbers.

    Returns:
        `(B,)`, the candidate chosen for each query; -1 for a query whose group is the whole batch.

    Raises:
        ValueError: the similarities are not square, or `group_ids` are not one for each row.

    References:
        Li et al., "Align before Fuse" (ALBEF, arXiv:2107.07651, section 3.2).

    Example:
        >>> similarity = torch.tensor([[9.0, 3.0, 1.0], [0.0, 9.0, 2.0], [5.0, 4.0, 9.0]])
        >>> hard_negatives(similarity, draw=False)
        tensor([1, 2, 0])
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity {tuple(similarity.shape)} must be (B, B), with the pairs on its diagonal")
    if group_ids is not None and group_ids.shape != similarity.shape[:1]:
        raise ValueError(f"group_ids {tuple(group_ids.shape)} must hold one integer for each of {len(similarity)} rows")
    if group_ids is None:
        group_ids = torch.arange(len(similarity), device=similarity.device)
    right = group_ids[:, None] == group_ids[None, :]
    alone = right.all(dim=1)
    scores = similarity.detach().float().masked_fill(right, float("-inf"))
    if draw:
        # A query without any negative draws from all candidates, and forgets what it drew.
        probabilities = scores.masked_fill(alone[:, None], 0.0).softmax(dim=1)
        chosen = torch.multinomial(probabilities, num_samples=1).squeeze(1)
    else:
        chosen = scores.argmax(dim=1)
    return chosen.masked_fill(alone, -1)
