"""Processor of [`QFormerAligner`], for images and captions."""

from transformers.processing_utils import ProcessingKwargs

from vlmkit.base.processing import ImageTextProcessor


class QFormerAlignerProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Keywords of a call. By default, texts are padded to the longest one and truncated to 64 tokens."""

    _defaults = {  # noqa: RUF012
        "text_kwargs": {"padding": True, "truncation": True, "max_length": 64, "return_token_type_ids": False}
    }


class QFormerAlignerProcessor(ImageTextProcessor):
    """Processor of [`QFormerAligner`]: images to `pixel_values`, texts to `input_ids` and `attention_mask`.

    `pixel_values` has the shape `(I, 3, H, W)`, the other two have `(B, T)`. Texts are padded to the longest one and
    truncated to 64 tokens, unless the call changes that.

    Args:
        image_processor: Image processor. One of timm is converted to one that can be saved.
        tokenizer: Tokenizer of the text encoder whose layers the Q-Former has.

    Raises:
        ValueError: If the tokenizer has neither a padding nor an end-of-text token.

    Example:
        >>> processor = QFormerAlignerProcessor.from_vision_text_pretrained(
        ...     "google/vit-base-patch16-224", "distilbert/distilbert-base-uncased"
        ... )  # doctest: +SKIP
        >>> batch = processor(images=[photo], text=["a dog in the snow"], return_tensors="pt")  # doctest: +SKIP
    """

    valid_processor_kwargs = QFormerAlignerProcessorKwargs
