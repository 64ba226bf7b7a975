"""Metrics: arrays in, a dictionary of floats out.

`RetrievalMetric`, for those who work with `evaluate`, is imported from `vlmkit.metrics.evaluate_metrics`.
"""

from vlmkit.metrics.retrieval import chance_recall, compute_retrieval_metrics, recall_at_k, retrieval_metrics

__all__ = ["chance_recall", "compute_retrieval_metrics", "recall_at_k", "retrieval_metrics"]
