"""Training losses: pure functions of embeddings, computed in float32.

In distributed training, losses and averaged gradients are the same as in a single process with the joined batch.
[`matching_pairs`] is the exception: it chooses negatives within the batch of each process.

| loss | negatives | prefer it when |
|---|---|---|
| `info_nce` | other pairs of all processes | a batch is large, or its pairs are distinct |
| `sigmoid_loss` | other pairs of all processes, one at a time | batches are small |
| `bank_softmax` | all captions of a bank | all possible captions are known and fit into memory |
| `matching_loss` | one similar wrong text and image per pair | the model encodes image and text jointly |
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
