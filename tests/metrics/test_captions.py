import json
import math
import random
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from vlmkit.metrics import caption_metrics
from vlmkit.metrics.caption_tokenizer import tokenize

GOLDEN = Path(__file__).parents[1] / "golden/coco_captions.json"
KEYS = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]
TWO = {"predictions": ["a dog", "a cat"], "references": [["a dog runs"], ["the cat", "one black cat"]]}


@pytest.fixture(scope="module")
def golden():
    """300 captions of COCO against the other four, with the words and scores of pycocoevalcap."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def random_captions(generator, num_captions, shortest):
    """Captions of few different words, so that much is repeated and much matches."""
    return [" ".join(generator.choices("abcdefgh", k=generator.randint(shortest, 12))) for _ in range(num_captions)]


class TestAgainstPycocoevalcap:
    def test_recorded_scores_on_the_same_words(self, golden):
        metrics = caption_metrics(golden["tokenized_predictions"], golden["tokenized_references"])
        assert metrics == pytest.approx({key: golden["scores"][key] for key in KEYS}, rel=1e-9)

    def test_recorded_scores_of_raw_captions(self, golden):
        metrics = caption_metrics(golden["predictions"], golden["references"])
        assert metrics == pytest.approx({key: golden["scores"][key] for key in KEYS}, rel=1e-9)

    def test_recorded_words(self, golden):
        for raw, tokenized in (
            (golden["predictions"], golden["tokenized_predictions"]),
            (chain(*golden["references"]), list(chain(*golden["tokenized_references"]))),
        ):
            assert [" ".join(tokenize(caption)) for caption in raw] == tokenized
            assert [" ".join(tokenize(caption)) for caption in tokenized] == tokenized

    @pytest.mark.parametrize("num_images", [2, 40])
    @pytest.mark.parametrize("seed", range(5))
    def test_scorers_on_random_words(self, num_images, seed):
        pytest.importorskip("pycocoevalcap", reason="the extra vlmkit[ptb] is not installed")
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        generator = random.Random(seed)
        predictions = random_captions(generator, num_images, shortest=0)
        references = [random_captions(generator, generator.randint(1, 5), shortest=1) for _ in range(num_images)]
        wanted, predicted = dict(enumerate(references)), {i: [caption] for i, caption in enumerate(predictions)}
        scores = [*Bleu(4).compute_score(wanted, predicted, verbose=0)[0]]
        scores += [scorer.compute_score(wanted, predicted)[0] for scorer in (Rouge(), Cider())]
        assert caption_metrics(predictions, references) == pytest.approx(
            dict(zip(KEYS, scores, strict=True)), rel=1e-9, abs=1e-12
        )


class TestClosedForm:
    def test_perfect_captions(self):
        captions = ["a dog runs on sand", "two red boats at sea"]
        metrics = caption_metrics(captions, [[caption] for caption in captions])
        assert metrics == pytest.approx(dict.fromkeys(KEYS[:-1], 1.0) | {"cider": 10.0})

    def test_no_word_in_common(self):
        metrics = caption_metrics(["x y", "z"], [["a dog runs"], ["the cat"]])
        assert metrics == pytest.approx(dict.fromkeys(KEYS, 0.0), abs=1e-9)

    def test_bleu_clips_counts_and_penalizes_brevity(self):
        # "the" counts twice, as often as in the first reference; of the reference lengths, 7 is closest to 6.
        metrics = caption_metrics(
            ["the the the the the the", "a b c"], [["the cat is on the mat now", "the cat"], ["a b c"]]
        )
        assert metrics["bleu_1"] == pytest.approx((2 + 3) / 9 * math.exp(1 - 10 / 9))
        assert metrics["bleu_2"] == pytest.approx(math.sqrt(5 / 9 * 2 / 7) * math.exp(1 - 10 / 9))

    def test_bleu_takes_the_shorter_of_two_references_that_are_equally_close(self):
        metrics = caption_metrics(["a b c"] * 2, [["a b c d", "a b"]] * 2)
        assert metrics["bleu_1"] == pytest.approx(1.0)

    def test_rouge_combines_the_best_precision_and_the_best_recall(self):
        # Common subsequences: "a c" of 3 words predicted and 6 wanted, and "b" of 1 word wanted.
        metrics = caption_metrics(["a b c", "x"], [["a d c e f g", "b"], ["y"]])
        precision, recall = 2 / 3, 1
        assert metrics["rouge_l"] == pytest.approx(
            (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision) / 2
        )

    def test_cider_by_hand(self):
        # Every n-gram has the weight log 2. Image 0: "a b" against "a c", unigrams cos = 1/2, no bigram in common.
        metrics = caption_metrics(["a b", "z"], [["a c"], ["y"]])
        assert metrics["cider"] == pytest.approx(10 * (1 / 2) / 4 / 2)

    def test_cider_clips_repeated_words(self):
        # Unigrams: "a" counts twice in the prediction and once in the reference, so once; norms 2 and sqrt(2).
        metrics = caption_metrics(["a a", "z"], [["a b"], ["y"]])
        assert metrics["cider"] == pytest.approx(10 / (2 * math.sqrt(2)) / 4 / 2)

    def test_cider_penalizes_the_difference_in_length(self):
        # Unigrams: cos("a", "a b c d e") = 1 / sqrt(5); 0 and 4 bigrams.
        metrics = caption_metrics(["a", "z"], [["a b c d e"], ["y"]])
        assert metrics["cider"] == pytest.approx(10 / math.sqrt(5) * math.exp(-(4**2) / (2 * 6**2)) / 4 / 2)

    def test_words_of_every_image_add_nothing_to_cider(self):
        assert caption_metrics(["a", "a"], [["a"], ["a"]])["cider"] == 0.0

    def test_the_order_of_images_does_not_matter(self, golden):
        forward = caption_metrics(golden["predictions"], golden["references"])
        backward = caption_metrics(golden["predictions"][::-1], golden["references"][::-1])
        assert forward == pytest.approx(backward)

    def test_a_prediction_without_words_scores_nothing(self):
        metrics = caption_metrics(["...", "two boats"], [["a dog"], ["two boats"]])
        assert metrics["rouge_l"] == 0.5
        assert metrics["cider"] == pytest.approx(10 * (1 + 1) / 4 / 2)
        assert caption_metrics(["", ""], [["a dog"], ["a cat"]]) == dict.fromkeys(KEYS, 0.0)


class TestInput:
    def test_single_image_is_warned_of(self):
        with pytest.warns(UserWarning, match="CIDEr of a single image is always 0"):
            metrics = caption_metrics(["a dog"], [["a dog"]])
        assert metrics["cider"] == 0.0
        assert metrics["bleu_2"] == pytest.approx(1.0)

    def test_arrays_and_tuples(self):
        arrays = caption_metrics(np.array(TWO["predictions"]), tuple(map(tuple, TWO["references"])))
        assert arrays == caption_metrics(**TWO)
        assert all(type(value) is float for value in arrays.values())

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"predictions": [], "references": []}, ValueError, r"`predictions` and `references` must have the same"),
            ({"predictions": ["a dog"]}, ValueError, r"`predictions` and `references` must have the same length of"),
            ({"references": [["a dog"], []]}, ValueError, r"`references\[1\]` must not be empty"),
            ({"references": [["a dog"], ["a", " ..."]]}, ValueError, r"`references\[1\]\[1\]` must contain a word,"),
            ({"predictions": "a dog"}, TypeError, r"`predictions` must be a list, but got 'a dog'"),
            ({"references": "a dog"}, TypeError, r"`references` must be a list, but got 'a dog'"),
            ({"references": ["a dog", "a cat"]}, TypeError, r"`references\[0\]` must be a list, but got 'a dog'"),
            ({"references": [["a dog"], None]}, TypeError, r"`references\[1\]` must be a list, but got None"),
            ({"predictions": {"1.jpg": ["a dog"]}}, TypeError, r"`predictions` must be a list, but got \{'1\.jpg':"),
            ({"predictions": ["a dog", None]}, TypeError, r"`predictions\[1\]` must be a string, but got None"),
            ({"references": [["a dog"], [7]]}, TypeError, r"`references\[1\]\[0\]` must be a string, but got 7"),
            ({"tokenizer": "ptp"}, ValueError, "`tokenizer` must be one of .*, but got 'ptp'. Did you mean 'ptb'?"),
        ],
    )  # fmt: skip
    def test_errors_name_the_value_and_the_way_out(self, changes, error, message):
        with pytest.raises(error, match=message):
            caption_metrics(**{**TWO, **changes})
