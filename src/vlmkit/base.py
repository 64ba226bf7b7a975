"""What the configurations, models and processors of the library have in common, beyond transformers' own."""

import inspect
import os
from collections.abc import Iterable, KeysView, Mapping
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    Cache,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    StaticCache,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.utils import TransformersKwargs

from vlmkit.hub import CardMixin, ShimMixin
from vlmkit.image_processors import without_timm
from vlmkit.images import rgb_images
from vlmkit.modules.freezing import Freezable
from vlmkit.validation import nearest

# Keywords that are no fields but that `PreTrainedConfig` reads or writes itself.
_TRANSFORMERS_KEYWORDS = {
    "attn_implementation",
    "auto_map",
    "compression_config",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_weights",
    "use_cache",
}


@strict
class VlmkitConfig(ShimMixin, PreTrainedConfig):
    """A configuration that refuses what transformers would silently accept, save and ignore.

    Raises:
        TypeError: an unknown keyword (the message names the nearest field).
        ValueError: the saved configuration of another model type.
        huggingface_hub.errors.StrictDataclassFieldValidationError: a value of the wrong type or choice.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse keywords that are no fields, and the fields of another model."""
        if (model_type := kwargs.get("model_type", self.model_type)) != self.model_type:
            raise ValueError(
                f"this is the configuration of a {model_type!r} model, not of {self.model_type!r}; "
                "load it with AutoModel, or give the folder of the right model"
            )
        known = _TRANSFORMERS_KEYWORDS | GenerationConfig._get_default_generation_params().keys()
        self.refuse(name for name in kwargs if name not in known and not name.startswith("_"))
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a dictionary; keyword arguments override it and must be fields."""
        config, unused = super().from_dict(config_dict, **{**kwargs, "return_unused_kwargs": True})
        if kwargs.get("return_unused_kwargs"):  # the model's constructor is about to judge them
            return config, unused
        cls.refuse(name for name in unused if not name.startswith("_"))
        return config

    @classmethod
    def refuse(cls, keywords: Iterable[str]) -> None:
        """Raise for the first of some keywords that are no fields, naming the nearest field.

        Raises:
            TypeError: there is a keyword.
        """
        names = [field.name for field in fields(cls)]
        for keyword in keywords:
            hint = nearest(keyword, names) or f"; its fields: {', '.join(names)}"
            raise TypeError(f"{cls.__name__} has no field {keyword!r}{hint}")


class VlmkitModel(CardMixin, PreTrainedModel):
    """A model whose saved folder carries a card, and whose frozen parts are frozen again after loading.

    Args:
        config: its configuration.
        **unknown: what `from_pretrained` got beyond the configuration's fields.

    Raises:
        TypeError: there is anything unknown (the message names the nearest field).
    """

    # As far as their backbones do, which transformers asks one by one.
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: VlmkitConfig, **unknown: Any):
        config.refuse(unknown)
        super().__init__(config)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does, and freeze what is configured to stay as it is.

        Raises:
            OSError: nothing is found there, or the weights are truncated or damaged.
            ValueError: a DoRA adapter is found there.
        """
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"the weights in {pretrained_model_name_or_path} are truncated or damaged ({error}); "
                "download or save them again"
            ) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if any(getattr(adapter, "use_dora", False) for adapter in getattr(model, "peft_config", {}).values()):
            raise ValueError(
                f"transformers loses the magnitudes of a DoRA adapter, as that of {pretrained_model_name_or_path} is; "
                "load its base, and put it on with peft.PeftModel.from_pretrained"
            )
        for module in model.modules():  # transformers makes every loaded parameter trainable
            if isinstance(module, Freezable):
                module.freeze()
        return loaded

    @classmethod
    def refuse_arguments(cls, arguments: KeysView[str]) -> None:
        """Raise for the first argument of `forward` that no transformers model takes, naming the nearest that it has.

        Raises:
            TypeError: there is such an argument.
        """
        for name in sorted(arguments - TransformersKwargs.__annotations__.keys()):
            hint = nearest(name, inspect.signature(cls.forward).parameters)
            raise TypeError(f"{cls.__name__}.forward has no argument {name!r}{hint}")

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load as torch does, and what `save_pretrained` writes, too.

        That has the names of a backbone's published checkpoints, and tied weights once. Trainer does not translate the
        names when it resumes or loads the best checkpoint (huggingface/transformers#43701): it would leave all layers
        of a ViT as they are.
        """
        own = self.state_dict().keys()
        if not state_dict.keys() <= own:
            renamings = [item for item in get_model_conversion_mapping(self) if isinstance(item, WeightRenaming)]
            state_dict = {name if name in own else _renamed(name, renamings): state_dict[name] for name in state_dict}
        tied = {name: state_dict[source] for name, source in self.all_tied_weights_keys.items() if source in state_dict}
        return super().load_state_dict({**tied, **state_dict}, *args, **kwargs)


class WritingModel(VlmkitModel):
    """A model that writes by a causal language model of its own, `language_model`, which a subclass builds.

    Args:
        config: its configuration.
        **unknown: see [`VlmkitModel`].
    """

    language_model: PreTrainedModel

    def __init__(self, config: VlmkitConfig, **unknown: Any):
        super().__init__(config, **unknown)
        self.loss_type = "ForCausalLM"

    def get_input_embeddings(self) -> nn.Embedding:
        """The language model's token table."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the language model's token table."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's head."""
        self.language_model.set_output_embeddings(value)

    def get_decoder(self) -> PreTrainedModel:
        """The language model without its head."""
        return self.language_model.base_model

    def _read(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The outputs of the language model's layers; arguments are those of a subclass's `forward`.

        Raises:
            ValueError: a static cache for a language model that supports none.
        """
        if isinstance(past_key_values, StaticCache) and not self._can_compile_fullgraph:  # it would write nonsense
            kind = type(self.language_model).__name__
            raise ValueError(f"{kind} does not support static caches; use the dynamic one")
        if use_cache is None:  # Trainer switches it off in the whole's configuration only
            use_cache = getattr(self.config, "use_cache", None)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            # Not every language model counts without the padding on the left.
            position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        return self.get_decoder()(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )


class VlmkitProcessor(ShimMixin, ProcessorMixin):
    """An image processor, usually with a tokenizer, that takes images of any mode.

    Args:
        image_processor: any; timm's, which cannot be saved outside timm's own checkpoints, is translated.
        tokenizer: any; without a padding token (GPT-2) it pads with its end-of-text token. `None` for a processor that
            takes images only, whose constructor names no tokenizer.

    Raises:
        ValueError: the tokenizer has neither a padding nor an end-of-text token.
    """

    def __init__(self, image_processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase | None = None):
        if tokenizer is not None and tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                kind = type(tokenizer).__name__
                raise ValueError(f"{kind} has no pad_token and no eos_token; set tokenizer.pad_token")
            tokenizer.pad_token = tokenizer.eos_token
        parts = {} if tokenizer is None else {"tokenizer": tokenizer}
        super().__init__(image_processor=without_timm(image_processor), **parts)

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> tuple:
        """Convert images and image files of any mode to RGB, and fetch those behind a URL."""
        return super().prepare_inputs_layout(images=rgb_images(images), text=text, **kwargs)

    def validate_inputs(self, images: Any = None, text: Any = None, **kwargs: Any) -> None:
        """Refuse empty lists and empty texts, which have no embedding.

        Raises:
            ValueError: no image or text, or an empty text (the message names its row).
        """
        super().validate_inputs(images=images, text=text, **kwargs)
        for name, side in (("images", images), ("text", text)):
            if isinstance(side, list) and not side:
                raise ValueError(f"{name} is an empty list; give at least one item or leave it out")
        self._refuse_empty_texts([] if text is None else text)

    @staticmethod
    def _refuse_empty_texts(text: str | Iterable[str]) -> None:
        for row, caption in enumerate([text] if isinstance(text, str) else text):
            if not caption.strip():
                raise ValueError(f"text {row} is empty ({caption!r}); an empty text has no embedding, so drop it")


class ImageTextProcessor(VlmkitProcessor):
    """A processor with a tokenizer, made of the preprocessing of two pretrained models."""

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str | os.PathLike, text: str | os.PathLike, **special_tokens: str
    ) -> Any:
        """Take the image processor of one checkpoint and the tokenizer of another.

        Args:
            vision: folder or hub id of an image model.
            text: folder or hub id of a text model.
            **special_tokens: such as `bos_token="<START>"`, in place of the tokenizer's own; new ones are added to it,
                and the model needs `resize_token_embeddings(len(processor.tokenizer))`.

        Raises:
            OSError: a checkpoint, or its preprocessing, cannot be found.
            ValueError: the tokenizer lacks a token that the processor needs.
        """
        return cls(AutoImageProcessor.from_pretrained(vision), AutoTokenizer.from_pretrained(text, **special_tokens))


def _renamed(name: str, renamings: Iterable[WeightRenaming]) -> str:
    """A weight's name in the model, given that in a file."""
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return name
