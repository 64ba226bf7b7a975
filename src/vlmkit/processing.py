"""What the processors of all models share."""

from typing import Any

from transformers import BaseImageProcessor, PreTrainedTokenizerBase, ProcessorMixin

from vlmkit.hub import ShimMixin
from vlmkit.image_processors import without_timm
from vlmkit.images import rgb_images


class ImageTextProcessor(ShimMixin, ProcessorMixin):
    """Pairs an image processor with a tokenizer.

    Args:
        image_processor: any; timm's, which cannot be saved outside timm's own checkpoints, is translated.
        tokenizer: any; without a padding token (GPT-2) it pads with its end-of-text token.

    Raises:
        ValueError: the tokenizer has neither a padding nor an end-of-text token.
    """

    def __init__(self, image_processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase):
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                kind = type(tokenizer).__name__
                raise ValueError(f"{kind} has no pad_token and no eos_token; set tokenizer.pad_token")
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(image_processor=without_timm(image_processor), tokenizer=tokenizer)

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> tuple:
        """Fetch images, and convert PIL images of any mode to RGB."""
        images, text, videos, audio = super().prepare_inputs_layout(images=images, text=text, **kwargs)
        return rgb_images(images), text, videos, audio

    def validate_inputs(self, images: Any = None, text: Any = None, **kwargs: Any) -> None:
        """Refuse empty lists and empty texts, which have no embedding.

        Raises:
            ValueError: no image or text, or an empty text (the message names its row).
        """
        super().validate_inputs(images=images, text=text, **kwargs)
        for name, side in (("images", images), ("text", text)):
            if isinstance(side, list) and not side:
                raise ValueError(f"{name} is an empty list; give at least one item or leave it out")
        for row, caption in enumerate([text] if isinstance(text, str) else text or []):
            if not caption.strip():
                raise ValueError(f"text {row} is empty ({caption!r}); an empty text has no embedding, so drop it")
