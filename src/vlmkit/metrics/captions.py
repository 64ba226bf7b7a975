"""Caption metrics: BLEU, ROUGE-L and CIDEr without Java, with the values of pycocoevalcap."""

import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal, TypeAlias

import numpy as np

from vlmkit.metrics import ptb
from vlmkit.metrics.bleu import bleu
from vlmkit.metrics.caption_tokenizer import tokenize
from vlmkit.metrics.cider import cider
from vlmkit.metrics.inputs import check_list, check_strings
from vlmkit.metrics.ngrams import Words, count_ngrams
from vlmkit.metrics.rouge import rouge_l
from vlmkit.validation import check_choice

Tokenizer: TypeAlias = Literal["simple", "ptb"]
_ADVICE = "give one prediction and one list of references per image"


def caption_metrics(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: Tokenizer = "simple"
) -> dict[str, float]:
    """BLEU, ROUGE-L and CIDEr of one predicted caption per image against the image's reference captions.

    On the same words, the values are those of pycocoevalcap. The tokenizer "simple" reads English, needs no Java, and
    leaves captions that are tokenized already as they are. "ptb" runs pycocoevalcap's own tokenizer, METEOR and SPICE,
    which needs Java and the extra `vlmkit[ptb]`.

    CIDEr takes its document frequencies from the references given: it only compares models on the same test set, and is
    0 for a single image. A prediction without words scores 0.

    Args:
        predictions: one caption per image.
        references: one or more captions per image, not necessarily as many for each.
        tokenizer: "simple" or "ptb".

    Returns:
        `bleu_1` to `bleu_4` (of the whole test set) and `rouge_l` (the mean over images), which are fractions, and
        `cider` (the mean over images), from 0 to 10. With "ptb" also the fractions `meteor` and, where SPICE's models
        are installed, `spice`.

    Raises:
        TypeError: a caption is not a string, or a string or a dictionary stands where a list should.
        ValueError: the predictions are empty, or not as many as the lists of references; an image has no reference; a
            reference has no words; the tokenizer is unknown.
        ImportError: "ptb" without pycocoevalcap.
        FileNotFoundError: "ptb" without Java.

    Example:
        >>> predictions = ["A dog runs on the beach.", "two people in a boat"]
        >>> references = [["A brown dog runs on the sand.", "A dog on a beach."], ["Two people are in a red boat."]]
        >>> scores = caption_metrics(predictions, references)
        >>> round(scores["bleu_4"], 4), round(scores["rouge_l"], 4), round(scores["cider"], 4)
        (0.4034, 0.8112, 3.3048)
    """
    check_choice("tokenizer", tokenizer, ("simple", "ptb"))
    _check_captions(predictions, references)
    if tokenizer == "ptb":
        ptb.check_installed()
    if len(predictions) == 1:
        warnings.warn(
            "CIDEr of a single image is 0, because its document frequencies come from the references; evaluate a whole "
            "test set at once",
            stacklevel=2,
        )
    predicted, wanted = _words(predictions, references, tokenizer)
    _check_words(wanted, references)
    ngrams = count_ngrams(predicted, wanted)
    metrics = {f"bleu_{order}": score for order, score in enumerate(bleu(ngrams), start=1)}
    metrics["rouge_l"] = float(np.mean([rouge_l(*captions) for captions in zip(predicted, wanted, strict=True)]))
    metrics["cider"] = cider(ngrams)
    return metrics | ptb.java_metrics(predicted, wanted) if tokenizer == "ptb" else metrics


def _check_captions(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    check_list("predictions", predictions, advice=_ADVICE)
    check_list("references", references, advice=_ADVICE)
    if len(predictions) == 0 or len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions and {len(references)} lists of references; give one of each per image, "
            "for at least one image"
        )
    check_strings("predictions", predictions, kind="caption")
    for image, captions in enumerate(references):
        name = f"references[{image}]"
        check_list(name, captions, advice=_ADVICE)
        if len(captions) == 0:
            raise ValueError(f"{name} is empty; give the image a reference or leave it out")
        check_strings(name, captions, kind="caption")


def _words(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: Tokenizer
) -> tuple[list[Words], list[list[Words]]]:
    """Tokenized predictions and references."""
    captions = [*predictions, *chain.from_iterable(references)]
    words: Iterator[Words] = iter(ptb.tokenize(captions) if tokenizer == "ptb" else map(tokenize, captions))
    return [next(words) for _ in predictions], [[next(words) for _ in captions] for captions in references]


def _check_words(wanted: Sequence[Sequence[Words]], references: Sequence[Sequence[str]]) -> None:
    for image, captions in enumerate(wanted):
        for index, words in enumerate(captions):
            if not words:
                raise ValueError(
                    f"references[{image}][{index}] is {references[image][index]!r}, which has no words; leave it out"
                )
