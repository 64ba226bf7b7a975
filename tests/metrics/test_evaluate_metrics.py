import numpy as np
import pytest
from transformers import EvalPrediction

from vlmkit.metrics import caption_metrics, compute_retrieval_metrics, pair_metrics, vqa_accuracy
from vlmkit.metrics.evaluate_metrics import CaptionMetric, PairMetric, RetrievalMetric, VqaMetric


@pytest.fixture
def pairs():
    generator = np.random.default_rng(0)
    images = generator.standard_normal((6, 4), dtype=np.float32).repeat(2, axis=0)
    return {
        "image_embeds": images,
        "text_embeds": generator.standard_normal((12, 4), dtype=np.float32),
        "groups": np.arange(6).repeat(2),
    }


def expected(pairs, **options):
    return compute_retrieval_metrics(
        EvalPrediction((pairs["image_embeds"], pairs["text_embeds"]), pairs["groups"]), **options
    )


def test_at_once(pairs, tmp_path):
    assert RetrievalMetric(cache_dir=tmp_path).compute(**pairs, cutoffs=(1, 5)) == expected(pairs, cutoffs=(1, 5))


def test_batch_by_batch(pairs):
    metric = RetrievalMetric(keep_in_memory=True)
    for start in range(0, 12, 5):
        metric.add_batch(**{name: values[start : start + 5] for name, values in pairs.items()})
    assert metric.compute(cutoffs=[1, 5]) == expected(pairs, cutoffs=[1, 5])


def test_default_cutoffs_are_checked(pairs):
    with pytest.raises(ValueError, match=r"Cutoffs must be from 1 to 6, the number of candidates, but got 10"):
        RetrievalMetric(keep_in_memory=True).compute(**pairs)


def test_pairs_of_images_batch_by_batch():
    generator = np.random.default_rng(0)
    images, bank = generator.standard_normal((2, 9, 4), dtype=np.float32)
    ids = generator.permutation(9)
    metric = PairMetric(keep_in_memory=True)
    for start in range(0, 9, 4):
        metric.add_batch(image_embeds=images[start : start + 4], caption_ids=ids[start : start + 4])
    ours = metric.compute(caption_embeds=bank, num_classes=3, cutoffs=[1, 5])
    assert ours == pair_metrics(images, bank, caption_ids=ids, num_classes=3, cutoffs=(1, 5))


def test_default_cutoffs_of_pairs_are_checked():
    with pytest.raises(ValueError, match=r"Cutoffs must be from 1 to 4, the number of candidates, but got 10"):
        PairMetric(keep_in_memory=True).compute(
            image_embeds=np.eye(4), caption_ids=np.arange(4), caption_embeds=np.eye(4), num_classes=2
        )


def test_captions_batch_by_batch():
    predictions = ["A dog.", "two boats", ""]
    references = [["a dog runs", "one dog"], ["red boats"], ["a cat", "the cat", "cats"]]
    metric = CaptionMetric(keep_in_memory=True)
    metric.add_batch(predictions=predictions[:2], references=references[:2])
    metric.add(prediction=predictions[2], reference=references[2])
    assert metric.compute() == caption_metrics(predictions, references)


def test_captions_at_once(tmp_path):
    captions = {"predictions": ["a dog", "a cat"], "references": [["a dog"], ["the cat"]]}
    assert CaptionMetric(cache_dir=tmp_path).compute(**captions, tokenizer="simple") == caption_metrics(**captions)
    with pytest.raises(ValueError, match=r"`tokenizer` must be one of 'simple', 'ptb', but got 'java'"):
        CaptionMetric(keep_in_memory=True).compute(**captions, tokenizer="java")


@pytest.mark.parametrize(
    "references", [["yes", "three", "cat"], [["yes", "no"], ["2"], ["cat"] * 9 + ["dog"]]], ids=["one", "several"]
)
def test_answers_batch_by_batch(references):
    predictions = ["Yes", "two", "a dog"]
    metric = VqaMetric(keep_in_memory=True)
    metric.add_batch(predictions=predictions[:2], references=references[:2])
    metric.add(prediction=predictions[2], reference=references[2])
    assert metric.compute() == vqa_accuracy(predictions, references)


def test_answers_at_once(tmp_path):
    answers = {"predictions": ["yes", "two"], "references": ["yes", "three"]}
    assert VqaMetric(cache_dir=tmp_path).compute(**answers) == vqa_accuracy(*answers.values())
