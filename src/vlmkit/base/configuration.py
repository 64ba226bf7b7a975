"""Base class of the configurations."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from vlmkit.base.hub import ShimMixin
from vlmkit.compat.keywords import config_keywords
from vlmkit.validation import did_you_mean

_COMMON_FIELDS = {field.name for field in fields(PreTrainedConfig)}


@strict
class VlmkitConfig(ShimMixin, PreTrainedConfig):
    """Base class of configurations, which rejects the unknown keywords that transformers accepts silently.

    Raises:
        TypeError: If a keyword is not a field. The message suggests the most similar field.
        ValueError: If the saved configuration belongs to another model type.
        huggingface_hub.errors.StrictDataclassFieldValidationError: If a value has the wrong type or is not an allowed
            choice.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        """Reject keywords that are not fields, and configurations of another model type."""
        if (model_type := kwargs.get("model_type", self.model_type)) != self.model_type:
            raise ValueError(
                f"`model_type` must be {self.model_type!r}, but got {model_type!r}. "
                "Load the configuration with AutoConfig, or pass the folder of the right model."
            )
        known = config_keywords()
        self.check_keywords(name for name in kwargs if name not in known and not name.startswith("_"))
        super().__post_init__(**kwargs)

    def set_tied_head(self, tie_word_embeddings: bool | None) -> None:
        """Set whether the language modeling head is tied, here and in `text_config`.

        transformers only reads the outermost configuration.

        Args:
            tie_word_embeddings: Value that the user passed. Defaults to the value in `text_config`.
        """
        text_config: Any = self.text_config
        if tie_word_embeddings is None:
            tie_word_embeddings = getattr(text_config, "tie_word_embeddings", False)
        self.tie_word_embeddings = text_config.tie_word_embeddings = tie_word_embeddings

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from a dictionary. Keyword arguments override it and must be fields."""
        config, unused = super().from_dict(config_dict, **{**kwargs, "return_unused_kwargs": True})
        if kwargs.get("return_unused_kwargs"):  # the model's constructor checks them
            return config, unused
        cls.check_keywords(name for name in unused if not name.startswith("_"))
        return config

    @classmethod
    def check_keywords(cls, keywords: Iterable[str]) -> None:
        """Reject keywords that are not fields.

        Raises:
            TypeError: If there is a keyword.
        """
        names = [field.name for field in fields(cls) if field.name not in _COMMON_FIELDS]
        for keyword in keywords:
            hint = did_you_mean(keyword, names) or f" Its fields are {', '.join(names)}."
            raise TypeError(f"{cls.__name__} has no field {keyword!r}.{hint}")
