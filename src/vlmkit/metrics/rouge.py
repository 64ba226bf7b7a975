"""ROUGE-L, as pycocoevalcap computes it."""

from collections import defaultdict
from collections.abc import Sequence

from vlmkit.metrics.ngrams import Words

_BETA = 1.2  # how many times as much recall counts as precision


def rouge_l(prediction: Words, references: Sequence[Words]) -> float:
    """F-measure of the longest common subsequences of one prediction and its references.

    The best precision and the best recall are combined, even if they belong to different references.

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
    """Lengths of the longest common subsequences, by bit-parallel dynamic programming.

    Bit i of `steps` is 0 where one word more of the prediction, the i-th, makes the common subsequence longer: a row of
    the textbook's table in one integer (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
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
