"""The parts of pycocoevalcap that are Java programs: its tokenizer, METEOR and SPICE."""

import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path

from vlmkit.metrics.ngrams import Words


def check_installed() -> None:
    """Check that pycocoevalcap and Java are there.

    Raises:
        ImportError: pycocoevalcap is not installed.
        FileNotFoundError: there is no Java.
    """
    try:
        import pycocoevalcap  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "tokenizer 'ptb' needs pycocoevalcap: pip install 'vlmkit[ptb]', or choose 'simple'"
        ) from error
    if shutil.which("java") is None:
        raise FileNotFoundError(
            "tokenizer 'ptb' runs Java programs, and there is no `java` on the PATH: install a Java runtime, or choose "
            "'simple'"
        )


def tokenize(captions: Sequence[str]) -> list[list[str]]:
    """Words of each caption, by the Penn Treebank tokenizer of Stanford CoreNLP 3.4.1, without punctuation."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # One caption is one line: a separator such as U+2028 in it would move all later captions to other images.
    lines = [" ".join(caption.split()) for caption in captions]
    tokenized = PTBTokenizer().tokenize({index: [{"caption": line}] for index, line in enumerate(lines)})
    return [tokenized[index][0].split() for index in range(len(lines))]


def java_metrics(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> dict[str, float]:
    """`meteor` and `spice` of tokenized captions; a warning says why if `spice` is left out."""
    from pycocoevalcap.meteor.meteor import Meteor

    predicted = {image: [" ".join(words)] for image, words in enumerate(predictions)}
    wanted = {image: [" ".join(words) for words in captions] for image, captions in enumerate(references)}
    meteor, _ = Meteor().compute_score(wanted, predicted)
    return {"meteor": meteor, **_spice(predicted, wanted)}


def _spice(predicted: dict[int, list[str]], wanted: dict[int, list[str]]) -> dict[str, float]:
    """`spice`, or nothing and a warning."""
    from pycocoevalcap.spice import spice

    # Without these, pycocoevalcap would start a long download.
    models = Path(spice.__file__).parent / "lib/stanford-corenlp-3.6.0-models.jar"
    if not models.exists():
        warnings.warn(
            f"`spice` is left out: {models} is missing; `python -m pycocoevalcap.spice.get_stanford_models` gets it",
            stacklevel=4,
        )
        return {}
    try:
        score, _ = spice.Spice().compute_score(wanted, predicted)
    except subprocess.CalledProcessError as error:
        warnings.warn(f"`spice` is left out: its program, written for Java 8, failed: {error}", stacklevel=4)
        return {}
    return {"spice": float(score)}
