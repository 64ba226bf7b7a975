"""Processor of [`QFormerAligner`]: images to pixels, texts to tokens."""

from transformers.processing_utils import ProcessingKwargs

from vlmkit.base.processing import ImageTextProcessor


class QFormerAlignerProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Defaults of a call: pad to the longest text, cut at 64 tokens."""

    _defaults = {  # noqa: RUF012
        "text_kwargs": {"padding": True, "truncation": True, "max_length": 64, "return_token_type_ids": False}
    }


class QFormerAlignerProcessor(ImageTextProcessor):
    """Turns images into `pixel_values (I, 3, H, W)` and texts into `input_ids`, `attention_mask` `(B, T)`.

    Texts are padded to the longest and cut at 64 tokens unless the call says otherwise.

    Args:
        image_processor: any; timm's is translated to one that can be saved.
        tokenizer: of the text encoder that the Q-Former comes from.

    Example:
        >>> processor = QFormerAlignerProcessor.from_vision_text_pretrained(
        ...     "google/vit-base-patch16-224", "distilbert/distilbert-base-uncased"
        ... )  # doctest: +SKIP
        >>> batch = processor(images=[photo], text=["a dog in the snow"], return_tensors="pt")  # doctest: +SKIP
    """

    valid_processor_kwargs = QFormerAlignerProcessorKwargs
