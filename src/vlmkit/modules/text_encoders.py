"""Sizes and weights of the text encoders that a Q-Former can be initialized from."""

from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

FAMILIES = ("distilbert", "bert", "roberta")

# Parts of weight names in the text encoder and in the Q-Former, in the order of their replacement.
_DISTILBERT_NAMES = {
    "embeddings.LayerNorm": "text_embeddings.norm",
    "embeddings.word": "text_embeddings.word",
    "embeddings.position": "text_embeddings.position",
    "transformer.layer": "qformer.layers",
    "attention.q_lin": "self_attention.attention.q_proj",
    "attention.k_lin": "self_attention.attention.k_proj",
    "attention.v_lin": "self_attention.attention.v_proj",
    "attention.out_lin": "self_attention.attention.out_proj",
    "sa_layer_norm": "self_attention.norm",
    "ffn.lin1": "feed_forward.mlp.fc1",
    "ffn.lin2": "feed_forward.mlp.fc2",
    "output_layer_norm": "feed_forward.norm",
}
_BERT_NAMES = {
    "embeddings.LayerNorm": "text_embeddings.norm",
    "embeddings.word": "text_embeddings.word",
    "embeddings.position": "text_embeddings.position",
    "encoder.layer": "qformer.layers",
    "attention.self.query": "self_attention.attention.q_proj",
    "attention.self.key": "self_attention.attention.k_proj",
    "attention.self.value": "self_attention.attention.v_proj",
    "attention.output.dense": "self_attention.attention.out_proj",
    "attention.output.LayerNorm": "self_attention.norm",
    "intermediate.dense": "feed_forward.mlp.fc1",
    "output.dense": "feed_forward.mlp.fc2",
    "output.LayerNorm": "feed_forward.norm",
}


class EncoderSizes(NamedTuple):
    """Sizes of a BERT-like text encoder.

    Args:
        vocab_size: Number of token embeddings.
        num_positions: Maximum number of tokens of a text.
        hidden_size: Width D of the tokens.
        num_layers: Number of layers.
        num_heads: Number of heads of the self-attention.
        intermediate_size: Hidden width of the feed-forward layers.
        eps: Epsilon of all layer norms.
        dropout: Dropout probability of embeddings and feed-forward layers.
        attention_dropout: Dropout probability of the attention weights.
        output_dropout: Dropout probability of the attention output.
    """

    vocab_size: int
    num_positions: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    eps: float
    dropout: float
    attention_dropout: float
    output_dropout: float


def encoder_sizes(config: PreTrainedConfig) -> EncoderSizes:
    """Read the sizes of a text encoder.

    Args:
        config: Configuration of a DistilBERT, BERT (which includes MiniLM) or RoBERTa model.

    Raises:
        ValueError: If the model has another type, or an activation other than GELU.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"The text encoder of a Q-Former must have one of the model types {', '.join(FAMILIES)} (MiniLM has type "
            f"bert), but got {config.model_type!r}."
        )
    is_distilbert = config.model_type == "distilbert"
    activation = config.activation if is_distilbert else config.hidden_act
    if activation != "gelu":
        raise ValueError(f"The activation of a Q-Former's text encoder must be 'gelu', but got {activation!r}.")
    common: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "num_positions": config.max_position_embeddings - _first_position(config),
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
    }
    if is_distilbert:
        return EncoderSizes(
            **common,
            intermediate_size=config.hidden_dim,
            eps=1e-12,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            output_dropout=0.0,
        )
    return EncoderSizes(
        **common,
        intermediate_size=config.intermediate_size,
        eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        output_dropout=config.hidden_dropout_prob,
    )


def encoder_weights(encoder: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights of a text encoder under the names of `text_embeddings` and `qformer`.

    The embedding of the first segment, which BERT and RoBERTa add to every token, is added to the position embeddings.
    The first position embeddings of RoBERTa, which belong to padding, are removed.

    Args:
        encoder: Text encoder without a pooling layer, of a type that [`encoder_sizes`] supports.
    """
    names = _DISTILBERT_NAMES if encoder.config.model_type == "distilbert" else _BERT_NAMES
    weights = {}
    for name, weight in encoder.state_dict().items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        weights[name] = weight
    segments = weights.pop("embeddings.token_type_embeddings.weight", None)
    positions = weights["text_embeddings.position_embeddings.weight"][_first_position(encoder.config) :]
    weights["text_embeddings.position_embeddings.weight"] = positions if segments is None else positions + segments[0]
    return weights


def _first_position(config: PreTrainedConfig) -> int:
    """Return the row of the first position. RoBERTa counts from its padding token."""
    return config.pad_token_id + 1 if config.model_type == "roberta" else 0
