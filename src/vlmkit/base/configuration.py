"""Base class of the configurations."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from vlmkit.base.hub import ShimMixin
from vlmkit.compat.keywords import config_keywords
from vlmkit.validation import did_you_mean


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
        """Reject keywords that are not fields, and the fields of another model."""
        if (model_type := kwargs.get("model_type", self.model_type)) != self.model_type:
            raise ValueError(
                f"`model_type` must be {self.model_type!r}, but got {model_type!r}. "
                "Load the configuration with AutoConfig, or pass the folder of the right model."
            )
        known = config_keywords()
        self.check_keywords(name for name in kwargs if name not in known and not name.startswith("_"))
        super().__post_init__(**kwargs)

    def tie_head_as_text_config(self, tie_word_embeddings: bool | None) -> None:
        """Tie the language modeling head if `text_config` does. transformers reads the outermost configuration only.

        Args:
            tie_word_embeddings: Value that the user passed, if any.

        Raises:
            ValueError: If the value differs from that in `text_config`.
        """
        tied = getattr(self.text_config, "tie_word_embeddings", False)
        if tie_word_embeddings not in (None, tied):
            raise ValueError(
                f"`tie_word_embeddings` must be {tied} as in `text_config`, but got {tie_word_embeddings}. "
                "Set it in `text_config`."
            )
        self.tie_word_embeddings = tied

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
        names = [field.name for field in fields(cls)]
        for keyword in keywords:
            hint = did_you_mean(keyword, names) or f" Its fields are {', '.join(names)}."
            raise TypeError(f"{cls.__name__} has no field {keyword!r}.{hint}")
