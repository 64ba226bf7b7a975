"""Text towers: any text backbone with one interface, tokens `(B, T, D)` and a pooled vector `(B, D)`."""

import copy
import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlmkit.modules.backbones import backbone_name, features_size, pooler_keywords
from vlmkit.modules.pooling import POOLINGS, pool_tokens
from vlmkit.modules.token_embeddings import TokenEmbeddings
from vlmkit.modules.towers import Tower, get_text_config, load_backbone_config
from vlmkit.validation import check_choice

TEXT_FEATURES = ("token_embeddings", "encoder")


class TextTower(Tower):
    """A text backbone of transformers, or its embeddings only.

    Args:
        config: Configuration of the backbone, or the text part of a model with two towers (CLIP, SigLIP).
        features: `"encoder"` for the hidden states of the backbone, or `"token_embeddings"` for token plus learned
            position embeddings. Other parameters of the backbone are not built then.
        pooling: Pooling of attended tokens: `"mean"`, `"cls"` or `"last"`, see [`pool_tokens`].
        frozen: Whether the backbone is frozen.

    Raises:
        ValueError: If `features` or `pooling` is unknown, or the backbone is not a text encoder.
    """

    def __init__(
        self, config: PreTrainedConfig, *, features: str = "encoder", pooling: str = "mean", frozen: bool = False
    ):
        check_choice("text_features", features, TEXT_FEATURES)
        check_choice("text_pooling", pooling, POOLINGS)
        if features == "token_embeddings":
            backbone = TokenEmbeddings._from_config(config)
        else:
            auto_class = _text_auto_class(config)
            backbone = auto_class.from_config(config, **pooler_keywords(auto_class, config))
            if not isinstance(backbone.get_input_embeddings(), nn.Embedding):
                raise ValueError(f"Model type {backbone_name(config)!r} has no token embeddings. Use a text model.")
        super().__init__(backbone, pooling=pooling, frozen=frozen)

    @property
    def hidden_size(self) -> int:
        """Return the width D of the tokens and of the pooled vector."""
        if isinstance(self.backbone, TokenEmbeddings):
            return self.backbone.token_embeddings.embedding_dim
        return features_size(self.backbone)

    @classmethod
    def load_backbone(
        cls, name_or_path: str | os.PathLike, config: PreTrainedConfig, *, features: str = "encoder", **kwargs: Any
    ) -> PreTrainedModel:
        """Load pretrained weights for a tower of this configuration.

        Args:
            name_or_path: Folder or Hub id of the text model.
            config: Configuration of the tower. If its vocabulary is larger than that of the text model, the token
                embeddings are extended.
            features: See [`TextTower`].
            **kwargs: Passed to `from_pretrained`, such as `dtype`.
        """
        check_choice("text_features", features, TEXT_FEATURES)
        published = copy.deepcopy(config)
        published.vocab_size = load_backbone_config(name_or_path, get_text_config).vocab_size
        if features == "token_embeddings":
            backbone = TokenEmbeddings.from_text_pretrained(name_or_path, published, **kwargs)
        else:
            auto_class = _text_auto_class(config)
            options = {**pooler_keywords(auto_class, config), **kwargs}
            backbone = auto_class.from_pretrained(name_or_path, config=published, **options)
        if config.vocab_size > published.vocab_size:
            backbone.resize_token_embeddings(config.vocab_size)
        return backbone

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode texts. The result does not depend on the padding side.

        Args:
            input_ids: `(B, T)`.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding on either side. Defaults to ones.
            **kwargs: Passed to the backbone, such as `output_hidden_states`.

        Returns:
            `last_hidden_state (B, T, D)` and `pooler_output (B, D)`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        # Backbones count positions in different ways, but all of them agree if the padding is on the right.
        order = attention_mask.argsort(dim=1, descending=True, stable=True)
        outputs = self.backbone(
            input_ids=input_ids.gather(1, order),
            attention_mask=attention_mask.gather(1, order),
            return_dict=True,
            **kwargs,
        )
        back = order.argsort(dim=1)
        tokens = _reorder(outputs.last_hidden_state, back, dim=1)
        hidden_states, attentions = outputs.get("hidden_states"), outputs.get("attentions")
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=pool_tokens(tokens, attention_mask, pooling=self.pooling),
            hidden_states=hidden_states and tuple(_reorder(states, back, dim=1) for states in hidden_states),
            attentions=attentions and tuple(_reorder(_reorder(a, back, dim=2), back, dim=3) for a in attentions),
        )


def _reorder(tensor: Tensor, order: Tensor, dim: int) -> Tensor:
    """Reorder each sequence of a batch `(B, ..., T, ...)` by its row of `order (B, T)`."""
    shape = [len(order) if d == 0 else order.shape[1] if d == dim else 1 for d in range(tensor.ndim)]
    return tensor.gather(dim, order.view(shape).expand_as(tensor))


def _text_auto_class(config: PreTrainedConfig) -> Any:
    """Return the Auto class that builds the encoder of a model, without the decoder of T5-like models."""
    if config.is_encoder_decoder and type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
        raise ValueError(f"Model type {config.model_type!r} cannot be built without its decoder. Use another model.")
    return AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
