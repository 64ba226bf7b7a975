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
_ADVICE = "Pass one prediction and one list of references for each image."


def caption_metrics(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: Tokenizer = "simple"
) -> dict[str, float]:
    """Compute BLEU, ROUGE-L and CIDEr of predicted captions, with the values of pycocoevalcap.

    CIDEr weighs n-grams by their frequency in the given references. It is only comparable on the same test set, and is
    0 for a single image. Report CIDEr and BLEU-4 to compare with published captioning models; ROUGE-L and METEOR
    correlate less with human judgment. A prediction without words scores 0.

    Args:
        predictions: One caption for each image.
        references: One or more captions for each image. Their numbers may differ.
        tokenizer: `"simple"` for a tokenizer of English in Python, or `"ptb"` for the tokenizer of pycocoevalcap, which
            needs Java and `vlmkit[ptb]` and adds METEOR and SPICE.

    Returns:
        `bleu_1` to `bleu_4` (over the whole test set) and `rouge_l` (mean over images) from 0 to 1, and `cider` (mean
        over images) from 0 to 10. With `"ptb"` also `meteor` and, if its models are installed, `spice`, from 0 to 1.

    Raises:
        TypeError: If a caption is not a string, or a string or dictionary is passed instead of a list.
        ValueError: If `predictions` is empty, the numbers of predictions and lists of references differ, an image lacks
            references, a reference does not contain a word, or `tokenizer` is unknown.
        ImportError: If `tokenizer` is `"ptb"` and pycocoevalcap is not installed.
        FileNotFoundError: If `tokenizer` is `"ptb"` and Java is not installed.

    References:
        Papineni et al., "BLEU" (ACL 2002); Lin, "ROUGE" (ACL workshop 2004); Vedantam et al., "CIDEr"
        (arXiv:1411.5726).

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
            "CIDEr of a single image is always 0, because it weighs n-grams by their frequency in the references. "
            "Evaluate a whole test set at once.",
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
            f"`predictions` and `references` must have the same length of at least 1, but got {len(predictions)} and "
            f"{len(references)}. {_ADVICE}"
        )
    check_strings("predictions", predictions, kind="caption")
    for image, captions in enumerate(references):
        name = f"references[{image}]"
        check_list(name, captions, advice=_ADVICE)
        if len(captions) == 0:
            raise ValueError(f"`{name}` must not be empty. Add a reference, or remove the image.")
        check_strings(name, captions, kind="caption")


def _words(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: Tokenizer
) -> tuple[list[Words], list[list[Words]]]:
    """Tokenize predictions and references."""
    captions = [*predictions, *chain.from_iterable(references)]
    words: Iterator[Words] = iter(ptb.tokenize(captions) if tokenizer == "ptb" else map(tokenize, captions))
    return [next(words) for _ in predictions], [[next(words) for _ in captions] for captions in references]


def _check_words(wanted: Sequence[Sequence[Words]], references: Sequence[Sequence[str]]) -> None:
    for image, captions in enumerate(wanted):
        for index, words in enumerate(captions):
            if not words:
                raise ValueError(
                    f"`references[{image}][{index}]` must contain a word, but got {references[image][index]!r}. "
                    "Remove it."
                )
