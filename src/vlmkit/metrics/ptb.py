"""Java programs of pycocoevalcap: the Penn Treebank tokenizer, METEOR and SPICE."""

import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path

from vlmkit.metrics.ngrams import Words


def check_installed() -> None:
    """Check that pycocoevalcap and Java are installed.

    Raises:
        ImportError: If pycocoevalcap is not installed.
        FileNotFoundError: If Java is not installed.
    """
    try:
        import pycocoevalcap  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "`tokenizer='ptb'` needs pycocoevalcap. Run `pip install 'vlmkit[ptb]'`, or use `tokenizer='simple'`."
        ) from error
    if shutil.which("java") is None:
        raise FileNotFoundError(
            "`tokenizer='ptb'` runs Java programs, but `java` was not found on the PATH. Install a Java runtime, or "
            "use `tokenizer='simple'`."
        )


def tokenize(captions: Sequence[str]) -> list[list[str]]:
    """Split captions into words with the Penn Treebank tokenizer of Stanford CoreNLP 3.4.1, without punctuation."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # The program reads one caption per line: a separator such as U+2028 would shift all later captions.
    lines = [" ".join(caption.split()) for caption in captions]
    tokenized = PTBTokenizer().tokenize({index: [{"caption": line}] for index, line in enumerate(lines)})
    return [tokenized[index][0].split() for index in range(len(lines))]


def java_metrics(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> dict[str, float]:
    """Compute METEOR and SPICE of tokenized captions. A warning gives the reason if SPICE cannot be computed."""
    from pycocoevalcap.meteor.meteor import Meteor

    predicted = {image: [" ".join(words)] for image, words in enumerate(predictions)}
    wanted = {image: [" ".join(words) for words in captions] for image, captions in enumerate(references)}
    meteor, _ = Meteor().compute_score(wanted, predicted)
    return {"meteor": meteor, **_spice(predicted, wanted)}


def _spice(predicted: dict[int, list[str]], wanted: dict[int, list[str]]) -> dict[str, float]:
    """Compute SPICE, or return an empty dictionary with a warning."""
    from pycocoevalcap.spice import spice

    # pycocoevalcap would download missing models.
    models = Path(spice.__file__).parent / "lib/stanford-corenlp-3.6.0-models.jar"
    if not models.exists():
        warnings.warn(
            f"SPICE is not computed, because {models} is missing. Run "
            "`python -m pycocoevalcap.spice.get_stanford_models` to download it.",
            stacklevel=4,
        )
        return {}
    try:
        score, _ = spice.Spice().compute_score(wanted, predicted)
    except subprocess.CalledProcessError as error:
        warnings.warn(f"SPICE is not computed, because its program, written for Java 8, failed: {error}", stacklevel=4)
        return {}
    return {"spice": float(score)}
