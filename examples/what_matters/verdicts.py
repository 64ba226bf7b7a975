"""What can be said of scores over seeds: means and errors, learnt or not, higher or lower, as published or not."""

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
    """Mean, deviation and standard error over seeds; NaN where they cannot be known."""

    mean: float
    deviation: float
    error: float
    seeds: int


class Difference(NamedTuple):
    """Of two means, with its standard error; the verdict is on the first of the two."""

    value: float
    error: float
    verdict: str


def score_of(scores: Sequence[float], num_answers: int | None = None) -> Score:
    """Mean over seeds, and how far it may be from that of all seeds and all questions.

    The standard error is `sqrt(s² / n + p (1 - p) / N)`: s is the standard deviation over n seeds (0 for a single one),
    p the mean and N the number of questions. All seeds answer the same questions, so that more seeds do not make the
    second term smaller.

    Args:
        scores: one per seed; those that are not finite do not count.
        num_answers: N, if the score is a fraction of right answers, else only the seeds count.

    Raises:
        ValueError: num_answers is below 1, or is given for scores that are no fractions.

    Example:
        >>> score_of([0.5], num_answers=100)
        Score(mean=0.5, deviation=0.0, error=0.05, seeds=1)
    """
    finite = [score for score in scores if math.isfinite(score)]
    if num_answers is not None and (num_answers < 1 or any(not 0 <= score <= 1 for score in finite)):
        raise ValueError(f"scores {finite} of {num_answers} answers: give fractions of at least 1 answer")
    if not finite:
        return Score(math.nan, math.nan, math.nan, 0)
    mean = statistics.fmean(finite)
    deviation = statistics.stdev(finite) if len(finite) > 1 else 0.0
    if len(finite) == 1 and num_answers is None:
        return Score(mean, deviation, math.nan, 1)
    sampling = 0.0 if num_answers is None else mean * (1 - mean) / num_answers
    return Score(mean, deviation, math.sqrt(deviation**2 / len(finite) + sampling), len(finite))


def is_learnt(scores: Sequence[float], baselines: Sequence[float], num_questions: int | None) -> bool | None:
    """Whether the mean is above every baseline by more than two standard errors, those of `score_of`.

    The baselines are taken as known: they are of the same questions.

    Args:
        scores: one per seed.
        baselines: such as the accuracies of the most frequent answer and of a model without images.
        num_questions: None if the score is no fraction of right answers.

    Returns:
        None if there is no score, no standard error (one seed and no `num_questions`), or a baseline is missing.
    """
    score = score_of(scores, num_questions)
    if math.isnan(score.error) or not baselines or any(map(math.isnan, baselines)):
        return None
    return score.mean - max(baselines) > 2 * score.error


def compare(a: Score, b: Score) -> Difference:
    """Whether a is "higher" or "lower" than b by more than two standard errors, `sqrt(se_a² + se_b²)`.

    Both answer the same questions, which makes the true error smaller, as a rule: the test is a careful one.

    Example:
        >>> compare(score_of([0.8], 100), score_of([0.5], 100)).verdict
        'higher'
    """
    difference, error = a.mean - b.mean, math.hypot(a.error, b.error)
    if math.isnan(error):
        return Difference(difference, error, "unknown, as there is no standard error")
    if abs(difference) <= 2 * error:
        return Difference(difference, error, "no difference beyond two standard errors")
    return Difference(difference, error, "higher" if difference > 0 else "lower")


def published_order(scores: dict[str, Score]) -> list[tuple[str, str, float, Difference | None, str]]:
    """For each two published rows that are neighbours in rank: lower, higher, published and our difference, verdict.

    Args:
        scores: ours, of the rows that were run.

    Returns:
        The verdict is "agrees", "disagrees", "not distinguishable" or "not run".
    """
    words = {"higher": "agrees", "lower": "disagrees"}
    pairs = []
    for lower, higher in itertools.pairwise(sorted(PUBLISHED, key=PUBLISHED.__getitem__)):
        ours = compare(scores[higher], scores[lower]) if {lower, higher} <= scores.keys() else None
        verdict = words.get(ours.verdict, "not distinguishable") if ours else "not run"
        pairs.append((lower, higher, PUBLISHED[higher] - PUBLISHED[lower], ours, verdict))
    return pairs
