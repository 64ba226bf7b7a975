"""Metrics: arrays or captions in, a dictionary of floats out.

`CaptionMetric`, `PairMetric`, `RetrievalMetric` and `VqaMetric`, for those who work with `evaluate`, are imported from
`vlmkit.metrics.evaluate_metrics`.
"""

from vlmkit.metrics.captions import caption_metrics
from vlmkit.metrics.classification import (
    compute_pair_metrics,
    pair_chance,
    pair_metrics,
    predicted_captions,
)
from vlmkit.metrics.confusion import confusion_matrix, frequent_confusions, merge_classes
from vlmkit.metrics.retrieval import chance_recall, compute_retrieval_metrics, recall_at_k, retrieval_metrics
from vlmkit.metrics.vqa import normalize_answer, vqa_accuracy

__all__ = [
    "caption_metrics",
    "chance_recall",
    "compute_pair_metrics",
    "compute_retrieval_metrics",
    "confusion_matrix",
    "frequent_confusions",
    "merge_classes",
    "normalize_answer",
    "pair_chance",
    "pair_metrics",
    "predicted_captions",
    "recall_at_k",
    "retrieval_metrics",
    "vqa_accuracy",
]
