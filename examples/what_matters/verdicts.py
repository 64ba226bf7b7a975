"""Statistics of scores over seeds: standard errors, comparisons with baselines, other rows and published results."""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# "What matters when building vision-language models?" (arXiv:2405.02246): averages over its benchmarks, in per cent.
PUBLISHED = {
    "autoregressive without Perceiver / frozen": 51.8,
    "autoregressive / frozen": 60.3,
    "cross-attention / frozen": 66.7,
    "cross-attention / LoRA": 67.3,
    "autoregressive / LoRA": 69.5,
}


class Score(NamedTuple):
    """Statistics of a score over seeds. Unknown values are NaN.

    Attributes:
        mean: Mean over seeds.
        deviation: Sample standard deviation over seeds, 0 for a single seed.
        error: Standard error of the mean, see [`score_of`].
        seeds: Number of seeds with a score.
    """

    mean: float
    deviation: float
    error: float
    seeds: int


class Difference(NamedTuple):
    """Difference between two means.

    Attributes:
        value: First mean minus second mean.
        error: Standard error of the difference.
        verdict: Conclusion about the first mean, such as "higher".
    """

    value: float
    error: float
    verdict: str


def score_of(scores: Sequence[float], num_answers: int | None = None) -> Score:
    """Compute the mean over seeds and its standard error.

    The standard error is `sqrt(s² / n + p (1 - p) / N)`, with the standard deviation s over n seeds (0 for a single
    seed), the mean p and the number of questions N. All seeds answer the same questions, so additional seeds do not
    reduce the second term.

    Args:
        scores: One score per seed. Scores that are not finite are ignored.
        num_answers: Number of questions N, if the scores are accuracies. Otherwise the second term is omitted.

    Raises:
        ValueError: If `num_answers` is less than 1, or is set for scores outside [0, 1].

    Example:
        >>> score_of([0.5], num_answers=100)
        Score(mean=0.5, deviation=0.0, error=0.05, seeds=1)
    """
    finite = [score for score in scores if math.isfinite(score)]
    if num_answers is not None and (num_answers < 1 or any(not 0 <= score <= 1 for score in finite)):
        raise ValueError(
            "`scores` must be fractions between 0 and 1 of at least 1 answer, but got "
            f"{finite} with `num_answers`={num_answers}."
        )
    if not finite:
        return Score(math.nan, math.nan, math.nan, 0)
    mean = statistics.fmean(finite)
    deviation = statistics.stdev(finite) if len(finite) > 1 else 0.0
    if len(finite) == 1 and num_answers is None:
        return Score(mean, deviation, math.nan, 1)
    sampling = 0.0 if num_answers is None else mean * (1 - mean) / num_answers
    return Score(mean, deviation, math.sqrt(deviation**2 / len(finite) + sampling), len(finite))


def is_learnt(scores: Sequence[float], baselines: Sequence[float], num_questions: int | None) -> bool | None:
    """Return whether the mean exceeds every baseline by more than two standard errors, see [`score_of`].

    The baselines have no error, because they are computed on the same questions.

    Args:
        scores: One score per seed.
        baselines: Scores such as the accuracy of the most frequent answer and of a model without images.
        num_questions: Number of questions, or `None` if the scores are not accuracies.

    Returns:
        `None` if a score, a standard error (one seed without `num_questions`) or a baseline is missing.
    """
    score = score_of(scores, num_questions)
    if math.isnan(score.error) or not baselines or any(map(math.isnan, baselines)):
        return None
    return score.mean - max(baselines) > 2 * score.error


def compare(a: Score, b: Score) -> Difference:
    """Return whether `a` is higher or lower than `b` by more than two standard errors of the difference.

    The standard error of the difference is `sqrt(se_a² + se_b²)`. This is a conservative estimate, because both scores
    are usually positively correlated: they are computed on the same questions.

    Example:
        >>> compare(score_of([0.8], 100), score_of([0.5], 100)).verdict
        'higher'
    """
    difference, error = a.mean - b.mean, math.hypot(a.error, b.error)
    if math.isnan(error):
        return Difference(difference, error, "unknown, because the standard error is unknown")
    if abs(difference) <= 2 * error:
        return Difference(difference, error, "no difference beyond two standard errors")
    return Difference(difference, error, "higher" if difference > 0 else "lower")


def published_order(scores: dict[str, Score]) -> list[tuple[str, str, float, Difference | None, str]]:
    """Compare our order of rows with the published order, for each pair of adjacent published rows.

    Args:
        scores: Our scores by row. Rows may be missing.

    Returns:
        Tuples of the lower row, the higher row, the published difference, our difference, and the verdict: "agrees",
        "disagrees", "not distinguishable" or "not run".
    """
    words = {"higher": "agrees", "lower": "disagrees"}
    pairs = []
    for lower, higher in itertools.pairwise(sorted(PUBLISHED, key=PUBLISHED.__getitem__)):
        ours = compare(scores[higher], scores[lower]) if {lower, higher} <= scores.keys() else None
        verdict = words.get(ours.verdict, "not distinguishable") if ours else "not run"
        pairs.append((lower, higher, PUBLISHED[higher] - PUBLISHED[lower], ours, verdict))
    return pairs
