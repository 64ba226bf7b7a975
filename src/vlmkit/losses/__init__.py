"""Training losses: pure functions on embeddings, computed in float32.

Processes that average their gradients train as one process on the joined batch; only the wrong pairs of
[`matching_pairs`] are chosen within each process.
"""

from vlmkit.losses.bank import bank_logits, bank_softmax, soft_cross_entropy, swapped_margin
from vlmkit.losses.contrastive import info_nce, sigmoid_loss
from vlmkit.losses.matching import MatchingPairs, hard_negatives, matching_loss, matching_pairs

__all__ = [
    "MatchingPairs",
    "bank_logits",
    "bank_softmax",
    "hard_negatives",
    "info_nce",
    "matching_loss",
    "matching_pairs",
    "sigmoid_loss",
    "soft_cross_entropy",
    "swapped_margin",
]
