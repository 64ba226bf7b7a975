"""Base classes of the models that generate text: a headless model, and the same model with a language modeling head."""

import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, PreTrainedModel, StaticCache

from vlmkit.base.configuration import VlmkitConfig
from vlmkit.base.modeling import VlmkitModel
from vlmkit.compat.cache import cache_argument
from vlmkit.modules.language_models import embedding_name, head_parallel_plan


class HeadlessModel(VlmkitModel):
    """Base class of generative models without a head. A subclass builds `vision_tower` and `language_model`.

    Args:
        config: Configuration of the model.
        **unknown: See [`VlmkitModel`].
    """

    base_model_prefix = "model"
    language_model: PreTrainedModel

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the token embeddings of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings of the language model."""
        self.language_model.set_input_embeddings(value)

    def _decode(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the language model on embeddings. The arguments are those of a subclass's `forward`.

        Raises:
            ValueError: If a static cache is passed for a language model that does not support it.
        """
        if isinstance(cache, StaticCache) and not self.language_model._can_compile_fullgraph:
            kind = type(self.language_model).__name__
            raise ValueError(f"{kind} does not support static caches. Use a `DynamicCache`.")
        if use_cache is None:  # Trainer disables it in the outer configuration only
            use_cache = getattr(self.config, "use_cache", None)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            # Not every language model skips left padding when it counts positions.
            position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            return_dict=True,
            **cache_argument(cache),
            **kwargs,
        )


class GenerativeModel(VlmkitModel):
    """Base class of generative models. A subclass builds a [`HeadlessModel`] in `self.model`, and `self.lm_head`.

    Args:
        config: Configuration of the model.
        **unknown: See [`VlmkitModel`].
    """

    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    model: HeadlessModel
    lm_head: nn.Linear

    def __init__(self, config: VlmkitConfig, **unknown: Any):
        super().__init__(config, **unknown)
        self.loss_type = "ForCausalLM"

    def post_init(self) -> None:
        """Declare the tied head under the language model's own name of its embeddings, and initialize the weights."""
        decoder = self.model.language_model
        self._tied_weights_keys = {"lm_head.weight": f"model.language_model.{embedding_name(decoder)}.weight"}
        self._can_compile_fullgraph = decoder._can_compile_fullgraph
        super().post_init()
        if (plan := head_parallel_plan(decoder.config)) is not None:  # a tied head is sharded as the embeddings are
            self._tp_plan: dict[str, str] = {**self._tp_plan, "lm_head": plan}

    def get_output_embeddings(self) -> nn.Linear:
        """Return the language modeling head."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the language modeling head."""
        self.lm_head = value

    def load_text_backbone(self, text: str | os.PathLike, dtype: torch.dtype) -> None:
        """Load the weights and the generation settings of a pretrained causal language model.

        The token embeddings of the pretrained model are extended to the size of the vocabulary in the configuration.

        Args:
            text: Folder or Hub id of the language model.
            dtype: Data type of its weights.

        Raises:
            ValueError: If the language model is not supported, or its head is not tied as configured.
        """
        language_model = AutoModelForCausalLM.from_pretrained(text, dtype=dtype)
        vocab_size = self.config.get_text_config().vocab_size
        if vocab_size > language_model.get_input_embeddings().num_embeddings:
            language_model.resize_token_embeddings(vocab_size)
        self.check_language_model(language_model)
        head, embeddings = language_model.get_output_embeddings(), language_model.get_input_embeddings()
        if self.config.tie_word_embeddings and head.weight is not embeddings.weight:
            raise ValueError(
                f"`tie_word_embeddings` must be False for {text}, whose head and embeddings are not tied, but got True."
            )
        self.model.language_model.load_state_dict(language_model.get_decoder().state_dict())
        self.lm_head.load_state_dict(head.state_dict())
        self.generation_config = language_model.generation_config

    def check_language_model(self, language_model: PreTrainedModel) -> None:
        """Check that a pretrained language model can be used. A subclass may restrict which ones.

        Raises:
            ValueError: If the language model is not supported.
        """
