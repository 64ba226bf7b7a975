"""Losses of images against a fixed bank of captions, of which every process has a full copy."""

import torch
from torch import Tensor

from vlmkit.distributed import mean_over_processes
from vlmkit.losses.similarity import scaled_similarity


def bank_softmax(
    image_embeds: Tensor,
    caption_embeds: Tensor,
    *,
    logit_scale: Tensor | float,
    caption_ids: Tensor,
    caption_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Compute the cross entropy of the caption of each image among all captions of a bank.

    For an image with the unit embedding v, the caption embeddings c_1, ..., c_C and the correct caption y, the loss is

        -log( exp(s v·c_y) / sum_j exp(s v·c_j) ),    s = logit_scale

    In-batch losses approximate it with the captions of the batch as negatives. Prefer this loss when all captions are
    known in advance and their embeddings fit into memory.

    Args:
        image_embeds: `(B, D)`, of unit length.
        caption_embeds: `(C, D)`, of unit length, one row for each caption.
        logit_scale: Inverse temperature, a number or a tensor with one element.
        caption_ids: `(B,)`, rows of the correct captions in the bank, or `(B, K)` for mixed images with K captions.
        caption_weights: `(B, K)`, weights of the captions of each mixed image, with a sum of 1 (MixUp, CutMix).
            Required for `caption_ids` of the shape `(B, K)`.
        label_smoothing: Fraction of the target distribution that is uniform over all captions, from 0 to 1.

    Returns:
        A float32 scalar, the mean over the images of all processes. It is log C if all embeddings are equal.

    Raises:
        ValueError: If the widths differ, or the shapes of ids and weights do not match the images.

    References:
        Label smoothing: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision"
        (arXiv:1512.00567, section 7). Weights: Zhang et al., "mixup" (arXiv:1710.09412).

    Example:
        >>> bank = torch.eye(4)
        >>> round(bank_softmax(bank[:2], bank, logit_scale=1 / 0.07, caption_ids=torch.tensor([0, 1])).item(), 6)
        2e-06
    """
    logits = bank_logits(image_embeds, caption_embeds, logit_scale=logit_scale)
    return soft_cross_entropy(logits, caption_ids, weights=caption_weights, label_smoothing=label_smoothing)


def bank_logits(image_embeds: Tensor, caption_embeds: Tensor, *, logit_scale: Tensor | float) -> Tensor:
    """Compute the similarities of images and captions, divided by the temperature.

    Args:
        image_embeds: `(B, D)`, of unit length.
        caption_embeds: `(C, D)`, of unit length.
        logit_scale: Inverse temperature, a number or a tensor with one element.

    Returns:
        `(B, C)` in float32.

    Raises:
        ValueError: If the inputs are not matrices of the same width.

    Example:
        >>> bank_logits(torch.eye(2), torch.eye(2), logit_scale=10.0).tolist()
        [[10.0, 0.0], [0.0, 10.0]]
    """
    if image_embeds.ndim != 2 or caption_embeds.ndim != 2 or image_embeds.shape[1] != caption_embeds.shape[1]:
        raise ValueError(
            "`image_embeds` and `caption_embeds` must have the shapes (B, D) and (C, D), but got "
            f"{tuple(image_embeds.shape)} and {tuple(caption_embeds.shape)}."
        )
    return scaled_similarity(image_embeds, caption_embeds, logit_scale=logit_scale)


def soft_cross_entropy(
    logits: Tensor, ids: Tensor, *, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Compute the cross entropy with one target, or several weighted targets, for each row.

    With p = softmax(logits), targets t_k and weights w_k, the loss of a row is `-sum_k w_k log p[t_k]`.

    Args:
        logits: `(B, C)`.
        ids: `(B,)` or `(B, K)`, target classes.
        weights: `(B, K)`, with a sum of 1 in each row. Required for several targets.
        label_smoothing: Fraction of the target distribution that is uniform over all classes, from 0 to 1.

    Returns:
        A float32 scalar, the mean over the rows of all processes.

    Raises:
        ValueError: If the shapes of ids and weights do not match the logits.

    Example:
        >>> logits, ids = torch.zeros(1, 4), torch.tensor([[0, 2]])
        >>> round(soft_cross_entropy(logits, ids, weights=torch.tensor([[0.5, 0.5]])).item(), 4)
        1.3863
    """
    ids, weights = _weighted_targets(len(logits), ids, weights)
    log_probs = logits.float().log_softmax(dim=1)
    own = (weights * log_probs.gather(1, ids)).sum(dim=1)
    return mean_over_processes(-(1 - label_smoothing) * own - label_smoothing * log_probs.mean(dim=1))


def swapped_margin(
    image_embeds: Tensor,
    caption_embeds: Tensor,
    *,
    caption_ids: Tensor,
    swapped_ids: Tensor,
    margin: float,
    caption_weights: Tensor | None = None,
) -> Tensor:
    """Compute a hinge loss between the caption of each image and the same caption with left and right exchanged.

    For an image with the unit embedding v, its caption c and the swapped caption s, the loss is

        max(0, margin + v·s - v·c)

    It is 0 for captions that are equal to their swapped caption. Add it to another loss if the text encoder embeds a
    caption and its swapped caption almost equally, so that other losses do not separate them.

    Args:
        image_embeds: `(B, D)`, of unit length.
        caption_embeds: `(C, D)`, of unit length.
        caption_ids: `(B,)`, or `(B, K)` with weights, see [`bank_softmax`].
        swapped_ids: Rows of the swapped captions, of the same shape as `caption_ids`.
        margin: Margin, as a difference of cosine similarities.
        caption_weights: `(B, K)`, see [`bank_softmax`].

    Returns:
        A float32 scalar, the mean over the images of all processes.

    References:
        Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives" (arXiv:1707.05612, eq. 6).

    Example:
        >>> bank = torch.eye(2)
        >>> swapped_margin(
        ...     bank[:1], bank, caption_ids=torch.tensor([1]), swapped_ids=torch.tensor([0]), margin=0.25
        ... ).item()
        1.25
    """
    caption_ids, weights = _weighted_targets(len(image_embeds), caption_ids, caption_weights)
    swapped_ids = swapped_ids.reshape(caption_ids.shape)
    images, captions = image_embeds.float()[:, None], caption_embeds.float()
    gap = (images * (captions[swapped_ids] - captions[caption_ids])).sum(dim=-1)
    hinge = (margin + gap).clamp(min=0).masked_fill(swapped_ids == caption_ids, 0.0)
    return mean_over_processes((weights * hinge).sum(dim=1))


def _weighted_targets(rows: int, ids: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ids and weights in the shape `(B, K)`."""
    if weights is None and ids.ndim == 1:
        ids = ids[:, None]
        weights = torch.ones(ids.shape, device=ids.device)
    if weights is None or ids.ndim != 2 or ids.shape != weights.shape or len(ids) != rows:
        given = None if weights is None else tuple(weights.shape)
        raise ValueError(
            f"Targets must have the shape ({rows},), or ({rows}, K) with weights of the same shape, but got "
            f"{tuple(ids.shape)} with weights {given}."
        )
    return ids, weights.float()
