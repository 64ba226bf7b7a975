"""BLEU, with the values of pycocoevalcap."""

import numpy as np

from vlmkit.metrics.ngrams import CaptionNgrams, NgramTable

# Epsilons of pycocoevalcap against division by 0, which determine the score if no n-gram matches.
_TINY, _SMALL = 1e-15, 1e-9


def bleu(ngrams: CaptionNgrams) -> list[float]:
    """Compute BLEU of a test set for n-grams of up to 1, 2, ... words, without smoothing.

    The reference length of an image is the length of the reference that is closest to the prediction in length, or the
    shorter one of two.

    References:
        Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002, section 2.
    """
    guessed = ngrams.prediction_lengths.sum()
    ratio = (guessed + _TINY) / (_closest_lengths(ngrams).sum() + _SMALL)
    brevity_penalty = np.exp(min(0.0, 1 - 1 / ratio))
    precisions = [(_num_correct(table) + _TINY) / (table.predictions.counts.sum() + _SMALL) for table in ngrams.tables]
    orders = np.arange(1, len(precisions) + 1)
    return (brevity_penalty * np.cumprod(precisions) ** (1 / orders)).tolist()


def _closest_lengths(ngrams: CaptionNgrams) -> np.ndarray:
    """Return `(I,)`, the reference length that is closest to the length of each prediction."""
    distances = np.abs(ngrams.reference_lengths - ngrams.prediction_lengths[ngrams.reference_images])
    order = np.lexsort((ngrams.reference_lengths, distances, ngrams.reference_images))
    firsts = np.searchsorted(ngrams.reference_images, np.arange(len(ngrams.prediction_lengths)))
    return ngrams.reference_lengths[order][firsts]


def _num_correct(table: NgramTable) -> int:
    """Count predicted n-grams that occur in a reference, clipped to the largest count in a single reference."""
    found = table.matches >= 0
    most = np.zeros_like(table.predictions.counts)
    np.maximum.at(most, table.matches[found], table.references.counts[found])
    return np.minimum(most, table.predictions.counts).sum()
