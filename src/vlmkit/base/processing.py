"""Base classes of the processors."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from vlmkit.base.hub import ShimMixin
from vlmkit.base.image_processors import to_saveable_image_processor
from vlmkit.images import rgb_images
from vlmkit.validation import check_arguments

_SENTENCEPIECE_SPACE = "\u2581"


def load_tokenizer(text: str | os.PathLike, **special_tokens: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a text model.

    Args:
        text: Folder or Hub id of the text model.
        **special_tokens: Special tokens that replace those of the tokenizer, such as `bos_token="<START>"`.

    Raises:
        OSError: If the checkpoint cannot be found.
        ValueError: If it has no tokenizer.
    """
    cause = None
    try:
        tokenizer = AutoTokenizer.from_pretrained(text, **special_tokens)
        # Without tokenizer files, transformers silently returns one that only has the special tokens of the model type.
        if tokenizer.get_vocab().keys() - {*tokenizer.all_special_tokens, _SENTENCEPIECE_SPACE}:
            return tokenizer
    except ValueError as error:  # its message is about packages that convert tokenizers
        cause = error
    raise ValueError(
        f"`text` must be a model with a tokenizer, but got {os.fspath(text)!r}. "
        "Pass the folder or Hub id of a text model that contains its tokenizer."
    ) from cause


class VlmkitProcessor(ShimMixin, ProcessorMixin):
    """Base class of processors, which accept images of any mode.

    Args:
        image_processor: Image processor. One of timm, which cannot be saved outside timm's own checkpoints, is
            converted.
        tokenizer: Tokenizer. Without a padding token (GPT-2), it pads with its end-of-text token. `None` for a
            processor of images only, whose constructor names no tokenizer.

    Raises:
        ValueError: If the tokenizer has neither a padding nor an end-of-text token.
    """

    def __init__(self, image_processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase | None = None):
        if tokenizer is not None and tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                kind = type(tokenizer).__name__
                raise ValueError(f"{kind} must have a `pad_token` or an `eos_token`. Set `tokenizer.pad_token`.")
            tokenizer.pad_token = tokenizer.eos_token
        parts = {} if tokenizer is None else {"tokenizer": tokenizer}
        super().__init__(image_processor=to_saveable_image_processor(image_processor), **parts)

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> tuple:
        """Convert images and image files of any mode to RGB, and fetch the images of URLs."""
        return super().prepare_inputs_layout(images=rgb_images(images), text=text, **kwargs)

    def validate_inputs(self, images: Any = None, text: Any = None, **kwargs: Any) -> None:
        """Reject empty lists and empty texts.

        Raises:
            ValueError: If there is no image or text, or a text is empty. The message names its row.
        """
        super().validate_inputs(images=images, text=text, **kwargs)
        for name, side in (("images", images), ("text", text)):
            if isinstance(side, list) and not side:
                raise ValueError(f"`{name}` must not be an empty list. Pass at least one item, or omit it.")
        self._check_not_empty([] if text is None else text)

    @staticmethod
    def _check_not_empty(text: str | Iterable[str]) -> None:
        for row, caption in enumerate([text] if isinstance(text, str) else text):
            if not caption.strip():
                raise ValueError(f"Text {row} must not be empty, but got {caption!r}. Remove it.")


class ImageTextProcessor(VlmkitProcessor):
    """Base class of processors with a tokenizer, which are assembled from the preprocessing of two pretrained models.

    A model that is built with such a processor takes its special tokens and the fields of its configuration from
    [`ImageTextProcessor.special_token_ids`] and [`ImageTextProcessor.complete_config`].
    """

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str | os.PathLike, text: str | os.PathLike, **special_tokens: Any
    ) -> Any:
        """Join the image processor of one checkpoint with the tokenizer of another.

        Args:
            vision: Folder or Hub id of an image model.
            text: Folder or Hub id of a text model.
            **special_tokens: Special tokens that replace those of the tokenizer, such as `bos_token="<START>"`. New
                ones are added to the tokenizer, and a model that is built with the processor has embeddings for them.

        Raises:
            OSError: If a checkpoint, or its preprocessing, cannot be found.
            TypeError: If a special token is unknown.
            ValueError: If the tokenizer lacks a token that the processor needs.
        """
        known = PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES
        check_arguments(f"{cls.__name__}.from_vision_text_pretrained", special_tokens, known)
        return cls(AutoImageProcessor.from_pretrained(vision), load_tokenizer(text, **special_tokens))

    def special_token_ids(self) -> dict[str, int]:
        """Return the token ids that a model takes over, such as `{"bos_token_id": 0}`. By default there are none."""
        return {}

    def complete_config(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Add the fields of a model's configuration that the processor determines.

        Args:
            fields: Fields that the user has chosen.

        Raises:
            ValueError: If a field contradicts the processor.
        """
        return dict(fields)
