"""N-gram counts of predictions and references as integer arrays, for BLEU and CIDEr.

Shape legend: I images, R references of all images, P and E entries of the counts of predictions and references.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np

Words: TypeAlias = Sequence[str]

MAX_WORDS = 4  # largest n


class NgramCounts(NamedTuple):
    """Caption `captions[e]` has n-gram `ngrams[e]` `counts[e]` times. Sorted by caption and n-gram."""

    captions: np.ndarray
    ngrams: np.ndarray
    counts: np.ndarray


class NgramTable(NamedTuple):
    """N-grams of one length in all captions."""

    predictions: NgramCounts  # of P entries
    references: NgramCounts  # of E entries
    matches: np.ndarray  # (E,) entry of the same n-gram in the prediction of the same image, or -1
    num_ngrams: int


class CaptionNgrams(NamedTuple):
    """All n-grams of a test set. `tables[n - 1]` contains the n-grams of n words."""

    prediction_lengths: np.ndarray  # (I,) in words
    reference_lengths: np.ndarray  # (R,)
    reference_images: np.ndarray  # (R,)
    tables: list[NgramTable]


def count_ngrams(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> CaptionNgrams:
    """Count the n-grams of up to `MAX_WORDS` words in the predictions and references of a test set.

    Example:
        >>> ngrams = count_ngrams([["a", "dog"]], [[["a", "dog", "runs"], ["a", "cat"]]])
        >>> ngrams.tables[0].matches  # "a" and "dog" match the prediction, "runs" and "cat" do not
        array([ 0,  1, -1,  0, -1])
    """
    num_images = len(predictions)
    captions = [*predictions, *chain.from_iterable(references)]
    lengths = np.array([len(words) for words in captions])
    reference_images: np.ndarray = np.repeat(np.arange(num_images), [len(captions) for captions in references])
    tables = [
        _table(of_captions, ngrams, num_images, reference_images)
        for of_captions, ngrams in _occurrences(captions, lengths)
    ]
    return CaptionNgrams(lengths[:num_images], lengths[num_images:], reference_images, tables)


def _occurrences(captions: Sequence[Words], lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for n = 1, 2, ..., the caption and the id of the n-gram at each position where an n-gram starts."""
    numbers: dict[str, int] = {}
    words = np.array([numbers.setdefault(word, len(numbers)) for words in captions for word in words], dtype=np.int64)
    caption_of_word: np.ndarray = np.repeat(np.arange(len(captions)), lengths)
    words_left = np.repeat(lengths.cumsum(), lengths) - np.arange(len(words))
    ngrams = words
    yield caption_of_word, ngrams
    for num_words in range(2, MAX_WORDS + 1):
        starts = np.flatnonzero(words_left >= num_words)
        longer = ngrams[starts] * len(numbers) + words[starts + num_words - 1]
        ngrams = np.zeros_like(words)
        ngrams[starts] = np.unique(longer, return_inverse=True)[1]
        yield caption_of_word[starts], ngrams[starts]


def _table(captions: np.ndarray, ngrams: np.ndarray, num_images: int, reference_images: np.ndarray) -> NgramTable:
    """Count the n-grams of predictions, which are the first captions, and of references."""
    num_ngrams = int(ngrams.max(initial=0)) + 1
    keys, counts = np.unique(captions * num_ngrams + ngrams, return_counts=True)
    captions, ngrams = np.divmod(keys, num_ngrams)
    middle = np.searchsorted(captions, num_images)
    predictions = NgramCounts(captions[:middle], ngrams[:middle], counts[:middle])
    references = NgramCounts(captions[middle:] - num_images, ngrams[middle:], counts[middle:])
    wanted = reference_images[references.captions] * num_ngrams + references.ngrams
    matches = np.searchsorted(keys[:middle], wanted)
    found = np.append(keys[:middle], -1)[matches] == wanted  # -1 for positions after the last one
    return NgramTable(predictions, references, np.where(found, matches, -1), num_ngrams)
