"""Embeddings of all images and captions of a dataset."""

from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from vlmkit.data.batch_columns import stack_features
from vlmkit.inference.evaluation_mode import evaluation_mode
from vlmkit.inference.feature_cache import cache_image_features, cache_text_features, check_can_encode


class TableEmbeddings(NamedTuple):
    """Embeddings of a dataset with I images and T captions in total, on the CPU.

    Args:
        image_embeds: Image embeddings of unit length, `(I, D)`.
        text_embeds: Caption embeddings of unit length, `(T, D)`, in the order of the rows and of the captions in a row.
        image_groups: Row of each image, `(I,)`.
        text_groups: Row of each caption, `(T,)`.

    Example:
        >>> from vlmkit.metrics import retrieval_metrics
        >>> rows = torch.arange(2)
        >>> embeddings = TableEmbeddings(torch.eye(2), torch.eye(2), image_groups=rows, text_groups=rows)
        >>> retrieval_metrics(*embeddings, cutoffs=(1,))["image_to_text/recall@1"]
        1.0
    """

    image_embeds: Tensor
    text_embeds: Tensor
    image_groups: Tensor
    text_groups: Tensor


@torch.no_grad()
def embed_table(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    table: Dataset,
    *,
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
) -> TableEmbeddings:
    """Compute the embeddings of all images and captions of a dataset.

    Evaluate them with `retrieval_metrics(*embed_table(...))`.

    Args:
        model: Model that returns `image_embeds` and `text_embeds`, such as [`DualEncoderModel`]. It runs on its current
            device in evaluation mode, and its mode is restored afterwards.
        processor: Processor of the model.
        table: Dataset with the columns `captions`, a list of strings, and `image`. If there is a column
            `vision_features` (see [`cache_vision_features`]), it is used in place of `image`.
        batch_size: Number of rows per forward pass, with all of their captions. Default: 64.
        cache_dir: Directory for cached tower outputs of a dual encoder. Nothing is cached if `None`.

    Returns:
        Embeddings of unit length and their rows, see [`TableEmbeddings`].

    Raises:
        ValueError: If `table` lacks a column or is empty, or `cache_dir` is set for a model without a text tower.

    Example:
        >>> from vlmkit import DualEncoderModel, DualEncoderProcessor
        >>> model = DualEncoderModel.from_pretrained("my-org/dual-encoder")  # doctest: +SKIP
        >>> processor = DualEncoderProcessor.from_pretrained("my-org/dual-encoder")  # doctest: +SKIP
        >>> embeddings = embed_table(model, processor, table)  # doctest: +SKIP
    """
    for name in ("captions", "vision_features" if "vision_features" in table.column_names else "image"):
        check_can_encode(table, name)
    with evaluation_mode(model):
        if cache_dir is None:
            image_embeds, text_embeds = _embed_rows(model, processor, table, batch_size)
        else:
            image_embeds, text_embeds = _embed_cached_features(model, processor, table, batch_size, cache_dir)
    rows = torch.arange(len(table))
    captions_of_row = torch.tensor([len(captions) for captions in table["captions"]])
    return TableEmbeddings(image_embeds.cpu(), text_embeds.cpu(), rows, rows.repeat_interleave(captions_of_row))


def _embed_rows(
    model: PreTrainedModel, processor: ProcessorMixin, table: Dataset, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Embed images and captions in batches of rows."""
    cached = "vision_features" in table.column_names
    columns = table.select_columns(["vision_features" if cached else "image", "captions"])
    image_embeds, text_embeds = [], []
    for start in range(0, len(table), batch_size):
        rows = columns[start : start + batch_size]
        texts = list(chain.from_iterable(rows["captions"]))
        if cached:
            inputs = processor(text=texts, return_tensors="pt")
            inputs["vision_features"] = stack_features(rows["vision_features"])
        else:
            inputs = processor(images=rows["image"], text=texts, return_tensors="pt")
        outputs = model(**inputs.to(model.device, model.dtype), return_loss=False)
        image_embeds.append(outputs.image_embeds)
        text_embeds.append(outputs.text_embeds)
    return torch.cat(image_embeds), torch.cat(text_embeds)


def _embed_cached_features(
    model: PreTrainedModel, processor: ProcessorMixin, table: Dataset, batch_size: int, cache_dir: str | Path
) -> tuple[Tensor, Tensor]:
    """Embed all rows at once from the cached outputs of the towers, which are computed if they are missing.

    Raises:
        ValueError: If the model does not have a text tower.
    """
    if not hasattr(model, "text_tower"):
        raise ValueError(
            f"`cache_dir` must be `None` for {type(model).__name__}, which does not have a text tower, but got "
            f"{str(cache_dir)!r}."
        )
    features = cache_image_features(model.vision_tower, processor, table, batch_size=batch_size, cache_dir=cache_dir)
    features = cache_text_features(model.text_tower, processor, features, batch_size=batch_size, cache_dir=cache_dir)
    outputs = model(
        image_pooled=torch.stack(list(features["image_pooled"])).to(model.device),
        text_pooled=torch.cat(list(features["text_pooled"])).to(model.device),
        return_loss=False,
    )
    return outputs.image_embeds, outputs.text_embeds
