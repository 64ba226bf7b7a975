"""Captions for all images of a dataset."""

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
    """Generate a caption for each image of a dataset.

    Args:
        model: Captioning model, such as [`QFormerCaptioner`]. It runs on its current device in evaluation mode, and its
            mode is restored afterwards.
        processor: Processor of the model.
        table: Dataset with the column `image`, or `vision_features` as [`cache_vision_features`] returns them. Other
            columns, such as `captions`, are not used.
        prompt: Beginning of every caption. The returned captions include it. Default: `""`.
        batch_size: Number of images per call of `generate`. Default: 16.
        **generation: Keyword arguments of `generate`, such as `max_new_tokens` or `num_beams`.

    Returns:
        One caption per row, without special tokens and surrounding whitespace. Evaluate them with
        `caption_metrics(captions, table["captions"])`.

    Raises:
        ValueError: If `table` has neither of the columns, `batch_size` is less than 1, or `num_return_sequences` is
            not 1.

    Example:
        >>> from vlmkit import QFormerCaptioner, QFormerCaptionerProcessor
        >>> model = QFormerCaptioner.from_pretrained("my-org/captioner")  # doctest: +SKIP
        >>> processor = QFormerCaptionerProcessor.from_pretrained("my-org/captioner")  # doctest: +SKIP
        >>> captions = caption_table(model, processor, table, max_new_tokens=30)  # doctest: +SKIP
    """
    cached = "vision_features" in table.column_names
    check_has_images(table)
    check_generation_options(batch_size, generation=generation)
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
            token_ids = model.generate(**inputs.to(model.device, model.dtype), **generation)
            captions += [text.strip() for text in processor.batch_decode(token_ids, skip_special_tokens=True)]
    return captions
