"""Captions for the images of a whole table, as caption metrics take them."""

from typing import Any

import torch
from datasets import Dataset
from datasets.utils import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from vlmkit.data.batch_columns import stack_features
from vlmkit.data.table_checks import check_has_images
from vlmkit.inference.evaluation_mode import evaluation_mode
from vlmkit.inference.generation_options import check_generation_options


@torch.no_grad()
def caption_table(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    table: Dataset,
    *,
    prompt: str = "",
    batch_size: int = 16,
    **generation: Any,
) -> list[str]:
    """Write a caption for every image of a table; `caption_metrics(captions, table["captions"])` scores them.

    The model sees images and the prompt, never the table's captions.

    Args:
        model: a captioning model; it runs where its weights are, in evaluation mode, and keeps its mode.
        processor: the model's.
        table: rows with an `image`, or its cached `vision_features`.
        prompt: the beginning of every caption, which is part of what is returned.
        batch_size: images per call of `generate`.
        **generation: passed to `generate`, such as `max_new_tokens` or `num_beams`.

    Returns:
        A caption per row, without special tokens and surrounding space.

    Raises:
        ValueError: the table has neither column, `batch_size` is below 1, or several captions per image are asked for.
    """
    cached = "vision_features" in table.column_names
    check_has_images(table)
    check_generation_options(batch_size, generation=generation, limit="a row gets one caption")
    column = table.select_columns("vision_features" if cached else "image")
    captions: list[str] = []
    with evaluation_mode(model):
        for start in tqdm(range(0, len(table), batch_size), desc="Captioning", unit="batch", delay=2):
            images = column[start : start + batch_size]
            texts = [prompt] * len(next(iter(images.values())))
            if cached:
                inputs = processor(text=texts, return_tensors="pt")
                inputs["vision_features"] = stack_features(images["vision_features"])
            else:
                inputs = processor(images=images["image"], text=texts, return_tensors="pt")
            written = model.generate(**inputs.to(model.device, model.dtype), **generation)
            captions += [text.strip() for text in processor.batch_decode(written, skip_special_tokens=True)]
    return captions
