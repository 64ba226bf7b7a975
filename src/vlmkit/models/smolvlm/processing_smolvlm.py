"""Processor of [`SmolVLM`]: images to pixels, conversations to tokens with places for the images."""

import os
from collections.abc import Sequence
from typing import Any

from transformers import AddedToken, AutoImageProcessor, AutoTokenizer, BaseImageProcessor, PreTrainedTokenizerBase
from transformers.processing_utils import MultiModalData, ProcessingKwargs

from vlmkit.base import VlmkitProcessor
from vlmkit.image_processors import without_timm
from vlmkit.models.qformer_aligner import QFormerAlignerConfig
from vlmkit.models.smolvlm.chat_template import chat_template as default_chat_template
from vlmkit.models.smolvlm.image_processing_smolvlm import VlmkitSmolVLMImageProcessor
from vlmkit.validation import one_of

ROLES = ("system", "user", "assistant")
PARTS = ("text", "image", "image_url")


class VlmkitSmolVLMProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Defaults of a call: pad to the longest text, on the left as generation needs it."""

    _defaults = {  # noqa: RUF012
        "text_kwargs": {"padding": True, "padding_side": "left", "return_token_type_ids": False}
    }


class VlmkitSmolVLMProcessor(VlmkitProcessor):
    """Turns images into `pixel_values (V, 3, H, W)` and texts or conversations into `input_ids`, `attention_mask`.

    A text has `image_token` where an image belongs, which becomes `num_image_tokens` placeholders; in a conversation
    (`apply_chat_template`), each part `{"type": "image"}` stands for one. An image that the image processor splits (see
    [`VlmkitSmolVLMImageProcessor`]) becomes as many placeholders for each of its views, and images of several sizes
    come with a `pixel_mask (V, H, W)`. Where no images are given, the placeholders are for `image_tokens` of whole
    images, which the model takes in their place. Texts are padded on the left and never cut, unless the call says
    otherwise.

    Args:
        image_processor: any; timm's is translated to one that can be saved.
        tokenizer: of the language model; `image_token` is added to it, and it pads on the left from now on. Without a
            padding token, it pads with its end of text.
        num_image_tokens: of a view: the model's `config.num_query_tokens`, or 1 where it looks at images by
            cross-attention. `None` for a [`VlmkitSmolVLMImageProcessor`] whose `size_divisor` is the side of what
            becomes a token: a patch of a model with the connector `"mlp"`, a square of patches with `"pixel_shuffle"`.
        image_token: the placeholder.
        chat_template: Jinja; by default ChatML where the tokenizer ends with its `<|im_end|>` (SmolLM-Instruct), else
            lines of "User: " and "Assistant: ".

    Raises:
        ValueError: the tokenizer has neither a padding nor an end-of-text token, or puts the latter behind every text;
            or `num_image_tokens` is below 1, or not given for an image processor without `size_divisor`.

    Example:
        >>> processor = VlmkitSmolVLMProcessor.from_aligner_text_pretrained(
        ...     "runs/qformer", "HuggingFaceTB/SmolLM2-135M-Instruct"
        ... )  # doctest: +SKIP
        >>> question = [{"type": "image", "image": photo}, {"type": "text", "text": "Who is it?"}]  # doctest: +SKIP
        >>> inputs = processor.apply_chat_template(
        ...     [{"role": "user", "content": question}],
        ...     add_generation_prompt=True,
        ...     tokenize=True,
        ...     return_dict=True,
        ...     return_tensors="pt",
        ... )  # doctest: +SKIP
    """

    valid_processor_kwargs = VlmkitSmolVLMProcessorKwargs

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        num_image_tokens: int | None = 32,
        image_token: str = "<image>",
        chat_template: str | None = None,
    ):
        if num_image_tokens is not None and num_image_tokens < 1:
            raise ValueError(f"num_image_tokens is {num_image_tokens}; give the model's num_query_tokens")
        if num_image_tokens is None and not hasattr(image_processor, "size_divisor"):
            raise ValueError(
                f"{type(image_processor).__name__} does not tell the sizes of its images; give num_image_tokens, or a "
                "VlmkitSmolVLMImageProcessor"
            )
        if tokenizer.eos_token_id is not None and tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id:
            kind = type(tokenizer).__name__
            raise ValueError(f"{kind} ends every text with {tokenizer.eos_token}, prompts too; set add_eos_token=False")
        tokenizer.padding_side = "left"  # pipelines ask the tokenizer
        tokenizer.add_tokens(AddedToken(image_token, special=True, normalized=False), special_tokens=True)
        super().__init__(image_processor, tokenizer)
        self.chat_template = chat_template or default_chat_template(tokenizer, image_token)
        self.num_image_tokens = num_image_tokens
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)

    @classmethod
    def from_aligner_text_pretrained(
        cls, aligner: str | os.PathLike, text: str | os.PathLike, **kwargs: Any
    ) -> "VlmkitSmolVLMProcessor":
        """Take the image processor and the number of queries of a trained first stage, and the tokenizer of a model.

        Args:
            aligner: folder or hub id of a [`QFormerAligner`] with its processor.
            text: folder or hub id of a causal language model.
            **kwargs: further arguments of the constructor.

        Raises:
            OSError: a checkpoint, or its preprocessing, cannot be found.
        """
        num_image_tokens = QFormerAlignerConfig.from_pretrained(aligner).num_query_tokens
        parts = AutoImageProcessor.from_pretrained(aligner), AutoTokenizer.from_pretrained(text)
        return cls(*parts, num_image_tokens=num_image_tokens, **kwargs)

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str | os.PathLike, text: str | os.PathLike, num_image_tokens: int | None, **images_kwargs: Any
    ) -> "VlmkitSmolVLMProcessor":
        """Take the tokenizer of a language model, and preprocess images as an image model was trained with.

        Args:
            vision: folder or hub id of an image model.
            text: folder or hub id of a causal language model.
            num_image_tokens: see the constructor.
            **images_kwargs: if any are given, images go through a [`VlmkitSmolVLMImageProcessor`] of these settings,
                such as `size={"longest_edge": 448}` and `do_image_splitting=True`, with the model's own colour
                statistics; else through the image model's own image processor.

        Raises:
            OSError: a checkpoint, or its preprocessing, cannot be found.
            ValueError: as the constructors raise.
        """
        image_processor = without_timm(AutoImageProcessor.from_pretrained(vision))
        if images_kwargs:
            statistics = {name: list(getattr(image_processor, name)) for name in ("image_mean", "image_std")}
            image_processor = VlmkitSmolVLMImageProcessor(**{**statistics, **images_kwargs})
        return cls(image_processor, AutoTokenizer.from_pretrained(text), num_image_tokens)

    @property
    def unused_input_names(self) -> list[str]:
        """What image processors return for this processor, and not for the model."""
        return ["view_sizes"]

    def apply_chat_template(
        self, conversation: Sequence[Any], *args: Any, return_labels: bool = False, **kwargs: Any
    ) -> Any:
        """Write a conversation, or several, as a text, or as the inputs of the model.

        Args:
            conversation: messages `{"role", "content"}`; a content is a string, or a list of `{"type": "text", "text"}`
                and `{"type": "image", "image" | "path" | "url"}`; without an image where the model gets `image_tokens`.
            *args: see `ProcessorMixin.apply_chat_template`.
            return_labels: whether this is to learn from: the inputs as PyTorch tensors, padded on the right, with
                `labels (B, T)`, which are -100 everywhere but in what the assistant says and in the end of its turns.
            **kwargs: see `ProcessorMixin.apply_chat_template`; such as `add_generation_prompt`, `tokenize`,
                `return_dict`, `return_tensors`, `processor_kwargs`.

        Raises:
            ValueError: an unknown role or part, an empty message, a turn of the assistant without text, `image_token`
                in a text, nothing to learn from, more or fewer images than image parts, or an image cut by truncation.
        """
        conversation = _checked(conversation, self.image_token)
        if not return_labels:
            return super().apply_chat_template(conversation, *args, **kwargs)
        processor_kwargs = {"padding_side": "right", **(kwargs.pop("processor_kwargs", None) or {})}
        wanted = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True, "return_tensors": "pt"}
        inputs = super().apply_chat_template(
            conversation, *args, **{**kwargs, **wanted, "processor_kwargs": processor_kwargs}
        )
        is_said = inputs.pop("assistant_masks").bool()
        for row, said in enumerate(is_said):
            if not said.any():
                raise ValueError(
                    f"conversation {row} has nothing that the assistant says, so nothing to learn from; drop it, or "
                    "where it was cut, give a larger max_length"
                )
        is_said &= inputs["input_ids"] != self.image_token_id  # an image that the assistant shows is not said
        inputs["labels"] = inputs["input_ids"].masked_fill(~is_said, -100)
        return inputs

    def validate_inputs(self, images: Any = None, text: Any = None, **kwargs: Any) -> None:
        """Refuse empty lists and texts, more or fewer images than texts have places for, and splitting by who cannot.

        Raises:
            ValueError: see above.
        """
        if kwargs.get("do_image_splitting") and not hasattr(self.image_processor, "do_image_splitting"):
            raise ValueError(
                f"{type(self.image_processor).__name__} does not split images; leave out do_image_splitting, or make "
                "the processor with a VlmkitSmolVLMImageProcessor"
            )
        if images is None and isinstance(text, list):  # the model will count its image_tokens
            text = [sample.replace(self.image_token, "image") if isinstance(sample, str) else sample for sample in text]
        elif isinstance(text, list) and isinstance(images, list) and images and isinstance(images[0], (list, tuple)):
            # Each text's own; the sums alone, which transformers compares, may agree.
            for row, (own, sample) in enumerate(zip(images, text, strict=False)):
                if (found := sample.count(self.image_token)) != len(own):
                    raise ValueError(
                        f"text {row} has {found} {self.image_token}, but {len(own)} images; give one image for each"
                    )
        super().validate_inputs(images=images, text=text, **kwargs)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """The placeholders of an image, view by view.

        Raises:
            ValueError: without images, the number of their tokens depends on their sizes.
        """
        if "view_sizes" in image_inputs:
            return self.image_token * self._num_places(image_inputs["view_sizes"][image_idx])
        if self.num_image_tokens is None:
            raise ValueError("the number of an image's tokens depends on its size; give the images with the texts")
        return self.image_token * self.num_image_tokens

    def _num_places(self, view_sizes: Sequence[tuple[int, int]]) -> int:
        """How many tokens the views of an image have in all."""
        if self.num_image_tokens is not None:
            return self.num_image_tokens * len(view_sizes)
        divisor = self.image_processor.size_divisor
        return sum((height // divisor) * (width // divisor) for height, width in view_sizes)

    def get_text_with_replacements(
        self, text: list[str], images_replacements: Sequence[str] = (), *args: Any, **kwargs: Any
    ) -> tuple[list[str], list[Any]]:
        """Put all placeholders of an image where its `image_token` is, with or without images."""
        num_images = sum(sample.count(self.image_token) for sample in text)
        replacements = list(images_replacements) or [self.replace_image_token({}, 0) for _ in range(num_images)]
        return super().get_text_with_replacements(text, replacements, *args, **kwargs)

    def _get_num_multimodal_tokens(self, image_sizes: Sequence[Any] | None = None, **kwargs: Any) -> MultiModalData:
        """How many tokens images become, for servers that plan ahead."""
        if image_sizes is None:
            return MultiModalData()
        if not hasattr(self.image_processor, "view_sizes"):
            num_images = len(image_sizes)
            num_tokens = [self.num_image_tokens] * num_images
            return MultiModalData(num_image_tokens=num_tokens, num_image_patches=[1] * num_images)
        options = self._merge_kwargs(**kwargs)["images_kwargs"]
        views = [self.image_processor.view_sizes(height, width, **options) for height, width in image_sizes]
        return MultiModalData(
            num_image_tokens=[self._num_places(sizes) for sizes in views],
            num_image_patches=[len(sizes) for sizes in views],
        )


def _checked(conversation: Sequence[Any], image_token: str) -> Sequence[Any]:
    """Refuse what the template would write nonsense of, and drop what parts do not have, which tables hold as `None`.

    Raises:
        ValueError: see [`VlmkitSmolVLMProcessor.apply_chat_template`].
    """
    if not conversation:
        raise ValueError("a conversation is empty; give at least one message")
    if all(isinstance(message, dict) for message in conversation):
        return [_checked_message(number, message, image_token) for number, message in enumerate(conversation)]
    if all(isinstance(messages, (list, tuple)) for messages in conversation):
        return [_checked(messages, image_token) for messages in conversation]
    raise ValueError(f"{conversation!r:.80} is no list of messages {{'role', 'content'}}, nor of such lists; give one")


def _checked_message(number: int, message: dict[str, Any], image_token: str) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    one_of(f"the role of message {number}", role, ROLES)
    if not content:
        raise ValueError(f"message {number} ({role}) is empty; drop it")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list | tuple) or not all(isinstance(part, dict) for part in parts):
        raise ValueError(
            f"the content of message {number} ({role}) is {content!r:.80}; give a text, or a list of parts"
        )
    parts = [{name: value for name, value in part.items() if value is not None} for part in parts]
    for part in parts:
        one_of(f"the type of a part of message {number}", part.get("type"), PARTS)
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise ValueError(f"message {number} ({role}) has a text part without a text; give it one, or drop it")
        if image_token in part.get("text", ""):
            raise ValueError(
                f'message {number} ({role}) has {image_token} in its text; give images as parts {{"type": "image"}}, '
                "and write anything else in another way"
            )
    if role == "assistant" and not "".join(part.get("text", "") for part in parts).strip():
        raise ValueError(f"message {number} (assistant) has no text; give what it shall say, or drop it")
    return {**message, "content": content if isinstance(content, str) else parts}
