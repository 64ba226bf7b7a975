"""The embeddings of a whole table, as retrieval metrics take them."""

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
    """Embeddings of a table of I images with T captions in all, on the CPU.

    Args:
        image_embeds: `(I, D)`, unit length.
        text_embeds: `(T, D)`, unit length, in the order of the rows and of each row's captions.
        image_groups: `(I,)`, the row of each image.
        text_groups: `(T,)`, the row of each caption.
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
    """Embed every image and every caption of a table once; `retrieval_metrics(*embed_table(...))` scores them.

    Args:
        model: returns `image_embeds` and `text_embeds`; it runs where its weights are, in evaluation mode, and keeps
            its mode.
        processor: the model's.
        table: rows with `captions`, and an `image` or, for a model that takes them, its cached `vision_features`.
        batch_size: rows per forward pass.
        cache_dir: where the outputs of a dual encoder's towers are kept for a later call; not at all if not given.

    Raises:
        ValueError: the table lacks a column or has no rows, or the outputs of towers are to be kept that the model does
            not have.
    """
    for name in ("captions", "vision_features" if "vision_features" in table.column_names else "image"):
        check_can_encode(table, name)
    with evaluation_mode(model):
        if cache_dir is None:
            image_embeds, text_embeds = _from_rows(model, processor, table, batch_size)
        else:
            image_embeds, text_embeds = _from_features(model, processor, table, batch_size, cache_dir)
    rows = torch.arange(len(table))
    captions_of_row = torch.tensor([len(captions) for captions in table["captions"]])
    return TableEmbeddings(image_embeds.cpu(), text_embeds.cpu(), rows, rows.repeat_interleave(captions_of_row))


def _from_rows(
    model: PreTrainedModel, processor: ProcessorMixin, table: Dataset, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Some rows at a time, with all their captions."""
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


def _from_features(
    model: PreTrainedModel, processor: ProcessorMixin, table: Dataset, batch_size: int, cache_dir: str | Path
) -> tuple[Tensor, Tensor]:
    """All rows at once, from what the towers return, which is computed or read."""
    if not hasattr(model, "text_tower"):
        raise ValueError(f"cache_dir is for models of two towers, and {type(model).__name__} is none; leave it out")
    features = cache_image_features(model.vision_tower, processor, table, batch_size=batch_size, cache_dir=cache_dir)
    features = cache_text_features(model.text_tower, processor, features, batch_size=batch_size, cache_dir=cache_dir)
    outputs = model(
        image_pooled=torch.stack(list(features["image_pooled"])).to(model.device),
        text_pooled=torch.cat(list(features["text_pooled"])).to(model.device),
        return_loss=False,
    )
    return outputs.image_embeds, outputs.text_embeds
