"""Training losses: pure functions on embeddings, computed in float32 over all processes."""

from vlmkit.losses.contrastive import info_nce, sigmoid_loss

__all__ = ["info_nce", "sigmoid_loss"]
