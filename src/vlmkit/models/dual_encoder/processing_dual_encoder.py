"""Processor of [`DualEncoderModel`], for images and captions."""

from transformers.processing_utils import ProcessingKwargs

from vlmkit.base.processing import ImageTextProcessor


class DualEncoderProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Keywords of a call. By default, texts are padded to the longest one and truncated to 77 tokens (the original)."""

    _defaults = {"text_kwargs": {"padding": True, "truncation": True, "max_length": 77}}  # noqa: RUF012


class DualEncoderProcessor(ImageTextProcessor):
    """Processor of [`DualEncoderModel`]: images to `pixel_values`, texts to `input_ids` and `attention_mask`.

    `pixel_values` has the shape `(I, 3, H, W)`, the other two have `(B, T)`. Texts are padded to the longest one and
    truncated to 77 tokens, unless the call changes that.

    Args:
        image_processor: Image processor. One of timm is converted to one that can be saved.
        tokenizer: Tokenizer of the text backbone. Without a padding token (GPT-2), it pads with its end-of-text token.

    Raises:
        ValueError: If the tokenizer has neither a padding nor an end-of-text token.

    Example:
        >>> processor = DualEncoderProcessor.from_vision_text_pretrained(
        ...     "google/vit-base-patch16-224", "openai-community/gpt2"
        ... )  # doctest: +SKIP
        >>> batch = processor(images=[photo], text=["a dog in the snow"], return_tensors="pt")  # doctest: +SKIP
    """

    valid_processor_kwargs = DualEncoderProcessorKwargs
