"""Contrastive losses of images and texts, over the embeddings of all processes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmkit.distributed import gather_with_grad, rank, row_counts, world_size
from vlmkit.losses.similarity import scaled_similarity


def info_nce(
    image_embeds: Tensor, text_embeds: Tensor, *, logit_scale: Tensor | float, group_ids: Tensor | None = None
) -> Tensor:
    """Compute the symmetric InfoNCE loss of image-text pairs, as CLIP does.

    For N pairs of unit embeddings v_i and t_i in all processes, the loss is

        1 / 2N * sum_i [ -log( exp(s v_i·t_i) / sum_j exp(s v_i·t_j) )
                         -log( exp(s v_i·t_i) / sum_j exp(s v_j·t_i) ) ],    s = logit_scale

    Other pairs of the same group (other captions of the same image) are correct matches as well, so they are omitted
    from the sums over j. In distributed training, the candidates are the embeddings of all processes with exact
    gradients, also if the batch sizes of the processes differ.

    The number of negatives grows with the batch, so this loss needs large batches. Prefer [`sigmoid_loss`] for small
    ones, and [`bank_softmax`] if all captions are known in advance.

    Args:
        image_embeds: `(B, D)`, of unit length.
        text_embeds: `(B, D)`, of unit length. Row i belongs to image i.
        logit_scale: Inverse temperature, a number or a tensor with one element.
        group_ids: `(B,)` integers, equal for pairs of the same image. Defaults to a different group for each pair.

    Returns:
        A float32 scalar. It is log N for N pairs whose embeddings are all equal.

    Raises:
        ValueError: If the two sides have different shapes, or `group_ids` has another length.

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
    """Compute the pairwise sigmoid loss of image-text pairs, as SigLIP does.

    Every combination of image and text is a binary classification. For N pairs of unit embeddings v_i and t_i in all
    processes, the loss is

        -1 / N * sum_i sum_j log sigmoid( z_ij (s v_i·t_j + b) ),    z_ij = 1 if i = j else -1

    with s = `logit_scale` and b = `logit_bias`. Other combinations within a group are omitted. Processes are treated as
    in [`info_nce`]. The loss is not normalized over the batch, so it also works with small batches.

    Args:
        image_embeds: `(B, D)`, of unit length.
        text_embeds: `(B, D)`, of unit length. Row i belongs to image i.
        logit_scale: Inverse temperature, a number or a tensor with one element.
        logit_bias: Bias of the logits, a number or a tensor with one element. SigLIP learns it from -10.
        group_ids: `(B,)` integers, equal for pairs of the same image. Defaults to a different group for each pair.

    Returns:
        A float32 scalar, the sum over all combinations divided by the number of pairs. It is N log 2 if all logits
        are 0.

    Raises:
        ValueError: If the two sides have different shapes, or `group_ids` has another length.

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
    """Compute the logits of local images against all texts, and of local texts against all images, in float32.

    Returns:
        Logits of the images and of the texts, both `(B, N)`, a mask of the same shape that marks other pairs of the
        group of each row, and the batch sizes of the processes.
    """
    if image_embeds.shape != text_embeds.shape or image_embeds.ndim != 2:
        raise ValueError(
            "`image_embeds` and `text_embeds` must have the same shape (B, D), but got "
            f"{tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}. Pass one text for each image."
        )
    if group_ids is not None and group_ids.shape != image_embeds.shape[:1]:
        raise ValueError(
            f"`group_ids` must have the shape ({len(image_embeds)},), one integer for each pair, but got "
            f"{tuple(group_ids.shape)}."
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
    """Return a mask `(B, N)` of the true pair of each row, without in-place operations so that it can be compiled."""
    start = sum(sizes[: rank()])
    own = torch.arange(start, start + len(rows), device=rows.device)
    return own[:, None] == torch.arange(rows.shape[1], device=rows.device)
