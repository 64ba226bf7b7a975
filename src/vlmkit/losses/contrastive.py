"""Image-text contrastive losses over the embeddings of all processes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmkit.distributed import gather_with_grad, rank, row_counts, world_size
from vlmkit.losses.similarity import scaled_similarity


def info_nce(
    image_embeds: Tensor, text_embeds: Tensor, *, logit_scale: Tensor | float, group_ids: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE: each image picks its text among all texts, and each text its image among all images.

    Row i of both sides is a pair. The other members of its group (other captions of the same photograph, or the same
    image drawn again) are right answers too, so they are left out of its denominator instead of being pushed away.
    Under `torch.distributed` the candidates are the embeddings of all processes, with exact gradients: processes that
    average their gradients train as one process on the joined batch, even if their batches differ in size.

    Args:
        image_embeds: `(B, D)`, unit length.
        text_embeds: `(B, D)`, unit length.
        logit_scale: inverse temperature, a number or a tensor of one element.
        group_ids: `(B,)` integers, equal for equal images; every row is a group of its own if not given.

    Returns:
        A float32 scalar, whatever the precision of the input; log(all processes' B) for embeddings that are all equal.

    Raises:
        ValueError: the two sides differ in shape, or `group_ids` in length.

    References:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (arXiv:1807.03748, eq. 4);
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (arXiv:2103.00020,
        figure 3).

    Example:
        >>> embeds = F.normalize(torch.eye(4))
        >>> round(info_nce(embeds, embeds, logit_scale=1 / 0.07).item(), 6)
        2e-06
    """
    image_rows, text_rows, others, sizes = _rows_against_all(image_embeds, text_embeds, logit_scale, group_ids)
    own = torch.arange(len(image_embeds), device=image_embeds.device) + sum(sizes[: rank()])
    losses = [
        F.cross_entropy(rows.masked_fill(others, float("-inf")), own, reduction="sum")
        for rows in (image_rows, text_rows)
    ]
    return (losses[0] + losses[1]) / 2 * world_size() / sum(sizes)


def sigmoid_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float = 0.0,
    group_ids: Tensor | None = None,
) -> Tensor:
    """Pairwise sigmoid loss: every image-text combination is a yes/no question of its own.

    Rows, groups and processes are treated as in [`info_nce`]: combinations within a group, other than the pair itself,
    are left out.

    Args:
        image_embeds: `(B, D)`, unit length.
        text_embeds: `(B, D)`, unit length.
        logit_scale: inverse temperature, a number or a tensor of one element.
        logit_bias: added to every logit, a number or a tensor of one element; SigLIP starts at -10.
        group_ids: `(B,)` integers, equal for equal images; every row is a group of its own if not given.

    Returns:
        A float32 scalar: the sum over all combinations divided by the number of pairs; B log 2 for logits of zero.

    Raises:
        ValueError: the two sides differ in shape, or `group_ids` in length.

    References:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (arXiv:2303.15343, eq. 2).

    Example:
        >>> zeros = torch.zeros(3, 8)
        >>> round(sigmoid_loss(zeros, zeros, logit_scale=10.0).item(), 4)
        2.0794
    """
    image_rows, _, others, sizes = _rows_against_all(image_embeds, text_embeds, logit_scale, group_ids)
    sign = torch.where(_own_pairs(image_rows, sizes), 1.0, -1.0)
    bias = logit_bias.float() if isinstance(logit_bias, Tensor) else logit_bias
    losses = -F.logsigmoid(sign * (image_rows + bias))
    return losses.masked_fill(others, 0.0).sum() * world_size() / sum(sizes)


def _rows_against_all(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor | float, group_ids: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Logits of this process's images and texts against everybody's texts and images, in float32.

    Returns:
        `(B, all B)` image rows, `(B, all B)` text rows, a mask of the same shape that marks a row's group except for
        its own pair, and the processes' batch sizes.
    """
    if image_embeds.shape != text_embeds.shape or image_embeds.ndim != 2:
        raise ValueError(
            f"image_embeds {tuple(image_embeds.shape)} and text_embeds {tuple(text_embeds.shape)} must be pairs of the "
            "same shape (B, D); give one text per image"
        )
    if group_ids is not None and group_ids.shape != image_embeds.shape[:1]:
        raise ValueError(
            f"group_ids {tuple(group_ids.shape)} must hold one integer for each of {len(image_embeds)} pairs"
        )

    sizes = row_counts(image_embeds)
    images, texts = image_embeds.float(), text_embeds.float()
    image_rows = scaled_similarity(images, gather_with_grad(texts, sizes), logit_scale=logit_scale)
    text_rows = scaled_similarity(texts, gather_with_grad(images, sizes), logit_scale=logit_scale)

    others = torch.zeros_like(image_rows, dtype=torch.bool)
    if group_ids is not None:
        others = group_ids[:, None] == gather_with_grad(group_ids, sizes)[None, :]
        others = others & ~_own_pairs(image_rows, sizes)
    return image_rows, text_rows, others, sizes


def _own_pairs(rows: Tensor, sizes: list[int]) -> Tensor:
    """A mask of each row's own pair among all processes' `(B, all B)`; without writing in place, which compiles."""
    start = sum(sizes[: rank()])
    own = torch.arange(start, start + len(rows), device=rows.device)
    return own[:, None] == torch.arange(rows.shape[1], device=rows.device)
