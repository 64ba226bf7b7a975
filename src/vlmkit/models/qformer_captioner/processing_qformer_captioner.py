"""Processor of [`QFormerCaptioner`], for images and captions with start and end tokens."""

from typing import Any

from transformers import BaseImageProcessor, BatchFeature, PreTrainedTokenizerBase
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import ProcessingKwargs

from vlmkit.base.processing import ImageTextProcessor


class QFormerCaptionerProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Keywords of a call. By default, texts are padded to the longest one and truncated to 64 tokens."""

    _defaults = {  # noqa: RUF012
        "text_kwargs": {
            "padding": True,
            "truncation": True,
            "max_length": 64,
            "add_special_tokens": False,
            "return_token_type_ids": False,
        }
    }


class QFormerCaptionerProcessor(ImageTextProcessor):
    """Processor of [`QFormerCaptioner`]: images to `pixel_values`, texts to `input_ids` and `attention_mask`.

    `pixel_values` has the shape `(B, 3, H, W)`, the other two have `(B, T)`. The start token is prepended to each text.

    - For generation, a text is the beginning of a caption, and may be empty. Texts are padded on the left.
    - For training, with `return_labels=True`, a text is a whole caption. The end token is appended, texts are padded on
      the right, and `labels (B, T)` are -100 at the start token and at padding. The end token is a label, even if the
      tokenizer pads with it.

    Texts are truncated to 64 tokens, unless the call changes that. A truncated caption loses its end token.

    Args:
        image_processor: Image processor. One of timm is converted to one that can be saved.
        tokenizer: Tokenizer with a start token (`bos_token`) and an end token (`eos_token`). Without a padding token,
            it pads with its end token.

    Raises:
        ValueError: If the tokenizer lacks the start or the end token.

    Example:
        >>> processor = QFormerCaptionerProcessor.from_vision_text_pretrained(
        ...     "openai/clip-vit-base-patch32", "HuggingFaceTB/SmolLM2-135M-Instruct"
        ... )  # doctest: +SKIP
        >>> prompt = processor(images=photo, text="a photo of", return_tensors="pt")  # doctest: +SKIP
        >>> batch = processor([photo], ["a dog"], return_labels=True, return_tensors="pt")  # doctest: +SKIP
    """

    valid_processor_kwargs = QFormerCaptionerProcessorKwargs

    def __init__(self, image_processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase):
        for name in ("bos_token", "eos_token"):
            if getattr(tokenizer, name) is None:
                verb = "begins" if name == "bos_token" else "ends"
                raise ValueError(
                    f"The tokenizer must have a `{name}`, with which every caption {verb}, but got a "
                    f"{type(tokenizer).__name__} without it. Set `tokenizer.{name}` to a token of its vocabulary."
                )
        super().__init__(image_processor, tokenizer)

    def special_token_ids(self) -> dict[str, int]:
        """Return the ids of the start, end and padding token, which a new model copies to its configuration."""
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {name: getattr(self.tokenizer, name) for name in names}

    def __call__(
        self, images: Any = None, text: str | list[str] | None = None, return_labels: bool | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Prepare images, texts, or one image for each text.

        Args:
            images: Image or image file of any mode, or a list of them.
            text: Beginning of a caption, or a whole caption with `return_labels`, or a list of them.
            return_labels: Whether to return labels for training. Requires `text` and `return_tensors="pt"`.
            **kwargs: Further keywords of `ProcessorMixin.__call__`, such as `return_tensors` and `max_length`.

        Returns:
            `pixel_values (B, 3, H, W)` if there are images, `input_ids (B, T)` and `attention_mask (B, T)` if there are
            texts, and `labels (B, T)` with `return_labels`.

        Raises:
            ValueError: If images and texts differ in number, a list is empty, a text is not a string, a caption for
                training is empty, or labels are requested without texts or tensors.
        """
        if return_labels and (text is None or kwargs.get("return_tensors") != "pt"):
            raise ValueError('`return_labels=True` requires captions as `text`, and `return_tensors="pt"`.')
        if text is not None:
            text = [text] if isinstance(text, str) else text
            if not isinstance(text, list | tuple) or not all(isinstance(caption, str) for caption in text):
                raise ValueError(f"`text` must be a string or a list of strings, but got {text!r}.")
            if return_labels:
                self._check_not_empty(text)
            start, end = self.tokenizer.bos_token, self.tokenizer.eos_token if return_labels else ""
            text = [f"{start}{caption}{end}" for caption in text]
            kwargs.setdefault("padding_side", "right" if return_labels else "left")
        inputs = super().__call__(images=images, text=text, **kwargs)
        if return_labels:
            mask = inputs["attention_mask"]
            predicted = (mask == 1) & (mask.cumsum(dim=1) > 1)  # the first token is the start token
            inputs["labels"] = inputs["input_ids"].masked_fill(~predicted, -100)
        return inputs

    def validate_inputs(self, images: Any = None, text: Any = None, **kwargs: Any) -> None:
        """Check that images and texts are not empty, and that there is one image for each text.

        Raises:
            ValueError: If a list is empty, or images and texts differ in number.
        """
        super().validate_inputs(images=images, text=text, **kwargs)
        if images is not None and text is not None:
            num_images = len(make_flat_list_of_images(images))
            if num_images != len(text):
                raise ValueError(
                    f"The number of images must equal the number of texts, but got {num_images} images and {len(text)} "
                    "texts. Pass one image for each text."
                )
