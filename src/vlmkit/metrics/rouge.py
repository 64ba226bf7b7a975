"""ROUGE-L, with the values of pycocoevalcap."""

from collections import defaultdict
from collections.abc import Sequence

from vlmkit.metrics.ngrams import Words

_BETA = 1.2  # weight of recall relative to precision


def rouge_l(prediction: Words, references: Sequence[Words]) -> float:
    """Compute the F-measure of the longest common subsequence of a prediction and its references.

    With the best precision P and the best recall R over all references, it is `(1 + b²) P R / (R + b² P)`, with b =
    1.2.

    Args:
        prediction: Words of the predicted caption.
        references: Words of each reference caption.

    References:
        Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL workshop 2004, section 3.

    Example:
        >>> round(rouge_l("a dog runs".split(), ["a brown dog".split()]), 6)
        0.666667
    """
    common = _common_lengths(prediction, references)
    if not any(common):
        return 0.0
    precision = max(common) / len(prediction)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common_lengths(prediction: Words, references: Sequence[Words]) -> list[int]:
    """Compute the lengths of the longest common subsequences by bit-parallel dynamic programming.

    `steps` is a row of the dynamic programming table as one integer: bit i is 0 if including word i of the prediction
    increases the length (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
    """
    positions: defaultdict[str, int] = defaultdict(int)
    for index, word in enumerate(prediction):
        positions[word] |= 1 << index
    everything = (1 << len(prediction)) - 1
    lengths = []
    for reference in references:
        steps = everything
        for word in reference:
            matches = steps & positions.get(word, 0)
            steps = (steps + matches) | (steps - matches)
        lengths.append(len(prediction) - (steps & everything).bit_count())
    return lengths
