"""Metrics as classes of the `evaluate` library, which `pip install 'vlmkit[metrics]'` installs.

Create the classes directly instead of with `evaluate.load`, which needs a network connection.
"""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from transformers import EvalPrediction

from vlmkit.metrics.captions import Tokenizer, caption_metrics
from vlmkit.metrics.inputs import Array
from vlmkit.metrics.pairs import pair_metrics
from vlmkit.metrics.retrieval import compute_retrieval_metrics
from vlmkit.metrics.vqa import vqa_accuracy


class RetrievalMetric(evaluate.Metric):
    """Retrieval metrics of image-text pairs that are added batch by batch.

    Each pair consists of an image embedding `(D,)`, a text embedding `(D,)` and an integer group, equal for captions of
    the same image. `compute` takes `cutoffs` and returns the metrics of [`compute_retrieval_metrics`]. With
    `keep_in_memory=True`, no cache file is written.

    Example:
        >>> metric = RetrievalMetric(keep_in_memory=True)
        >>> metric.add_batch(image_embeds=np.eye(3), text_embeds=np.eye(3), groups=[0, 1, 2])
        >>> metric.compute(cutoffs=[1])["mean_recall@1"]
        1.0
    """

    def _info(self) -> evaluate.MetricInfo:
        embedding = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description="Recall, precision, mean average precision and median rank of image-text retrieval.",
            citation="",
            inputs_description="One image embedding, text embedding and group per pair.",
            features=datasets.Features(
                {"image_embeds": embedding, "text_embeds": embedding, "groups": datasets.Value("int64")}
            ),
        )

    def _compute(
        self,
        image_embeds: Sequence[Sequence[float]],
        text_embeds: Sequence[Sequence[float]],
        groups: Sequence[int],
        cutoffs: Sequence[int] = (1, 5, 10),
    ) -> dict[str, float]:
        embeds = np.asarray(image_embeds, dtype=np.float32), np.asarray(text_embeds, dtype=np.float32)
        return compute_retrieval_metrics(EvalPrediction(predictions=embeds, label_ids=np.asarray(groups)), cutoffs)


class PairMetric(evaluate.Metric):
    """Metrics of paired images that are added batch by batch.

    Each pair consists of an image embedding `(D,)` and the integer id of its caption. `compute` takes `caption_embeds`,
    `num_classes` and `cutoffs`, and returns the metrics of [`pair_metrics`]. With `keep_in_memory=True`, no cache file
    is written.

    Example:
        >>> metric = PairMetric(keep_in_memory=True)
        >>> metric.add_batch(image_embeds=np.eye(4), caption_ids=[0, 1, 2, 3])
        >>> metric.compute(caption_embeds=np.eye(4), num_classes=2, cutoffs=[1])["top@1"]
        1.0
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Rank of the caption of paired images among the captions of all pairs of classes.",
            citation="",
            inputs_description="One image embedding and caption id per pair.",
            features=datasets.Features(
                {"image_embeds": datasets.Sequence(datasets.Value("float32")), "caption_ids": datasets.Value("int64")}
            ),
        )

    def _compute(
        self,
        image_embeds: Sequence[Sequence[float]],
        caption_ids: Sequence[int],
        caption_embeds: Array,
        num_classes: int,
        cutoffs: Sequence[int] = (1, 10, 100),
    ) -> dict[str, float]:
        images = np.asarray(image_embeds, dtype=np.float32)
        return pair_metrics(
            images, caption_embeds, caption_ids=np.asarray(caption_ids), num_classes=num_classes, cutoffs=cutoffs
        )


class CaptionMetric(evaluate.Metric):
    """BLEU, ROUGE-L and CIDEr of predictions and references that are added batch by batch.

    `compute` takes `tokenizer` and returns the metrics of [`caption_metrics`]. With `keep_in_memory=True`, no cache
    file is written.

    Example:
        >>> metric = CaptionMetric(keep_in_memory=True)
        >>> metric.add_batch(predictions=["a dog", "a red boat"], references=[["a dog"], ["a boat", "the red boat"]])
        >>> round(metric.compute()["bleu_1"], 6)
        1.0
    """

    def _info(self) -> evaluate.MetricInfo:
        caption = datasets.Value("string")
        return evaluate.MetricInfo(
            description="BLEU, ROUGE-L and CIDEr of captions, with the values of pycocoevalcap.",
            citation="",
            inputs_description="One predicted caption and a list of reference captions per image.",
            features=datasets.Features({"predictions": caption, "references": datasets.Sequence(caption)}),
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: Tokenizer = "simple"
    ) -> dict[str, float]:
        return caption_metrics(predictions, references, tokenizer=tokenizer)


class VqaMetric(evaluate.Metric):
    """Accuracy of answers to questions about images that are added batch by batch.

    The reference of a question is the correct answer, or a list of answers of several people. `compute` returns the
    metrics of [`vqa_accuracy`]. With `keep_in_memory=True`, no cache file is written.

    Example:
        >>> metric = VqaMetric(keep_in_memory=True)
        >>> metric.add_batch(predictions=["Yes", "a dog"], references=["yes", "cat"])
        >>> metric.compute()
        {'accuracy': 0.5, 'accuracy/yes_no': 1.0, 'accuracy/other': 0.0}
    """

    def _info(self) -> evaluate.MetricInfo:
        answer = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Accuracy of answers to questions about images, with the normalization of VQA.",
            citation="",
            inputs_description="One predicted answer and a correct answer, or a list of answers, per question.",
            features=[
                datasets.Features({"predictions": answer, "references": datasets.Sequence(answer)}),
                datasets.Features({"predictions": answer, "references": answer}),
            ],
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict[str, float]:
        return vqa_accuracy(predictions, references)
