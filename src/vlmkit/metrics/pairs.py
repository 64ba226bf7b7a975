"""Metrics of paired images, which are matched to one caption for each pair of classes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from vlmkit.metrics.inputs import Array, check_cutoffs, validate_embeds, validate_integers
from vlmkit.metrics.ranking import Matches, rank_matches_by_chunk
from vlmkit.validation import check_at_least


@torch.no_grad()
def pair_metrics(
    image_embeds: Array,
    caption_embeds: Array,
    *,
    caption_ids: Array,
    num_classes: int,
    cutoffs: Sequence[int] = (1, 10, 100),
    chunk_size: int = 128,
) -> dict[str, float]:
    """Rank the captions of all pairs of classes for each pair of images.

    The caption of the classes `left` and `right` is row `num_classes * left + right` of the bank. Captions are ranked
    by dot product, computed in float32 on the device of `image_embeds`. The rank r of the correct caption starts at 1
    and counts all captions with an equal or higher score, so that ties (also within float32 rounding) count against the
    model. If several captions tie as the most similar one, the predicted caption is one of them.

    Args:
        image_embeds: `(B, D)`, of any float dtype. Pass unit length to rank by cosine similarity.
        caption_embeds: `(C * C, D)`, the bank, for C classes.
        caption_ids: `(B,)` integers, the row of the correct caption of each pair.
        num_classes: Number of classes C, at least 2.
        cutoffs: Values of k, from 1 to C².
        chunk_size: Number of pairs that are ranked at a time. The additional memory is about 8 bytes × chunk_size × C².

    Returns:
        - `top@k` for each cutoff: fraction of pairs with r <= k.
        - `precision@k` for each cutoff: `top@k` / k, because each pair has one correct caption.
        - `map`: mean of 1 / r.
        - `median_rank`: median of r.
        - `left_accuracy` and `right_accuracy`: fraction of pairs whose predicted caption has the correct class on that
          side.
        - `swapped_rate`: fraction of pairs of two different classes whose predicted caption has both classes on the
          wrong side, or 0 without such pairs.

    Raises:
        ValueError: If the bank does not have C² rows, a caption id or cutoff is out of range, the numbers of images and
            caption ids differ, or the embeddings are empty, not finite or not matrices of the same width.

    Example:
        >>> bank = torch.eye(4)  # captions of the classes (0, 0), (0, 1), (1, 0) and (1, 1)
        >>> scores = pair_metrics(bank[[1, 1]], bank, caption_ids=torch.tensor([1, 2]), num_classes=2, cutoffs=(1, 4))
        >>> scores["top@1"], scores["top@4"], scores["left_accuracy"], scores["swapped_rate"]
        (0.5, 1.0, 0.5, 0.5)
    """
    images, captions = _validate_sides(image_embeds, caption_embeds, chunk_size)
    own = _validate_caption_ids(caption_ids, num_classes).to(images.device)
    if len(captions) != num_classes**2 or len(own) != len(images):
        raise ValueError(
            f"`caption_embeds` must have {num_classes**2} rows for {num_classes} classes and `caption_ids` "
            f"{len(images)} for the images, but got {len(captions)} and {len(own)}."
        )
    check_cutoffs(cutoffs, len(captions))
    rows = torch.arange(len(own), device=own.device)
    matches = Matches(own, starts=rows, ends=rows + 1)
    ranks = torch.cat([*rank_matches_by_chunk(images, captions, matches=matches, chunk_size=chunk_size)])[:, 0]
    predicted, _ = _most_similar(images, captions, 1, chunk_size)
    return _rank_summary(ranks, cutoffs) | _side_summary(own, predicted[:, 0], num_classes)


@torch.no_grad()
def predicted_captions(
    image_embeds: Array, caption_embeds: Array, *, k: int = 1, chunk_size: int = 128
) -> tuple[Tensor, Tensor]:
    """Return the k most similar captions of each image.

    Args:
        image_embeds: `(B, D)`, of any float dtype.
        caption_embeds: `(C, D)`.
        k: Number of captions, from 1 to C.
        chunk_size: Number of images that are compared at a time. The additional memory is about 4 bytes × chunk_size ×
            C.

    Returns:
        `(B, k)` rows of the bank, the most similar one first, and their dot products `(B, k)` in float32, on the device
        of `image_embeds`.

    Raises:
        ValueError: If `k` is out of range, or the embeddings are empty, not finite, or of different widths.

    Example:
        >>> ids, similarities = predicted_captions(torch.tensor([[0.6, 0.8]]), torch.eye(2), k=2)
        >>> ids.tolist(), similarities.shape
        ([[1, 0]], torch.Size([1, 2]))
    """
    images, captions = _validate_sides(image_embeds, caption_embeds, chunk_size)
    check_cutoffs([k], len(captions))
    return _most_similar(images, captions, k, chunk_size)


def pair_chance(caption_ids: Array, *, num_classes: int, cutoffs: Sequence[int] = (1, 10, 100)) -> dict[str, float]:
    """Compute the expected `top@k` of rankings that do not use the images.

    A random ranking has `top@k` = k / C². If many pairs have the same class twice, ranking the C captions of equal
    classes first is better: if half of the pairs do, it has `top@100` = 50 % for 100 classes.

    Args:
        caption_ids: `(B,)` integers, `num_classes * left + right` of the evaluated pairs.
        num_classes: Number of classes C, at least 2.
        cutoffs: Values of k, from 1 to C².

    Returns:
        For each cutoff, `uniform/top@k` of a random ranking, and `same_class/top@k` of a random ranking with the
        captions of equal classes first.

    Raises:
        ValueError: If a caption id or cutoff is out of range, or `caption_ids` is empty.

    Example:
        >>> chance = pair_chance(torch.tensor([0, 1]), num_classes=100, cutoffs=(100,))  # (0, 0) and (0, 1)
        >>> chance["uniform/top@100"], chance["same_class/top@100"]
        (0.01, 0.5)
    """
    own = _validate_caption_ids(caption_ids, num_classes)
    check_cutoffs(cutoffs, num_classes**2)
    same_share = (own // num_classes == own % num_classes).double().mean().item()
    num_others = num_classes**2 - num_classes
    chance = {}
    for k in cutoffs:
        chance[f"uniform/top@{k}"] = k / num_classes**2
        among_same, among_others = min(k, num_classes) / num_classes, max(k - num_classes, 0) / num_others
        chance[f"same_class/top@{k}"] = same_share * among_same + (1 - same_share) * among_others
    return chance


def compute_pair_metrics(
    prediction: EvalPrediction, caption_embeds: Array, *, num_classes: int, cutoffs: Sequence[int] = (1, 10, 100)
) -> dict[str, float]:
    """Compute [`pair_metrics`] in `Trainer(compute_metrics=partial(compute_pair_metrics, caption_embeds=..., ...))`.

    During evaluation, the model must only return image embeddings (`config.keys_to_ignore_at_inference`). Set
    `TrainingArguments(label_names=["caption_ids"])` to pass the ids.

    Args:
        prediction: `predictions (B, D)`, and `label_ids (B,)` integers.
        caption_embeds: `(C * C, D)`, the bank.
        num_classes: Number of classes C, at least 2.
        cutoffs: Values of k, from 1 to C².

    Returns:
        See [`pair_metrics`].

    Raises:
        ValueError: If the predictions are several arrays, `label_ids` is missing, or as [`pair_metrics`] raises.

    Example:
        >>> bank = np.eye(4, dtype=np.float32)
        >>> prediction = EvalPrediction(predictions=bank[[3, 2]], label_ids=np.array([3, 1]))
        >>> compute_pair_metrics(prediction, bank, num_classes=2, cutoffs=(1,))["top@1"]
        0.5
    """
    if isinstance(prediction.predictions, tuple):
        raise ValueError(
            f"`predictions` must be `image_embeds` only, but got {len(prediction.predictions)} arrays. Add the other "
            "outputs of the model to `config.keys_to_ignore_at_inference`."
        )
    if prediction.label_ids is None or np.size(prediction.label_ids) == 0:  # from a Trainer without labels
        raise ValueError("`label_ids` must not be empty. Set `TrainingArguments(label_names=['caption_ids'])`.")
    return pair_metrics(
        prediction.predictions,
        caption_embeds,
        caption_ids=prediction.label_ids,
        num_classes=num_classes,
        cutoffs=cutoffs,
    )


def _most_similar(images: Tensor, captions: Tensor, k: int, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Return the rows `(B, k)` of the captions most similar to each image, and their similarities `(B, k)`."""
    scores = images.new_empty(
        min(chunk_size, len(images)), len(captions)
    )  # allocated once, see `rank_matches_by_chunk`
    best = [torch.mm(chunk, captions.T, out=scores[: len(chunk)]).topk(k, dim=1) for chunk in images.split(chunk_size)]
    return torch.cat([chunk.indices for chunk in best]), torch.cat([chunk.values for chunk in best])


def _rank_summary(ranks: Tensor, cutoffs: Sequence[int]) -> dict[str, float]:
    """Compute the metrics of the ranks `(B,)` of the correct captions."""
    summary = {}
    for k in cutoffs:
        summary[f"top@{k}"] = (ranks <= k).double().mean().item()
        summary[f"precision@{k}"] = summary[f"top@{k}"] / k
    return {**summary, "map": ranks.reciprocal().mean().item(), "median_rank": float(np.median(ranks))}


def _side_summary(own: Tensor, predicted: Tensor, num_classes: int) -> dict[str, float]:
    """Compute the metrics of both sides from correct and predicted caption ids `(B,)`."""
    left, right = own // num_classes, own % num_classes
    swapped = (predicted == num_classes * right + left)[left != right]
    return {
        "left_accuracy": (predicted // num_classes == left).double().mean().item(),
        "right_accuracy": (predicted % num_classes == right).double().mean().item(),
        "swapped_rate": swapped.double().mean().item() if len(swapped) else 0.0,
    }


def _validate_sides(image_embeds: Array, caption_embeds: Array, chunk_size: int) -> tuple[Tensor, Tensor]:
    images = validate_embeds("image_embeds", image_embeds)
    captions = validate_embeds("caption_embeds", caption_embeds).to(images.device)
    if images.shape[1] != captions.shape[1]:
        raise ValueError(
            "`image_embeds` and `caption_embeds` must have the same width, but got "
            f"{images.shape[1]} and {captions.shape[1]}."
        )
    check_at_least("chunk_size", chunk_size)
    return images, captions


def _validate_caption_ids(caption_ids: Array, num_classes: int) -> Tensor:
    check_at_least("num_classes", num_classes, 2)
    return validate_integers("caption_ids", caption_ids, bound=num_classes**2)
