"""The embeddings of a whole table, as retrieval metrics take them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from vlmkit.training.feature_cache import cache_image_features, cache_text_features


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
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
) -> TableEmbeddings:
    """Embed every image and every caption of a table once; `retrieval_metrics(*embed_table(...))` scores them.

    Args:
        model: a dual encoder; it runs where its weights are, in evaluation mode, and keeps its mode.
        processor: the model's.
        table: rows with `image` and `captions`.
        batch_size: rows per forward pass.
        cache_dir: where the towers' outputs are kept for a later call; not at all if not given.

    Raises:
        ValueError: the table lacks a column.
    """
    with TemporaryDirectory() as folder:
        place = folder if cache_dir is None else cache_dir
        features = cache_image_features(model.vision_tower, processor, table, batch_size, place)
        features = cache_text_features(model.text_tower, processor, features, batch_size, place)
        image_pooled, text_pooled = list(features["image_pooled"]), list(features["text_pooled"])
    training = model.training
    outputs = model.eval()(
        image_pooled=torch.stack(image_pooled).to(model.device),
        text_pooled=torch.cat(text_pooled).to(model.device),
        return_loss=False,
    )
    model.train(training)
    rows = torch.arange(len(table))
    captions_of_row = torch.tensor([len(captions) for captions in text_pooled])
    return TableEmbeddings(
        outputs.image_embeds.cpu(), outputs.text_embeds.cpu(), rows, rows.repeat_interleave(captions_of_row)
    )
