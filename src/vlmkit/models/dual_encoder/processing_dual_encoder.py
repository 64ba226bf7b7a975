"""Processor of [`DualEncoderModel`]: images to pixels, texts to tokens."""

import os

from transformers import AutoImageProcessor, AutoTokenizer
from transformers.processing_utils import ProcessingKwargs

from vlmkit.base import VlmkitProcessor


class DualEncoderProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Defaults of a call: pad to the longest text, cut at 77 tokens as the original does."""

    _defaults = {"text_kwargs": {"padding": True, "truncation": True, "max_length": 77}}  # noqa: RUF012


class DualEncoderProcessor(VlmkitProcessor):
    """Turns images into `pixel_values (I, 3, H, W)` and texts into `input_ids`, `attention_mask` `(T, L)`.

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

    @classmethod
    def from_vision_text_pretrained(cls, vision: str | os.PathLike, text: str | os.PathLike) -> "DualEncoderProcessor":
        """Take the image processor of one checkpoint and the tokenizer of another.

        Args:
            vision: folder or hub id of an image model.
            text: folder or hub id of a text model.

        Raises:
            OSError: a checkpoint, or its preprocessing, cannot be found.
        """
        return cls(AutoImageProcessor.from_pretrained(vision), AutoTokenizer.from_pretrained(text))
