"""Training losses: pure functions on embeddings, computed in float32 over all processes."""

from vlmkit.losses.caption_bank import bank_logits, bank_softmax, soft_cross_entropy, swapped_margin
from vlmkit.losses.contrastive import info_nce, sigmoid_loss

__all__ = ["bank_logits", "bank_softmax", "info_nce", "sigmoid_loss", "soft_cross_entropy", "swapped_margin"]
