"""Processor of [`QFormerCaptioner`]: images to pixels, texts to tokens between a start and an end."""

from typing import Any

from transformers import BaseImageProcessor, BatchFeature, PreTrainedTokenizerBase
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import ProcessingKwargs

from vlmkit.base.processing import ImageTextProcessor


class QFormerCaptionerProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Defaults of a call: pad to the longest text, cut at 64 tokens."""

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
    """Turns images into `pixel_values (B, 3, H, W)` and texts into `input_ids`, `attention_mask` `(B, T)`.

    Every text gets the start token in front. A text is the beginning of a caption that the model shall continue, and
    may be empty; such texts are padded on the left. With `return_labels`, texts are whole captions to learn from: they
    get the end token behind, padding on the right, and `labels (B, T)`, -100 at the start and at the padding; a real
    end counts, even if the tokenizer pads with that token. Texts are cut at 64 tokens unless the call says otherwise,
    which takes the end off a long caption.

    Args:
        image_processor: any; timm's is translated to one that can be saved.
        tokenizer: any with a start (`bos_token`) and an end (`eos_token`); without a padding token, it pads with its
            end.

    Raises:
        ValueError: the tokenizer has no start or no end token.

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
                raise ValueError(
                    f"{type(tokenizer).__name__} has no {name}, with which every caption "
                    f"{'begins' if name == 'bos_token' else 'ends'}; set tokenizer.{name} to a token of its vocabulary"
                )
        super().__init__(image_processor, tokenizer)

    def special_token_ids(self) -> dict[str, int]:
        """Return the ids of the start, end and padding token, which a model takes over."""
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {name: getattr(self.tokenizer, name) for name in names}

    def __call__(
        self, images: Any = None, text: str | list[str] | None = None, return_labels: bool | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Prepare images, texts, or as many of the one as of the other.

        Args:
            images: of any mode, or image files.
            text: beginnings of captions, or whole captions with `return_labels`.
            return_labels: whether the texts are captions to learn from; needs `return_tensors="pt"`.
            **kwargs: `return_tensors`, and what image processor and tokenizer take.

        Raises:
            ValueError: images and texts differ in number, a list is empty, a text is no string, a caption to learn from
                is empty, or labels without texts or tensors are asked for.
        """
        if return_labels and (text is None or kwargs.get("return_tensors") != "pt"):
            raise ValueError('return_labels=True needs captions as text, and return_tensors="pt"')
        if text is not None:
            text = [text] if isinstance(text, str) else text
            if not isinstance(text, list | tuple) or not all(isinstance(caption, str) for caption in text):
                raise ValueError(f"text is {text!r}; give a string or a list of strings")
            if return_labels:
                self._check_not_empty(text)
            start, end = self.tokenizer.bos_token, self.tokenizer.eos_token if return_labels else ""
            text = [f"{start}{caption}{end}" for caption in text]
            kwargs.setdefault("padding_side", "right" if return_labels else "left")
        inputs = super().__call__(images=images, text=text, **kwargs)
        if return_labels:
            mask = inputs["attention_mask"]
            predicted = (mask == 1) & (mask.cumsum(dim=1) > 1)  # the first is the start token
            inputs["labels"] = inputs["input_ids"].masked_fill(~predicted, -100)
        return inputs

    def validate_inputs(self, images: Any = None, text: Any = None, **kwargs: Any) -> None:
        """Refuse empty lists, and images and texts that differ in number.

        Raises:
            ValueError: see above.
        """
        super().validate_inputs(images=images, text=text, **kwargs)
        if images is not None and text is not None:
            num_images = len(make_flat_list_of_images(images))
            if num_images != len(text):
                raise ValueError(f"{num_images} images and {len(text)} texts; give one image for each text")
