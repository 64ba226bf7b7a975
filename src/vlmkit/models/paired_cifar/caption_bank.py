"""The caption bank: embeddings of all captions by a frozen text encoder, computed once."""

import os

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from vlmkit.modules.fingerprint import text_fingerprint, weights_fingerprint
from vlmkit.modules.pooling import pool_tokens

BANK_FIELDS = ("caption_template", "class_names", "text_encoder", "caption_normalization")
"""The fields of a configuration that a bank depends on."""

# Directions weaker than this part of the strongest one are rounding and grammar, not classes: they stay weak.
_WHITENING_FLOOR = 1e-3


@torch.no_grad()
def embed_captions(
    text_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    captions: list[str],
    pooling: str = "mean",
    batch_size: int = 256,
) -> Tensor:
    """Embed captions with any text encoder, in evaluation mode and on the encoder's device.

    Args:
        text_model: Text encoder. Of CLIP-like models (with `get_text_features`, or an output `text_embeds`), the
            projected embeddings are used. Of other models, the last hidden states are pooled.
        tokenizer: Tokenizer of the text encoder.
        captions: C texts.
        pooling: `"mean"`, `"cls"` or `"last"`, over attended tokens.
        batch_size: Number of captions per forward pass.

    Returns:
        `(C, D)`, float32, on the CPU, not normalized.

    Raises:
        ValueError: If two captions have the same embedding, for example because the tokenizer truncates them.
    """
    training = text_model.training
    text_model.eval()
    blocks = []
    for start in logging.tqdm(range(0, len(captions), batch_size), desc="Embedding captions", leave=False):
        inputs = tokenizer(captions[start : start + batch_size], padding=True, truncation=True, return_tensors="pt")
        blocks.append(_text_embeds(text_model, inputs.to(text_model.device), pooling=pooling).float().cpu())
    text_model.train(training)
    embeds = torch.cat(blocks)
    _, first = embeds.unique(dim=0, return_inverse=True)
    if len(first.unique()) < len(captions):
        twin = int((first.bincount() > 1).nonzero()[0])
        same = [captions[row] for row in (first == twin).nonzero().flatten().tolist()[:2]]
        raise ValueError(
            f"the captions {same[0]!r} and {same[1]!r} have the same embedding; shorten caption_template, or use "
            "an encoder that tells them apart"
        )
    return embeds


def normalize_embeds(embeds: Tensor, how: str) -> Tensor:
    """Centre or whiten embeddings, and scale them to unit length.

    Args:
        embeds: `(C, D)`.
        how: `"none"`, `"center"` or `"whiten"`, see [`PairedCifarAlignerConfig`].

    Returns:
        `(C, D)` of unit length.

    Example:
        >>> embeds = torch.tensor([[1.0, 0.1], [1.0, -0.1]])
        >>> (normalize_embeds(embeds, "none").prod(dim=0) > 0).tolist(), normalize_embeds(embeds, "center").tolist()
        ([True, False], [[0.0, 1.0], [0.0, -1.0]])
    """
    embeds = normalize(embeds, dim=1)
    if how != "none":
        embeds = embeds - embeds.mean(dim=0)
    if how == "whiten":
        double = embeds.double()  # the weak directions are a thousandth of the strong ones
        variances, directions = torch.linalg.eigh(double.T @ double / len(double))
        scales = (variances.clamp(min=0) + _WHITENING_FLOOR * variances[-1]).rsqrt()
        embeds = (double @ directions * scales @ directions.T).float()
    return normalize(embeds, dim=1)


def encoder_name(text_model: PreTrainedModel, pooling: str) -> str:
    """Return an identifier of a text encoder: its Hub id or folder name, pooling, and a fingerprint of its weights."""
    name = os.path.basename(os.path.normpath(text_model.config._name_or_path or type(text_model).__name__))
    # The pooler is not used here, and a BERT that was saved without it has a new random one each time it is loaded.
    return f"{name}, {pooling}, {weights_fingerprint(text_model, size=4, without='pooler')}"


def is_encoder(name: str, *, text_model: PreTrainedModel, pooling: str) -> bool:
    """Return whether an identifier from [`encoder_name`] belongs to a text encoder, whatever its folder is now."""
    return name.partition(", ")[2] == encoder_name(text_model, pooling).partition(", ")[2]


def bank_fingerprints(config: PreTrainedConfig) -> Tensor:
    """A fingerprint of each of `BANK_FIELDS`, which is saved with a bank: `(4, 16)` bytes."""
    hashes = [text_fingerprint(str(getattr(config, name)), size=16) for name in BANK_FIELDS]
    return torch.tensor([list(bytes.fromhex(value)) for value in hashes], dtype=torch.uint8)


def _text_embeds(text_model: PreTrainedModel, inputs: dict[str, Tensor], *, pooling: str) -> Tensor:
    if hasattr(text_model, "get_text_features"):
        return text_model.get_text_features(
            input_ids=inputs["input_ids"], attention_mask=inputs.get("attention_mask")
        ).pooler_output
    outputs = text_model(**inputs)
    if outputs.get("text_embeds") is not None:
        return outputs.text_embeds
    return pool_tokens(outputs.last_hidden_state, inputs.get("attention_mask"), pooling=pooling)
