"""CIDEr, with the values of pycocoevalcap. The literature also calls this variant CIDEr-D."""

import numpy as np

from vlmkit.metrics.ngrams import CaptionNgrams, NgramCounts, NgramTable

_SIGMA = 6.0  # of the length penalty


def cider(ngrams: CaptionNgrams) -> float:
    """Compute ten times the mean cosine similarity of tf-idf n-gram counts of predictions and references.

    Document frequencies are computed over the given references. The weight of an n-gram in a prediction is clipped to
    its weight in the reference. Each similarity is multiplied by exp(-d² / (2 · 6²)), where d is the difference in the
    number of bigrams.

    References:
        Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", arXiv:1411.5726; the variant
        CIDEr-D.
    """
    similarities = sum(_similarities(table, ngrams.reference_images) for table in ngrams.tables) / len(ngrams.tables)
    bigrams_predicted = np.maximum(ngrams.prediction_lengths - 1, 0)[ngrams.reference_images]
    difference = bigrams_predicted - np.maximum(ngrams.reference_lengths - 1, 0)
    similarities *= np.exp(-(difference**2) / (2 * _SIGMA**2))
    of_images = np.bincount(ngrams.reference_images, weights=similarities) / np.bincount(ngrams.reference_images)
    return 10 * float(of_images.mean())


def _similarities(table: NgramTable, reference_images: np.ndarray) -> np.ndarray:
    """Return `(R,)`, clipped cosine similarities of references and predictions for n-grams of one length."""
    num_images = int(reference_images[-1]) + 1
    idf = _inverse_document_frequencies(table, reference_images, num_images)
    predicted = table.predictions.counts * idf[table.predictions.ngrams]
    wanted = table.references.counts * idf[table.references.ngrams]
    norms = _norms(table.predictions, predicted, num_images)[reference_images]
    norms *= _norms(table.references, wanted, len(reference_images))
    found = table.matches >= 0
    products = np.minimum(predicted[table.matches[found]], wanted[found]) * wanted[found]
    dots = np.bincount(table.references.captions[found], weights=products, minlength=len(reference_images))
    return np.divide(dots, norms, out=np.zeros_like(norms), where=norms > 0)


def _inverse_document_frequencies(table: NgramTable, reference_images: np.ndarray, num_images: int) -> np.ndarray:
    """Return `(num_ngrams,)`, log(images / images with the n-gram in a reference), which are counted as at least 1."""
    images = reference_images[table.references.captions]
    pairs = np.sort(images * table.num_ngrams + table.references.ngrams)
    distinct = pairs[np.diff(pairs, prepend=-1) > 0]  # np.unique hashes, which takes ten times as long
    frequencies = np.bincount(distinct % table.num_ngrams, minlength=table.num_ngrams)
    return np.log(num_images / np.maximum(frequencies, 1))


def _norms(counts: NgramCounts, weights: np.ndarray, num_captions: int) -> np.ndarray:
    return np.sqrt(np.bincount(counts.captions, weights=weights**2, minlength=num_captions))
