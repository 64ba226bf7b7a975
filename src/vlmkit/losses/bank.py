"""Losses of images against a fixed bank of captions that all processes hold."""

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
    """Cross entropy of each image's caption among all captions of a bank.

    In-batch losses estimate this with the batch's captions as the only negatives; over a bank that fits into memory it
    is exact, without sampling noise. Processes that average their gradients train as one process on the joined batch.

    Args:
        image_embeds: `(B, D)`, unit length.
        caption_embeds: `(C, D)`, unit length, every caption once.
        logit_scale: inverse temperature, a number or a tensor of one element.
        caption_ids: `(B,)` rows of the bank, or `(B, K)` if K captions share an image.
        caption_weights: `(B, K)`, each row's shares, which add up to 1 (MixUp, CutMix).
        label_smoothing: part of the target that is spread evenly over all captions.

    Returns:
        A float32 scalar, whatever the precision of the input; log C for embeddings that are all equal.

    Raises:
        ValueError: the widths differ, or ids and weights do not fit the images.

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
    """Similarities of images `(B, D)` with every caption `(C, D)`, divided by the temperature: `(B, C)` in float32.

    Raises:
        ValueError: the two sides are no matrices of one width.
    """
    if image_embeds.ndim != 2 or caption_embeds.ndim != 2 or image_embeds.shape[1] != caption_embeds.shape[1]:
        raise ValueError(
            f"image_embeds {tuple(image_embeds.shape)} and caption_embeds {tuple(caption_embeds.shape)} must be "
            "(B, D) and (C, D) of the same width D"
        )
    return scaled_similarity(image_embeds, caption_embeds, logit_scale=logit_scale)


def soft_cross_entropy(
    logits: Tensor, ids: Tensor, *, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross entropy with one target per row, or several weighted ones; the mean over all processes' rows.

    Args:
        logits: `(B, C)`.
        ids: `(B,)` or `(B, K)` targets.
        weights: `(B, K)`, which add up to 1 in each row; needed with several targets.
        label_smoothing: part of the target that is spread evenly over all C.

    Raises:
        ValueError: ids and weights do not fit the rows.
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
    """Hinge that keeps each image closer to its caption than to the one with left and right exchanged.

    max(0, margin + similarity to the swapped caption - similarity to its own), which is 0 for captions that are their
    own swap. A sentence encoder hardly tells the two apart, so without help neither does the image encoder.

    Args:
        image_embeds: `(B, D)`, unit length.
        caption_embeds: `(C, D)`, unit length.
        caption_ids: `(B,)`, or `(B, K)` with weights.
        swapped_ids: the captions with left and right exchanged, of the same shape.
        margin: by how much more similar, as a difference of cosines.
        caption_weights: `(B, K)`, see [`bank_softmax`].

    Returns:
        A float32 scalar, the mean over all processes' images.

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
    """Ids and weights, both `(B, K)`."""
    if weights is None and ids.ndim == 1:
        ids = ids[:, None]
        weights = torch.ones(ids.shape, device=ids.device)
    if weights is None or ids.ndim != 2 or ids.shape != weights.shape or len(ids) != rows:
        given = None if weights is None else tuple(weights.shape)
        raise ValueError(
            f"targets {tuple(ids.shape)} with weights {given} do not fit {rows} images; give one target each (B,), or "
            "several (B, K) with weights of the same shape"
        )
    return ids, weights.float()
