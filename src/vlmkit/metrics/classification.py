"""Metrics of pairs of images that are classified jointly, one caption for each pair of classes."""

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
    """How well pairs of images find their caption among the captions of all pairs of classes.

    Each row of `image_embeds` shows an image of a class `left` beside one of a class `right`, and its own caption is
    row `num_classes * left + right` of the bank. Captions are ranked by dot product, computed in float32 on the device
    of `image_embeds`. The rank r of the own caption, from 1, counts all other captions that score at least as high:
    ties, and differences within float32 rounding, count against the model. The predicted caption is the most similar
    one; where several tie, one of them, whichever that is. So a model whose embeddings are all equal is never right in
    `top@k` below k = C², and no better than chance in the accuracies.

    Args:
        image_embeds: `(B, D)`, of any float dtype; unit length to rank by cosine similarity.
        caption_embeds: `(C * C, D)`, the bank, for C classes.
        caption_ids: `(B,)` integers, each pair's own row of the bank.
        num_classes: C, at least 2.
        cutoffs: values of k, each from 1 to C².
        chunk_size: pairs ranked at a time. The extra memory is about 8 bytes × chunk_size × C².

    Returns:
        `top@1` (and so on for each cut-off), the fraction of pairs with r <= k; `precision@1`, the mean fraction of
        right captions among the first k, which is `top@k` / k, as only one is right; `map`, the mean of 1 / r;
        `median_rank`, the median of r; `left_accuracy` and `right_accuracy`, the fraction of pairs whose predicted
        caption names the right class on that side; and `swapped_rate`, the fraction of the pairs of two different
        classes whose predicted caption names both on the wrong side, 0 if there is no such pair.

    Raises:
        ValueError: the bank has not C² rows; a caption id or a cut-off is out of range; the embeddings are empty, not
            finite, not `(rows, D)`, of different widths, or not as many as caption ids.

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
            f"{len(captions)} caption_embeds and {len(own)} caption_ids do not fit {num_classes} classes and "
            f"{len(images)} image_embeds; give a caption for each of {num_classes**2} pairs of classes and an id per "
            "image"
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
    """The k most similar captions of each image, and their similarities.

    Args:
        image_embeds: `(B, D)`, of any float dtype.
        caption_embeds: `(C, D)`.
        k: how many captions, from 1 to C.
        chunk_size: images compared at a time. The extra memory is about 4 bytes × chunk_size × C.

    Returns:
        `(B, k)` rows of the bank, most similar first, ties in any order, and their `(B, k)` dot products in float32;
        both on the device of `image_embeds`.

    Raises:
        ValueError: If `k` is out of range, or the embeddings are not valid for [`pair_metrics`].

    Example:
        >>> ids, similarities = predicted_captions(torch.tensor([[0.6, 0.8]]), torch.eye(2), k=2)
        >>> ids.tolist(), similarities.shape
        ([[1, 0]], torch.Size([1, 2]))
    """
    images, captions = _validate_sides(image_embeds, caption_embeds, chunk_size)
    check_cutoffs([k], len(captions))
    return _most_similar(images, captions, k, chunk_size)


def pair_chance(caption_ids: Array, *, num_classes: int, cutoffs: Sequence[int] = (1, 10, 100)) -> dict[str, float]:
    """`top@k` to be expected without looking at the images.

    A random ranking has k / C². If many pairs show one class twice, it pays to put the C captions of equal classes
    first: where half of the pairs do, that bet alone has 50 % of `top@100` for 100 classes.

    Args:
        caption_ids: `(B,)` integers, `num_classes * left + right`, of the pairs that are evaluated.
        num_classes: C, at least 2.
        cutoffs: values of k, each from 1 to C².

    Returns:
        For each cut-off, `uniform/top@k` of a random ranking, and `same_class/top@k` of one with all captions of equal
        classes before all others, each of the two parts in random order.

    Raises:
        ValueError: a caption id or a cut-off is out of range, or there are no caption ids.

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
    """[`pair_metrics`] for `Trainer(compute_metrics=partial(compute_pair_metrics, caption_embeds=..., ...))`.

    The model must return nothing but its image embeddings at evaluation (`config.keys_to_ignore_at_inference`), and
    `TrainingArguments(label_names=["caption_ids"])` brings the ids.

    Args:
        prediction: `predictions` is `(B, D)`, `label_ids` is `(B,)` integers.
        caption_embeds: `(C * C, D)`, the bank.
        num_classes: C, at least 2.
        cutoffs: values of k, each from 1 to C².

    Raises:
        ValueError: the predictions are several arrays, there are no `label_ids`, or they are not valid for
            [`pair_metrics`].

    Example:
        >>> bank = np.eye(4, dtype=np.float32)
        >>> prediction = EvalPrediction(predictions=bank[[3, 2]], label_ids=np.array([3, 1]))
        >>> compute_pair_metrics(prediction, bank, num_classes=2, cutoffs=(1,))["top@1"]
        0.5
    """
    if isinstance(prediction.predictions, tuple):
        raise ValueError(
            f"predictions must be the image_embeds alone, not {len(prediction.predictions)} arrays; name the model's "
            "other outputs in config.keys_to_ignore_at_inference"
        )
    if prediction.label_ids is None or np.size(prediction.label_ids) == 0:  # what Trainer passes if it knows no labels
        raise ValueError("there are no label_ids; give TrainingArguments label_names=['caption_ids']")
    return pair_metrics(
        prediction.predictions,
        caption_embeds,
        caption_ids=prediction.label_ids,
        num_classes=num_classes,
        cutoffs=cutoffs,
    )


def _most_similar(images: Tensor, captions: Tensor, k: int, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Rows `(B, k)` of the captions most similar to each image, and their similarities `(B, k)`."""
    scores = images.new_empty(
        min(chunk_size, len(images)), len(captions)
    )  # allocated once, see `rank_matches_by_chunk`
    best = [torch.mm(chunk, captions.T, out=scores[: len(chunk)]).topk(k, dim=1) for chunk in images.split(chunk_size)]
    return torch.cat([chunk.indices for chunk in best]), torch.cat([chunk.values for chunk in best])


def _rank_summary(ranks: Tensor, cutoffs: Sequence[int]) -> dict[str, float]:
    """Metrics from the rank `(B,)` of each pair's own caption."""
    summary = {}
    for k in cutoffs:
        summary[f"top@{k}"] = (ranks <= k).double().mean().item()
        summary[f"precision@{k}"] = summary[f"top@{k}"] / k
    return {**summary, "map": ranks.reciprocal().mean().item(), "median_rank": float(np.median(ranks))}


def _side_summary(own: Tensor, predicted: Tensor, num_classes: int) -> dict[str, float]:
    """Metrics of the sides, from the own and the predicted caption ids `(B,)`."""
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
            f"image_embeds have width {images.shape[1]} and caption_embeds {captions.shape[1]}; project the images to "
            "the width of the captions"
        )
    check_at_least("chunk_size", chunk_size)
    return images, captions


def _validate_caption_ids(caption_ids: Array, num_classes: int) -> Tensor:
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; pairs need at least 2 classes")
    return validate_integers("caption_ids", caption_ids, bound=num_classes**2)
