"""Image-text retrieval metrics, for any number of matches per query."""

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
    """Recall, precision, mean average precision and median rank of both directions of image-text retrieval.

    Candidates are ranked by dot product, computed in float32 on the device of `image_embeds`; pass unit-length
    embeddings to rank by cosine similarity. An image and a text match when they share a group, or where `relevant` is
    true; without either, row i matches row i. The rank of a match counts, besides the better matches, all other
    candidates that score at least as high: ties, and differences within float32 rounding, count against the model, so
    that embeddings that are all equal score no better than chance.

    With ranks r₁ < r₂ < ... of a query's matches, recall@k is the fraction of queries with r₁ <= k, precision@k the
    mean fraction of matches among the first k, average precision the mean over i of i / rᵢ, and the median rank the
    median of r₁, which starts at 1.

    Args:
        image_embeds: `(I, D)`, of any float dtype.
        text_embeds: `(T, D)`, of any float dtype.
        image_groups: `(I,)` integers.
        text_groups: `(T,)` integers; the five captions of a photograph share its group.
        cutoffs: values of k, each from 1 to the smaller of I and T.
        chunk_size: queries ranked at a time. The extra memory is about 8 bytes × chunk_size × candidates.
        relevant: `(I, T)` booleans, for matches that are no grouping, such as a caption that is true of some images.

    Returns:
        `image_to_text/recall@1`, `image_to_text/precision@1` (and so on for each cut-off), `image_to_text/map`,
        `image_to_text/median_rank`, and the same for `text_to_image`; fractions, except for the median rank.

    Raises:
        ValueError: a cut-off is out of range; the embeddings are empty, not finite, not `(rows, D)`, or of different
            widths; groups or `relevant` do not fit them or each other; an image or a text has no match at all.

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
            f"image_embeds have width {images.shape[1]} and text_embeds {texts.shape[1]}; project both to one width"
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
    """Fraction of queries with a match among their k most similar candidates.

    A candidate matches when it shares the query's group. Candidates that tie with the best match come before it.

    Args:
        similarity: `(Q, C)`, larger is closer; compared in float32.
        query_groups: `(Q,)` integers.
        candidate_groups: `(C,)` integers.
        k: cut-off, from 1 to C.

    Raises:
        ValueError: k is out of range; the similarities are empty, not finite or not a matrix; the groups do not fit
            them; or a query's group has no candidate.

    Example:
        >>> similarity = torch.tensor([[0.9, 0.1, 0.3], [0.8, 0.2, 0.7]])
        >>> recall_at_k(similarity, query_groups=torch.tensor([0, 1]), candidate_groups=torch.tensor([0, 0, 1]), k=1)
        0.5
    """
    scores = torch.as_tensor(similarity).to(torch.float32, copy=True)
    if scores.ndim != 2 or scores.numel() == 0 or not scores.isfinite().all():
        raise ValueError(
            f"similarity {tuple(scores.shape)} must be a matrix (queries, candidates) of finite numbers, not empty"
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
    """Recall@k to be expected of a random ranking, the mean over queries.

    Args:
        num_candidates: candidates of every query.
        num_matches: `(Q,)` matches of each query, or one number for all.
        k: cut-off, from 1 to the number of candidates.

    Raises:
        ValueError: k, or a number of matches, is outside 1..num_candidates.

    Example:
        >>> round(chance_recall(num_candidates=1000, num_matches=5, k=1), 6)
        0.005
    """
    check_cutoffs([k], num_candidates)
    matches = torch.as_tensor(num_matches).cpu().numpy()
    outside = matches[(matches < 1) | (matches > num_candidates)]
    if matches.size == 0 or outside.size:
        raise ValueError(
            f"num_matches {outside[:1]} must lie in 1..{num_candidates}, the number of candidates, and not be empty"
        )
    # A query misses when each of k draws without replacement hits one of the candidates that do not match.
    miss = np.ones(matches.shape)
    for drawn in range(k):
        miss *= np.maximum(num_candidates - matches - drawn, 0) / (num_candidates - drawn)
    return float(1 - miss.mean())


def compute_retrieval_metrics(prediction: EvalPrediction, cutoffs: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """[`retrieval_metrics`] for `Trainer(compute_metrics=...)`, over the whole evaluation set.

    The model must return nothing but its embeddings at evaluation (`config.keys_to_ignore_at_inference`), and
    `TrainingArguments(label_names=["group_ids"])` brings the groups. Pairs of one group are captions of one image,
    which is a candidate once, as the group's first row.

    Args:
        prediction: `predictions` is `(image_embeds, text_embeds)`, both `(pairs, D)`; `label_ids` is `(pairs,)`
            integers, or None if every pair is a group of its own.
        cutoffs: values of k, each from 1 to the number of groups.

    Returns:
        What [`retrieval_metrics`] returns and `mean_recall@k`, the mean of both directions, for each cut-off.

    Raises:
        ValueError: the predictions are not two arrays, `label_ids` is empty (give `TrainingArguments`
            `label_names=["group_ids"]`), or they are not valid for [`retrieval_metrics`].

    Example:
        >>> embeds = np.eye(4, dtype=np.float32)
        >>> prediction = EvalPrediction(predictions=(embeds, embeds), label_ids=np.array([0, 1, 2, 3]))
        >>> compute_retrieval_metrics(prediction, cutoffs=(1,))["mean_recall@1"]
        1.0
    """
    if not isinstance(prediction.predictions, tuple) or len(prediction.predictions) != 2:
        raise ValueError(
            "predictions must be (image_embeds, text_embeds); name the model's other outputs in "
            "config.keys_to_ignore_at_inference"
        )
    image_embeds, text_embeds = prediction.predictions
    groups = np.arange(len(text_embeds)) if prediction.label_ids is None else np.asarray(prediction.label_ids)
    if groups.size == 0:  # what Trainer passes if it knows no labels
        raise ValueError("there are no label_ids; give TrainingArguments label_names=['group_ids']")
    if not len(image_embeds) == len(text_embeds) == len(groups):
        raise ValueError(
            f"{len(image_embeds)} image_embeds, {len(text_embeds)} text_embeds and {len(groups)} label_ids must be as "
            "many: one row of each per pair"
        )
    image_groups, first_indices = np.unique(groups, return_index=True)
    metrics = retrieval_metrics(
        image_embeds[first_indices], text_embeds, image_groups=image_groups, text_groups=groups, cutoffs=cutoffs
    )
    for k in cutoffs:
        metrics[f"mean_recall@{k}"] = (metrics[f"image_to_text/recall@{k}"] + metrics[f"text_to_image/recall@{k}"]) / 2
    return metrics


def _summary(chunks: Iterable[Tensor], cutoffs: Sequence[int]) -> dict[str, float]:
    """Metrics of one direction, from the ranks of its queries' matches."""
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
    """Texts that match each image, and images that match each text."""
    if (image_groups is None) != (text_groups is None):
        raise ValueError("image_groups and text_groups belong together; give both or neither")
    if relevant is not None:
        if image_groups is not None:
            raise ValueError("relevant and groups both say what matches; give one of them")
        matrix = _validate_relevance(relevant, images, texts)
        return match_by_relevance(matrix), match_by_relevance(matrix.T)
    if image_groups is None or text_groups is None:
        if len(images) != len(texts):
            raise ValueError(
                f"{len(images)} images and {len(texts)} texts are no pairs; give image_groups and text_groups, or "
                "relevant"
            )
        image_groups = text_groups = torch.arange(len(images))
    of_images = _validate_groups("image_groups", image_groups, images)
    of_texts = _validate_groups("text_groups", text_groups, texts)
    return match_by_group(of_images, of_texts), match_by_group(of_texts, of_images)


def _validate_relevance(relevant: Array, images: Tensor, texts: Tensor) -> Tensor:
    matrix = torch.as_tensor(relevant, device=images.device)
    if matrix.dtype != torch.bool or matrix.shape != (len(images), len(texts)):
        raise ValueError(
            f"relevant {tuple(matrix.shape)} of {matrix.dtype} must be booleans, {len(images)} images by {len(texts)} "
            "texts"
        )
    for kind, dim in (("image", 1), ("text", 0)):
        lonely = ~matrix.any(dim=dim)
        if lonely.any():
            raise ValueError(f"{kind} {lonely.nonzero()[0].item()} has no match in relevant; leave it out")
    return matrix


def _validate_groups(name: str, groups: Array, rows: Tensor) -> Tensor:
    tensor = torch.as_tensor(groups, device=rows.device)
    if tensor.shape != rows.shape[:1] or tensor.is_floating_point():
        raise ValueError(
            f"{name} {tuple(tensor.shape)} of {tensor.dtype} must be integers, one for each of {len(rows)} rows"
        )
    return tensor.long()
