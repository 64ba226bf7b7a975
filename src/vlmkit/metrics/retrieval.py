"""Metrics of image-text retrieval with any number of matches per query."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from vlmkit.metrics.inputs import Array, check_cutoffs, validate_embeds
from vlmkit.metrics.ranking import Matches, match_by_group, match_by_relevance, rank_matches, rank_matches_by_chunk
from vlmkit.validation import check_at_least


@torch.no_grad()
def retrieval_metrics(
    image_embeds: Array,
    text_embeds: Array,
    image_groups: Array | None = None,
    text_groups: Array | None = None,
    *,
    cutoffs: Sequence[int] = (1, 5, 10),
    chunk_size: int = 128,
    relevant: Array | None = None,
) -> dict[str, float]:
    """Compute recall, precision, mean average precision and median rank for both directions of retrieval.

    An image and a text match if they have the same group, or if `relevant` is true for them. By default, row i matches
    row i. Candidates are ranked by dot product, computed in float32 on the device of `image_embeds`. A match ranks
    after all other candidates with an equal or higher score, so that ties (also within float32 rounding) count against
    the model, and equal embeddings score no better than chance.

    For a query whose matches have the ranks r_1 < r_2 < ..., starting at 1:

        recall@k          1 if r_1 <= k else 0, averaged over queries
        precision@k       number of r_i <= k, divided by k, averaged over queries
        map               mean over i of i / r_i, averaged over queries
        median_rank       median of r_1 over queries

    Recall@1, 5 and 10 are the numbers that papers report. Prefer `map` if queries have several matches.

    Args:
        image_embeds: `(I, D)`, of any float dtype. Pass unit length to rank by cosine similarity.
        text_embeds: `(T, D)`, of any float dtype.
        image_groups: `(I,)` integers.
        text_groups: `(T,)` integers. Captions of an image have the group of the image.
        cutoffs: Values of k, from 1 to the smaller of I and T.
        chunk_size: Number of queries that are ranked at a time. The additional memory is about 8 bytes × chunk_size ×
            number of candidates.
        relevant: `(I, T)` booleans, for matches that are not groups, such as captions that are true of several images.

    Returns:
        `image_to_text/recall@k`, `image_to_text/precision@k` for each cutoff, `image_to_text/map` and
        `image_to_text/median_rank`, and the same for `text_to_image`. All but the median rank are from 0 to 1.

    Raises:
        ValueError: If a cutoff is out of range, the embeddings are empty, not finite or of different widths, groups or
            `relevant` have other shapes, or an image or text lacks a match.

    Example:
        >>> images, texts = torch.eye(2), torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
        >>> scores = retrieval_metrics(images, texts, torch.tensor([0, 1]), torch.tensor([0, 0, 1]), cutoffs=(1, 2))
        >>> scores["image_to_text/recall@1"], scores["text_to_image/recall@1"]
        (1.0, 0.6666666666666666)
    """
    images = validate_embeds("image_embeds", image_embeds)
    texts = validate_embeds("text_embeds", text_embeds).to(images.device)
    if images.shape[1] != texts.shape[1]:
        raise ValueError(
            "`image_embeds` and `text_embeds` must have the same width, but got "
            f"{images.shape[1]} and {texts.shape[1]}."
        )
    check_cutoffs(cutoffs, min(len(images), len(texts)))
    check_at_least("chunk_size", chunk_size)
    texts_of_image, images_of_text = _matches(images, texts, image_groups, text_groups, relevant)
    metrics = {}
    for direction, queries, candidates, matches in (
        ("image_to_text", images, texts, texts_of_image),
        ("text_to_image", texts, images, images_of_text),
    ):
        summary = _summary(rank_matches_by_chunk(queries, candidates, matches=matches, chunk_size=chunk_size), cutoffs)
        metrics.update({f"{direction}/{name}": value for name, value in summary.items()})
    return metrics


@torch.no_grad()
def recall_at_k(similarity: Array, *, query_groups: Array, candidate_groups: Array, k: int) -> float:
    """Compute the fraction of queries with a match among their k most similar candidates.

    Candidates with the group of a query match it. Candidates that tie with the best match rank before it.

    Args:
        similarity: `(Q, C)`, similarities of queries and candidates, compared in float32.
        query_groups: `(Q,)` integers.
        candidate_groups: `(C,)` integers.
        k: Cutoff, from 1 to C.

    Returns:
        Recall from 0 to 1.

    Raises:
        ValueError: If `k` is out of range, the similarities are empty, not finite or not a matrix, the groups have
            other shapes, or the group of a query does not contain a candidate.

    Example:
        >>> similarity = torch.tensor([[0.9, 0.1, 0.3], [0.8, 0.2, 0.7]])
        >>> recall_at_k(similarity, query_groups=torch.tensor([0, 1]), candidate_groups=torch.tensor([0, 0, 1]), k=1)
        0.5
    """
    scores = torch.as_tensor(similarity).to(torch.float32, copy=True)
    if scores.ndim != 2 or scores.numel() == 0 or not scores.isfinite().all():
        raise ValueError(
            "`similarity` must be a matrix (queries, candidates) of finite numbers that is not empty, but got "
            f"{tuple(scores.shape)}."
        )
    check_cutoffs([k], scores.shape[1])
    matches = match_by_group(
        _validate_groups("query_groups", query_groups, scores),
        _validate_groups("candidate_groups", candidate_groups, scores.T),
    )
    indices, filler = matches.padded(slice(None))
    ranks = rank_matches(scores, scratch=torch.empty_like(scores), matches=indices, filler=filler)
    return (ranks[:, 0] <= k).double().mean().item()


def chance_recall(num_candidates: int, *, num_matches: int | Array | Sequence[int], k: int) -> float:
    """Compute the expected recall@k of a random ranking, averaged over queries.

    For N candidates and m matches, it is `1 - C(N - m, k) / C(N, k)`, with binomial coefficients C.

    Args:
        num_candidates: Number of candidates N of each query.
        num_matches: `(Q,)`, number of matches of each query, or one number for all queries.
        k: Cutoff, from 1 to N.

    Returns:
        Expected recall from 0 to 1.

    Raises:
        ValueError: If `k` or a number of matches is not from 1 to N.

    Example:
        >>> round(chance_recall(num_candidates=1000, num_matches=5, k=1), 6)
        0.005
    """
    check_cutoffs([k], num_candidates)
    matches = torch.as_tensor(num_matches).cpu().numpy()
    outside = matches[(matches < 1) | (matches > num_candidates)]
    if matches.size == 0 or outside.size:
        raise ValueError(
            f"`num_matches` must be from 1 to {num_candidates}, the number of candidates, and not empty, but got "
            f"{outside[:1]}."
        )
    # Probability that k draws without replacement only hit candidates that do not match.
    miss = np.ones(matches.shape)
    for drawn in range(k):
        miss *= np.maximum(num_candidates - matches - drawn, 0) / (num_candidates - drawn)
    return float(1 - miss.mean())


def compute_retrieval_metrics(prediction: EvalPrediction, cutoffs: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Compute [`retrieval_metrics`] of a whole evaluation set, for `Trainer(compute_metrics=...)`.

    During evaluation, the model must only return embeddings (`config.keys_to_ignore_at_inference`). Set
    `TrainingArguments(label_names=["group_ids"])` to pass the groups. Pairs of the same group are captions of the same
    image, which is a single candidate (the first row of the group).

    Args:
        prediction: `predictions` is `(image_embeds, text_embeds)`, both `(pairs, D)`, and `label_ids` is `(pairs,)`
            integers, or `None` for a different group for each pair.
        cutoffs: Values of k, from 1 to the number of groups.

    Returns:
        The metrics of [`retrieval_metrics`] and `mean_recall@k`, the mean of both directions, for each cutoff.

    Raises:
        ValueError: If the predictions are not two arrays, `label_ids` is empty, or as [`retrieval_metrics`] raises.

    Example:
        >>> embeds = np.eye(4, dtype=np.float32)
        >>> prediction = EvalPrediction(predictions=(embeds, embeds), label_ids=np.array([0, 1, 2, 3]))
        >>> compute_retrieval_metrics(prediction, cutoffs=(1,))["mean_recall@1"]
        1.0
    """
    if not isinstance(prediction.predictions, tuple) or len(prediction.predictions) != 2:
        raise ValueError(
            "`predictions` must be `(image_embeds, text_embeds)`. Add the other outputs of the model to "
            "`config.keys_to_ignore_at_inference`."
        )
    image_embeds, text_embeds = prediction.predictions
    groups = np.arange(len(text_embeds)) if prediction.label_ids is None else np.asarray(prediction.label_ids)
    if groups.size == 0:  # from a Trainer without labels
        raise ValueError("`label_ids` must not be empty. Set `TrainingArguments(label_names=['group_ids'])`.")
    if not len(image_embeds) == len(text_embeds) == len(groups):
        raise ValueError(
            "`image_embeds`, `text_embeds` and `label_ids` must have one row for each pair, but got "
            f"{len(image_embeds)}, {len(text_embeds)} and {len(groups)} rows."
        )
    image_groups, first_indices = np.unique(groups, return_index=True)
    metrics = retrieval_metrics(
        image_embeds[first_indices], text_embeds, image_groups=image_groups, text_groups=groups, cutoffs=cutoffs
    )
    for k in cutoffs:
        metrics[f"mean_recall@{k}"] = (metrics[f"image_to_text/recall@{k}"] + metrics[f"text_to_image/recall@{k}"]) / 2
    return metrics


def _summary(chunks: Iterable[Tensor], cutoffs: Sequence[int]) -> dict[str, float]:
    """Compute the metrics of one direction from the ranks of the matches of each query."""
    best, found, average_precision = [], [], []
    for ranks in chunks:
        best.append(ranks[:, 0])
        found.append((ranks[:, :, None] <= torch.tensor(cutoffs, dtype=ranks.dtype)).sum(dim=1))
        precision_at_match = torch.arange(1, ranks.shape[1] + 1) / ranks
        average_precision.append(precision_at_match.sum(dim=1) / ranks.isfinite().sum(dim=1))
    summary = {}
    for k, matches in zip(cutoffs, torch.cat(found).double().unbind(dim=1), strict=True):
        summary[f"recall@{k}"] = (matches > 0).double().mean().item()
        summary[f"precision@{k}"] = matches.mean().item() / k
    summary["map"] = torch.cat(average_precision).mean().item()
    summary["median_rank"] = float(np.median(torch.cat(best)))
    return summary


def _matches(
    images: Tensor, texts: Tensor, image_groups: Array | None, text_groups: Array | None, relevant: Array | None
) -> tuple[Matches, Matches]:
    """Return the texts that match each image, and the images that match each text."""
    if (image_groups is None) != (text_groups is None):
        raise ValueError("`image_groups` and `text_groups` must be passed together.")
    if relevant is not None:
        if image_groups is not None:
            raise ValueError("Pass either `relevant` or groups, but not both.")
        matrix = _validate_relevance(relevant, images, texts)
        return match_by_relevance(matrix), match_by_relevance(matrix.T)
    if image_groups is None or text_groups is None:
        if len(images) != len(texts):
            raise ValueError(
                f"Without groups, `image_embeds` and `text_embeds` must have the same length, but got {len(images)} "
                f"and {len(texts)}. Pass `image_groups` and `text_groups`, or `relevant`."
            )
        image_groups = text_groups = torch.arange(len(images))
    of_images = _validate_groups("image_groups", image_groups, images)
    of_texts = _validate_groups("text_groups", text_groups, texts)
    return match_by_group(of_images, of_texts), match_by_group(of_texts, of_images)


def _validate_relevance(relevant: Array, images: Tensor, texts: Tensor) -> Tensor:
    matrix = torch.as_tensor(relevant, device=images.device)
    if matrix.dtype != torch.bool or matrix.shape != (len(images), len(texts)):
        raise ValueError(
            f"`relevant` must be booleans of the shape ({len(images)}, {len(texts)}), but got {tuple(matrix.shape)} of "
            f"{matrix.dtype}."
        )
    for kind, dim in (("image", 1), ("text", 0)):
        lonely = ~matrix.any(dim=dim)
        if lonely.any():
            raise ValueError(
                f"`relevant` must have a match for every {kind}, but has none for {kind} {lonely.nonzero()[0].item()}. "
                "Remove it."
            )
    return matrix


def _validate_groups(name: str, groups: Array, rows: Tensor) -> Tensor:
    tensor = torch.as_tensor(groups, device=rows.device)
    if tensor.shape != rows.shape[:1] or tensor.is_floating_point():
        raise ValueError(
            f"`{name}` must be integers of the shape ({len(rows)},), one for each row, but got {tuple(tensor.shape)} "
            f"of {tensor.dtype}."
        )
    return tensor.long()
