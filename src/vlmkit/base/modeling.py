"""Base class of the models."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from safetensors import SafetensorError
from transformers import PreTrainedModel

from vlmkit.base.configuration import VlmkitConfig
from vlmkit.base.model_card import CardMixin
from vlmkit.base.processing import VlmkitProcessor
from vlmkit.compat.keywords import forward_keywords
from vlmkit.compat.weight_names import with_module_names
from vlmkit.modules.freezing import Freezable
from vlmkit.validation import check_arguments


class VlmkitModel(CardMixin, PreTrainedModel):
    """Base class of models. Saving writes a model card, and loading freezes what the configuration freezes.

    Attributes:
        processor_class: Class of the processor that prepares the inputs of the model.

    Args:
        config: Configuration of the model.
        **unknown: Keywords of `from_pretrained` that are not fields of the configuration.

    Raises:
        TypeError: If there is an unknown keyword. The message suggests the most similar field.
    """

    processor_class: ClassVar[type[VlmkitProcessor]]
    # transformers asks each backbone whether it supports the feature.
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: VlmkitConfig, **unknown: Any):
        config.check_keywords(unknown)
        super().__init__(config)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model as `PreTrainedModel.from_pretrained` does, and freeze what the configuration freezes.

        Raises:
            OSError: If no model is found, or its weights are truncated or damaged.
            ValueError: If the folder holds a DoRA adapter.
        """
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"The weights in {pretrained_model_name_or_path} are truncated or damaged ({error}). "
                "Download or save them again."
            ) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if any(getattr(adapter, "use_dora", False) for adapter in getattr(model, "peft_config", {}).values()):
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a DoRA adapter, and transformers loses its magnitudes. "
                "Load the base model, and add the adapter with peft.PeftModel.from_pretrained."
            )
        for module in model.modules():  # transformers makes every loaded parameter trainable
            if isinstance(module, Freezable):
                module.freeze()
        return loaded

    @classmethod
    def check_forward_arguments(cls, names: Iterable[str]) -> None:
        """Reject keywords of `forward` that no transformers model accepts.

        Raises:
            TypeError: If there is an unknown keyword. The message suggests the most similar argument.
        """
        unknown = set(names) - forward_keywords()
        check_arguments(f"{cls.__name__}.forward", unknown, inspect.signature(cls.forward).parameters)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a state dict, also in the checkpoint format that `save_pretrained` writes.

        That format holds tied weights once, and some backbones under the names of their published checkpoints.
        """
        named = with_module_names(self, state_dict)
        tied = {name: named[source] for name, source in self.all_tied_weights_keys.items() if source in named}
        return super().load_state_dict({**tied, **named}, *args, **kwargs)
