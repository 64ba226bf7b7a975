"""The text encoders that a Q-Former can start from: their sizes, and their weights under the Q-Former's names."""

from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

FAMILIES = ("distilbert", "bert", "roberta")

# Parts of the weights' names, there and here, in the order in which they are replaced.
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
    """Sizes of a text encoder of BERT's family.

    Args:
        vocab_size: rows of the table of token embeddings.
        num_positions: tokens that a text can have.
        hidden_size: width D of the tokens.
        num_layers: of self-attention and feed-forward.
        num_heads: of self-attention.
        intermediate_size: width within the feed-forward layers.
        eps: of all layer norms.
        dropout: of embeddings and feed-forward layers.
        attention_dropout: of attention probabilities.
        output_dropout: of what is attended.
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
        config: of DistilBERT, BERT (and with it MiniLM) or RoBERTa.

    Raises:
        ValueError: it is another model, or its activation is not the GELU that all published ones have.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"{config.model_type} is no text encoder that the Q-Former can start from; give one of the family of BERT: "
            f"{', '.join(FAMILIES)} (MiniLM is a bert)"
        )
    is_distilbert = config.model_type == "distilbert"
    activation = config.activation if is_distilbert else config.hidden_act
    if activation != "gelu":
        raise ValueError(f"the activation of text_config is {activation!r}; the Q-Former's is 'gelu'")
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
    """The weights of a text encoder, under the names that they have in `text_embeddings` and `qformer`.

    What BERT and RoBERTa add to every token of a text (the embedding of its first segment) is added to the table of
    positions, of which RoBERTa's first rows belong to the padding and are left out.

    Args:
        encoder: of one of the families that [`encoder_sizes`] knows, without a pooling layer.
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
    """The row of the first token's position: RoBERTa counts from its padding token."""
    return config.pad_token_id + 1 if config.model_type == "roberta" else 0
