"""Caption bank: embeddings of all captions, which a frozen text encoder computes once."""

import os

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from vlmkit.modules.fingerprint import text_fingerprint, weights_fingerprint
from vlmkit.modules.pooling import pool_tokens

BANK_FIELDS = ("caption_template", "class_names", "text_encoder", "caption_normalization")
"""Fields of the configuration that determine a caption bank."""

# Added to all variances, relative to the largest one. Directions with a smaller variance encode grammar and rounding
# errors rather than classes, and must not be amplified to unit variance.
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
    """Embed captions with a text encoder, in evaluation mode and on the device of the encoder.

    Args:
        text_model: Text encoder. For CLIP-like models (with `get_text_features`, or an output `text_embeds`), the
            projected embeddings are used. For other models, the last hidden states are pooled.
        tokenizer: Tokenizer of the text encoder.
        captions: Captions, C in total.
        pooling: Pooling of attended tokens: `"mean"`, `"cls"` or `"last"`, see [`pool_tokens`].
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
            f"Captions must have different embeddings, but {same[0]!r} and {same[1]!r} have the same one. Shorten "
            "`caption_template` if the tokenizer truncates captions, or use another text encoder."
        )
    return embeds


def normalize_embeds(embeds: Tensor, how: str) -> Tensor:
    """Center or whiten embeddings, and scale them to unit length.

    Args:
        embeds: `(C, D)`.
        how: `"none"`, `"center"` or `"whiten"`, see `caption_normalization` of [`PairedCifarAlignerConfig`].

    Returns:
        `(C, D)`, unit length.

    Example:
        >>> embeds = torch.tensor([[1.0, 0.1], [1.0, -0.1]])
        >>> (normalize_embeds(embeds, "none").prod(dim=0) > 0).tolist(), normalize_embeds(embeds, "center").tolist()
        ([True, False], [[0.0, 1.0], [0.0, -1.0]])
    """
    embeds = normalize(embeds, dim=1)
    if how != "none":
        embeds = embeds - embeds.mean(dim=0)
    if how == "whiten":
        double = embeds.double()  # the variances span several orders of magnitude
        variances, directions = torch.linalg.eigh(double.T @ double / len(double))
        scales = (variances.clamp(min=0) + _WHITENING_FLOOR * variances[-1]).rsqrt()
        embeds = (double @ directions * scales @ directions.T).float()
    return normalize(embeds, dim=1)


def encoder_name(text_model: PreTrainedModel, pooling: str) -> str:
    """Return an identifier of a text encoder and its pooling.

    It consists of the name of the model or its folder, the pooling, and a fingerprint of the weights.
    """
    name = os.path.basename(os.path.normpath(text_model.config._name_or_path or type(text_model).__name__))
    # The pooler is not used here, and transformers initializes it at random if the checkpoint does not contain it.
    return f"{name}, {pooling}, {weights_fingerprint(text_model, size=4, without='pooler')}"


def is_encoder(name: str, *, text_model: PreTrainedModel, pooling: str) -> bool:
    """Return whether an identifier from [`encoder_name`] belongs to a text encoder. Names of folders are ignored."""
    return name.partition(", ")[2] == encoder_name(text_model, pooling).partition(", ")[2]


def bank_fingerprints(config: PreTrainedConfig) -> Tensor:
    """Compute the fingerprints of `BANK_FIELDS` that are saved with a caption bank, `(4, 16)` bytes."""
    hashes = [text_fingerprint(str(getattr(config, name)), size=16) for name in BANK_FIELDS]
    return torch.tensor([list(bytes.fromhex(value)) for value in hashes], dtype=torch.uint8)


def _text_embeds(text_model: PreTrainedModel, inputs: dict[str, Tensor], *, pooling: str) -> Tensor:
    """Embed tokenized captions, `(B, D)`."""
    if hasattr(text_model, "get_text_features"):
        return text_model.get_text_features(
            input_ids=inputs["input_ids"], attention_mask=inputs.get("attention_mask")
        ).pooler_output
    outputs = text_model(**inputs)
    if outputs.get("text_embeds") is not None:
        return outputs.text_embeds
    return pool_tokens(outputs.last_hidden_state, inputs.get("attention_mask"), pooling=pooling)
