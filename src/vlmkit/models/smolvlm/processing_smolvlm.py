"""Processor of [`SmolVLM`], for images and conversations with image placeholders."""

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import (
    AddedToken,
    AutoImageProcessor,
    BaseImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.processing_utils import MultiModalData, ProcessingKwargs

from vlmkit.base.image_processors import to_saveable_image_processor
from vlmkit.base.processing import ImageTextProcessor, load_tokenizer
from vlmkit.compat.processor_kwargs import images_kwargs
from vlmkit.models.qformer_aligner import QFormerAlignerConfig
from vlmkit.models.smolvlm.chat_template import chat_template as default_chat_template
from vlmkit.models.smolvlm.configuration_smolvlm import CONNECTORS, FUSIONS
from vlmkit.models.smolvlm.conversations import validate_conversation
from vlmkit.models.smolvlm.image_processing_smolvlm import (
    VlmkitSmolVLMImageProcessor,
    VlmkitSmolVLMImageProcessorKwargs,
)
from vlmkit.models.smolvlm.image_token_counts import (
    default_num_query_tokens,
    fixed_num_image_tokens,
    num_tokens_of_fixed_size,
)
from vlmkit.modules.towers import get_vision_config, load_backbone_config
from vlmkit.modules.vision_tower import vision_patch_size
from vlmkit.validation import check_arguments, check_at_least, check_choice


class VlmkitSmolVLMProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Keywords of a call. By default, texts are padded to the longest one, on the left for generation."""

    _defaults = {  # noqa: RUF012
        "text_kwargs": {"padding": True, "padding_side": "left", "return_token_type_ids": False}
    }


class VlmkitSmolVLMProcessor(ImageTextProcessor):
    """Processor of [`SmolVLM`]: images to `pixel_values (C, 3, H, W)`, texts or conversations to `input_ids`.

    A text contains `image_token` in place of each image, which is replaced by the placeholders of the image. In a
    conversation (`apply_chat_template`), each part `{"type": "image"}` stands for one image. An image that is split
    (see [`VlmkitSmolVLMImageProcessor`]) gets the placeholders of each of its crops, and crops of different sizes come
    with a `pixel_attention_mask (C, H, W)`. Without images, the placeholders are those of whole images, for a model
    that gets `vision_features`. Texts are padded on the left and not truncated, unless the call changes that.

    Args:
        image_processor: Image processor. One of timm is converted to one that can be saved.
        tokenizer: Tokenizer of the language model. `image_token` is added to it, and it pads on the left. Without a
            padding token, it pads with its end-of-text token.
        num_image_tokens: Number of image tokens of a crop: the number of queries of a Q-Former or Perceiver, the
            number of patches (or blocks of patches) of images of a fixed size, or 1 with cross-attention. `None` for
            a [`VlmkitSmolVLMImageProcessor`] whose `size_divisor` is the side of an image token in pixels.
        image_token: Placeholder of an image in a text.
        chat_template: Jinja template. Defaults to ChatML if the tokenizer ends with its `<|im_end|>`
            (SmolLM-Instruct), and to lines of "User: " and "Assistant: " otherwise.
        connector: Connector of the model, see [`VlmkitSmolVLMConfig`]. `None` leaves the choice to the model.
        fusion: Fusion of the model. `None` leaves the choice to the model.
        num_query_tokens: Number of queries of the model's Q-Former or Perceiver. `None` leaves the choice to the model.
        pixel_shuffle_factor: Side of a block of patches in the model. `None` leaves the choice to the model.

    Raises:
        ValueError: If the tokenizer has neither a padding nor an end-of-text token, or adds the latter to every text;
            or if `num_image_tokens` is below 1, or `None` for an image processor without `size_divisor`.

    Example:
        >>> processor = VlmkitSmolVLMProcessor.from_vision_text_pretrained(
        ...     "google/vit-base-patch16-224", "HuggingFaceTB/SmolLM2-135M-Instruct", connector="mlp"
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
        # Not keyword-only: `from_pretrained` of transformers drops the values of keyword-only arguments.
        connector: str | None = None,
        fusion: str | None = None,
        num_query_tokens: int | None = None,
        pixel_shuffle_factor: int | None = None,
    ):
        if num_image_tokens is not None and num_image_tokens < 1:
            raise ValueError(
                f"`num_image_tokens` must be at least 1, but got {num_image_tokens}. "
                "Use the model's `config.num_query_tokens`."
            )
        if num_image_tokens is None and not hasattr(image_processor, "size_divisor"):
            raise ValueError(
                f"`num_image_tokens` must be given for a {type(image_processor).__name__}, which does not compute the "
                "sizes of its images. Pass it, or use a `VlmkitSmolVLMImageProcessor`."
            )
        if tokenizer.eos_token_id is not None and tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id:
            kind = type(tokenizer).__name__
            raise ValueError(
                f"The tokenizer must not end every text, prompts included, with {tokenizer.eos_token}, but {kind} "
                "does. Set `add_eos_token=False`."
            )
        tokenizer.padding_side = "left"  # pipelines read it from the tokenizer
        tokenizer.add_tokens(AddedToken(image_token, special=True, normalized=False), special_tokens=True)
        super().__init__(image_processor, tokenizer)
        self.chat_template = chat_template or default_chat_template(tokenizer, image_token)
        self.num_image_tokens = num_image_tokens
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.connector, self.fusion = connector, fusion
        self.num_query_tokens, self.pixel_shuffle_factor = num_query_tokens, pixel_shuffle_factor

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | os.PathLike,
        text: str | os.PathLike,
        *,
        connector: str = "qformer",
        fusion: str = "autoregressive",
        num_query_tokens: int | None = None,
        pixel_shuffle_factor: int = 2,
        image_token: str = "<image>",
        chat_template: str | None = None,
        **images_kwargs: Any,
    ) -> "VlmkitSmolVLMProcessor":
        """Join the preprocessing of an image model with the tokenizer of a language model.

        A model that is built with this processor gets the same design.

        Args:
            vision: Folder or Hub id of an image model.
            text: Folder or Hub id of a causal language model.
            connector: Connector of the model, see [`VlmkitSmolVLMConfig`].
            fusion: Fusion of the model.
            num_query_tokens: Number of queries of a Q-Former or Perceiver. Defaults to 32, or 64 for a Perceiver.
            pixel_shuffle_factor: Side of a block of patches, with `connector="pixel_shuffle"`.
            image_token: Placeholder of an image in a text.
            chat_template: Jinja template, see [`VlmkitSmolVLMProcessor`].
            **images_kwargs: Settings of a [`VlmkitSmolVLMImageProcessor`], such as `size={"longest_edge": 448}` and
                `do_image_splitting=True`, which then replaces the image model's own image processor. It takes over the
                color statistics, and its `size_divisor` defaults to the side of an image token in pixels.

        Raises:
            OSError: If a checkpoint, or its preprocessing, cannot be found.
            TypeError: If a keyword is unknown.
            ValueError: If the design is unknown, `num_query_tokens` or `pixel_shuffle_factor` is less than 1, the
                factor does not divide the grid of patches, or as the constructors raise.
        """
        arguments = inspect.signature(cls.from_vision_text_pretrained).parameters
        settings = VlmkitSmolVLMImageProcessorKwargs.__annotations__
        check_arguments(f"{cls.__name__}.from_vision_text_pretrained", images_kwargs, {*arguments, *settings})
        check_choice("connector", connector, CONNECTORS)
        check_choice("fusion", fusion, FUSIONS)
        check_at_least("num_query_tokens", num_query_tokens)
        check_at_least("pixel_shuffle_factor", pixel_shuffle_factor)
        num_query_tokens = num_query_tokens or default_num_query_tokens(connector)
        factor = pixel_shuffle_factor if connector == "pixel_shuffle" else 1
        image_processor = to_saveable_image_processor(AutoImageProcessor.from_pretrained(vision))
        num_image_tokens = fixed_num_image_tokens(connector, fusion=fusion, num_query_tokens=num_query_tokens)
        vision_config = load_backbone_config(vision, get_vision_config)
        if images_kwargs:
            defaults: dict[str, Any] = {
                name: list(getattr(image_processor, name)) for name in ("image_mean", "image_std")
            }
            if "size_divisor" not in images_kwargs and (patch := vision_patch_size(vision_config)) is not None:
                defaults["size_divisor"] = patch * factor
            image_processor = VlmkitSmolVLMImageProcessor(**{**defaults, **images_kwargs})
        elif num_image_tokens is None:
            num_image_tokens = num_tokens_of_fixed_size(image_processor, vision_config, factor)
        return cls(
            image_processor,
            load_tokenizer(text),
            num_image_tokens,
            image_token=image_token,
            chat_template=chat_template,
            connector=connector,
            fusion=fusion,
            num_query_tokens=num_query_tokens,
            pixel_shuffle_factor=pixel_shuffle_factor,
        )

    @classmethod
    def from_aligner_text_pretrained(
        cls,
        aligner: str | os.PathLike,
        text: str | os.PathLike,
        *,
        image_token: str = "<image>",
        chat_template: str | None = None,
    ) -> "VlmkitSmolVLMProcessor":
        """Join the preprocessing of a trained first stage with the tokenizer of a language model.

        Args:
            aligner: Folder or Hub id of a [`QFormerAligner`] with its processor. The number of image tokens is its
                number of queries.
            text: Folder or Hub id of a causal language model.
            image_token: Placeholder of an image in a text.
            chat_template: Jinja template, see [`VlmkitSmolVLMProcessor`].

        Raises:
            OSError: If a checkpoint, or its preprocessing, cannot be found.
        """
        num_queries = QFormerAlignerConfig.from_pretrained(aligner).num_query_tokens
        return cls(
            AutoImageProcessor.from_pretrained(aligner),
            load_tokenizer(text),
            num_queries,
            connector="qformer",
            fusion="autoregressive",
            num_query_tokens=num_queries,
            image_token=image_token,
            chat_template=chat_template,
        )

    def complete_config(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Add the image token and the design to the fields of a [`VlmkitSmolVLMConfig`].

        Raises:
            ValueError: If a field contradicts the processor.
        """
        design = {
            name: getattr(self, name) for name in ("connector", "fusion", "num_query_tokens", "pixel_shuffle_factor")
        }
        design = {name: value for name, value in design.items() if value is not None}
        design["image_token_id"] = self.image_token_id
        for name in design.keys() & fields.keys():
            if fields[name] is not None and fields[name] != design[name]:
                raise ValueError(
                    f"`{name}` must be {design[name]!r} as in the processor, but got {fields[name]!r}. "
                    "Build the processor with the same value."
                )
        completed = {**fields, **design}
        has_queries = completed.get("connector", "qformer") in ("qformer", "perceiver")
        if has_queries and completed.get("fusion", "autoregressive") == "autoregressive":
            completed.setdefault("num_query_tokens", self.num_image_tokens)
        return completed

    def check_model(self, model: PreTrainedModel) -> None:
        """Check that a model computes as many image embeddings as the processor writes placeholders.

        Args:
            model: [`SmolVLM`] to use with this processor.

        Raises:
            ValueError: If the numbers differ, or the token of the image differs.
        """
        config = model.config
        self.complete_config({"image_token_id": config.image_token_id})
        expected = fixed_num_image_tokens(
            config.connector, fusion=config.fusion, num_query_tokens=config.num_query_tokens
        )
        factor = config.pixel_shuffle_factor if config.connector == "pixel_shuffle" else 1
        if expected is None and self.num_image_tokens is not None:
            expected = num_tokens_of_fixed_size(self.image_processor, config.vision_config, factor)
        if expected != self.num_image_tokens:
            raise ValueError(
                f"`num_image_tokens` of the processor must be {expected} for this model, but got "
                f"{self.num_image_tokens}. Build the processor with "
                f"`VlmkitSmolVLMProcessor.from_vision_text_pretrained(..., connector={config.connector!r}, "
                f"fusion={config.fusion!r})`."
            )
        patch = vision_patch_size(config.vision_config) if expected is None else None
        if patch is not None and self.image_processor.size_divisor != patch * factor:
            raise ValueError(
                f"`size_divisor` of the image processor must be {patch * factor}, the side of an image token in "
                f"pixels, but got {self.image_processor.size_divisor}. Set it to that value."
            )

    @property
    def unused_input_names(self) -> list[str]:
        """Return the outputs of image processors that are not inputs of the model."""
        return ["crop_sizes"]

    def apply_chat_template(
        self, conversation: Sequence[Any], *args: Any, return_labels: bool = False, **kwargs: Any
    ) -> Any:
        """Format one or several conversations as text, or as inputs of the model.

        Args:
            conversation: Messages `{"role", "content"}`, or a list of conversations. The content is a string, or a
                list of `{"type": "text", "text"}` and `{"type": "image", "image" | "path" | "url"}`, or
                `{"type": "image"}` if the model gets `vision_features`.
            *args: See `ProcessorMixin.apply_chat_template`.
            return_labels: Whether to return tensors for training, padded on the right, with `labels (B, T)`. Labels
                are the tokens of the assistant, including the end of each turn, and -100 for all other tokens.
            **kwargs: See `ProcessorMixin.apply_chat_template`, such as `add_generation_prompt`, `tokenize`,
                `return_dict`, `return_tensors` and `processor_kwargs`.

        Raises:
            ValueError: If a role or part is unknown, a message or reply is empty, a text contains `image_token`, a
                conversation has no labels, the number of images differs from the number of image parts, or an image
                is cut by truncation.
        """
        conversation = validate_conversation(conversation, self.image_token)
        if not return_labels:
            return super().apply_chat_template(conversation, *args, **kwargs)
        processor_kwargs = {"padding_side": "right", **(kwargs.pop("processor_kwargs", None) or {})}
        options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True, "return_tensors": "pt"}
        inputs = super().apply_chat_template(
            conversation, *args, **{**kwargs, **options, "processor_kwargs": processor_kwargs}
        )
        is_label = inputs.pop("assistant_masks").bool()
        for row, labelled in enumerate(is_label):
            if not labelled.any():
                raise ValueError(
                    f"Conversation {row} must have a reply of the assistant to compute labels, but has none. Remove "
                    "it, or increase `max_length` if it was truncated."
                )
        is_label &= inputs["input_ids"] != self.image_token_id  # images of the assistant are not predicted
        inputs["labels"] = inputs["input_ids"].masked_fill(~is_label, -100)
        return inputs

    def validate_inputs(self, images: Any = None, text: Any = None, **kwargs: Any) -> None:
        """Check that images and texts are not empty, and that each text has one placeholder for each of its images.

        Raises:
            ValueError: If a check fails, or `do_image_splitting` is set and the image processor cannot split images.
        """
        if kwargs.get("do_image_splitting") and not hasattr(self.image_processor, "do_image_splitting"):
            raise ValueError(
                f"`do_image_splitting` is not supported by {type(self.image_processor).__name__}. Omit it, or use a "
                "`VlmkitSmolVLMImageProcessor`."
            )
        if images is None and isinstance(text, list):  # the model checks the number of `vision_features`
            text = [sample.replace(self.image_token, "image") if isinstance(sample, str) else sample for sample in text]
        elif isinstance(text, list) and isinstance(images, list) and images and isinstance(images[0], (list, tuple)):
            # transformers only compares the total numbers, which may agree by chance.
            for row, (own, sample) in enumerate(zip(images, text, strict=False)):
                if (found := sample.count(self.image_token)) != len(own):
                    raise ValueError(
                        f"Text {row} must have {len(own)} {self.image_token}, one for each of its images, but has "
                        f"{found}."
                    )
        super().validate_inputs(images=images, text=text, **kwargs)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """Return the placeholders of all crops of an image.

        Raises:
            ValueError: If their number depends on the size of the image, and there is no image.
        """
        if "crop_sizes" in image_inputs:
            return self.image_token * self._count_image_tokens(image_inputs["crop_sizes"][image_idx])
        if self.num_image_tokens is None:
            raise ValueError(
                "The number of image tokens depends on the size of the image. Pass the images together with the texts."
            )
        return self.image_token * self.num_image_tokens

    def _count_image_tokens(self, crop_sizes: Sequence[tuple[int, int]]) -> int:
        """Return the number of image tokens of all crops of an image."""
        if self.num_image_tokens is not None:
            return self.num_image_tokens * len(crop_sizes)
        divisor = self.image_processor.size_divisor
        return sum((height // divisor) * (width // divisor) for height, width in crop_sizes)

    def get_text_with_replacements(
        self, text: list[str], images_replacements: Sequence[str] = (), *args: Any, **kwargs: Any
    ) -> tuple[list[str], list[Any]]:
        """Replace each `image_token` with all placeholders of its image, also if no images are given."""
        num_images = sum(sample.count(self.image_token) for sample in text)
        replacements = list(images_replacements) or [self.replace_image_token({}, 0) for _ in range(num_images)]
        return super().get_text_with_replacements(text, replacements, *args, **kwargs)

    def _get_num_multimodal_tokens(self, image_sizes: Sequence[Any] | None = None, **kwargs: Any) -> MultiModalData:
        """Return the number of image tokens for given image sizes, which inference servers need in advance."""
        if image_sizes is None:
            return MultiModalData()
        if not hasattr(self.image_processor, "crop_sizes"):
            num_images = len(image_sizes)
            num_tokens = [self.num_image_tokens] * num_images
            return MultiModalData(num_image_tokens=num_tokens, num_image_patches=[1] * num_images)
        options = images_kwargs(self, **kwargs)
        crops = [self.image_processor.crop_sizes(height, width, **options) for height, width in image_sizes]
        return MultiModalData(
            num_image_tokens=[self._count_image_tokens(sizes) for sizes in crops],
            num_image_patches=[len(sizes) for sizes in crops],
        )
