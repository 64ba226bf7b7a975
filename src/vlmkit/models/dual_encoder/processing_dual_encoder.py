"""Processor of [`DualEncoderModel`]: images to pixels, texts to tokens."""

from transformers.processing_utils import ProcessingKwargs

from vlmkit.base.processing import ImageTextProcessor


class DualEncoderProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Defaults of a call: pad to the longest text, cut at 77 tokens as the original does."""

    _defaults = {"text_kwargs": {"padding": True, "truncation": True, "max_length": 77}}  # noqa: RUF012


class DualEncoderProcessor(ImageTextProcessor):
    """Turns images into `pixel_values (I, 3, H, W)` and texts into `input_ids`, `attention_mask` `(B, T)`.

    Texts are padded to the longest and cut at 77 tokens unless the call says otherwise.

    Args:
        image_processor: any; timm's is translated to one that can be saved.
        tokenizer: any; without a padding token (GPT-2) it pads with its end-of-text token.

    Example:
        >>> processor = DualEncoderProcessor.from_vision_text_pretrained(
        ...     "google/vit-base-patch16-224", "openai-community/gpt2"
        ... )  # doctest: +SKIP
        >>> batch = processor(images=[photo], text=["a dog in the snow"], return_tensors="pt")  # doctest: +SKIP
    """

    valid_processor_kwargs = DualEncoderProcessorKwargs
