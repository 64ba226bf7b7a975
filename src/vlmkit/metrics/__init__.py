"""Metrics: functions of arrays or strings that return a dictionary of floats.

| task | function | inputs |
|---|---|---|
| retrieval | `retrieval_metrics` | embeddings of images and texts, with groups of matching ones |
| captioning | `caption_metrics` | predicted and reference captions |
| question answering | `vqa_accuracy` | predicted and correct answers |
| paired images | `pair_metrics` | embeddings of image pairs and of a bank of captions |

`vlmkit.metrics.evaluate_metrics` provides the same metrics as classes of the `evaluate` library.
"""

from vlmkit.metrics.captions import caption_metrics
from vlmkit.metrics.confusion import confusion_matrix, frequent_confusions, merge_classes
from vlmkit.metrics.pairs import (
    compute_pair_metrics,
    pair_chance,
    pair_metrics,
    predicted_captions,
)
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
