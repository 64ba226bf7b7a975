"""Compare the run time of vlmkit's caption metrics with pycocoevalcap on a full test set.

    python benchmarks/caption_metrics.py

Captions are random words with the word frequencies of natural language. Both implementations score the same captions in
the same process on one thread. The time of vlmkit includes tokenization. METEOR and SPICE of pycocoevalcap are Java
programs and are not measured.
"""

import argparse
import time

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from vlmkit.metrics import caption_metrics

VOCABULARY = 10_000


def random_captions(num_captions: int, generator: np.random.Generator) -> list[str]:
    """Return captions of about ten words. Word frequencies follow Zipf's law: rank n has a frequency of about 1 / n."""
    frequencies = 1 / np.arange(1, VOCABULARY + 1)
    lengths = generator.integers(8, 14, num_captions)
    words = generator.choice(VOCABULARY, lengths.sum(), p=frequencies / frequencies.sum())
    return [" ".join(f"w{word}" for word in caption) for caption in np.split(words, lengths.cumsum()[:-1])]


def pycocoevalcap_metrics(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """Compute BLEU, ROUGE-L and CIDEr of tokenized captions with pycocoevalcap."""
    wanted, predicted = dict(enumerate(references)), {image: [caption] for image, caption in enumerate(predictions)}
    metrics = {f"bleu_{n}": s for n, s in enumerate(Bleu(4).compute_score(wanted, predicted, verbose=0)[0], start=1)}
    metrics["rouge_l"], _ = Rouge().compute_score(wanted, predicted)
    metrics["cider"], _ = Cider().compute_score(wanted, predicted)
    return metrics


def main() -> None:
    """Score random captions with both implementations and print their run times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--num_images", type=int, default=40_000, help="Number of images, each with one predicted caption."
    )
    parser.add_argument("--num_references", type=int, default=5, help="Number of reference captions per image.")
    arguments = parser.parse_args()

    generator = np.random.default_rng(0)
    predictions = random_captions(arguments.num_images, generator)
    captions = random_captions(arguments.num_images * arguments.num_references, generator)
    references = [captions[image :: arguments.num_images] for image in range(arguments.num_images)]

    results, seconds = [], []
    for metrics in (caption_metrics, pycocoevalcap_metrics):
        start = time.perf_counter()
        results.append(metrics(predictions, references))
        seconds.append(time.perf_counter() - start)
    ours, theirs = results
    difference = max(abs(ours[name] - theirs[name]) for name in theirs)
    print(f"{arguments.num_images:,} predictions, {arguments.num_references} references each")
    print(f"vlmkit {seconds[0]:.1f} s, pycocoevalcap {seconds[1]:.1f} s: {seconds[1] / seconds[0]:.1f} times as long")
    print(f"largest difference between metrics: {difference:.1e}")


if __name__ == "__main__":
    main()
