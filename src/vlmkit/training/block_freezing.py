"""Partial fine-tuning of a language model: frozen lower blocks, trainable upper blocks."""

from contextlib import suppress
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from vlmkit.modules.language_models import decoder_layers


def freeze_lower_blocks(model: PreTrainedModel, *, fraction: float, freeze_token_embeddings: bool = False) -> int:
    """Freeze the lower blocks of a language model, and make its upper blocks, final norm and head trainable.

    The lowest `int(fraction * num_blocks)` blocks are frozen. If this is at least one block, token embeddings and
    learned position embeddings are frozen as well. Token embeddings that are tied to the head remain trainable.

    - Call this function after `from_pretrained`, which makes all parameters trainable.
    - A later call replaces an earlier one: a fraction of 0.5 after 0.7 unfreezes a fifth of the blocks.
    - Modules outside the language model, such as a vision tower or a connector, are not changed.
    - Dropout remains active in frozen blocks.

    Args:
        model: Causal language model, or a model that contains one, which is found by `get_decoder()` and
            `get_output_embeddings()`. It must not be wrapped by [peft](https://github.com/huggingface/peft) yet.
        fraction: Fraction of the blocks to freeze, from 0 to 1, counted from the lowest block.
        freeze_token_embeddings: Whether to freeze the token embeddings in any case, even if they are tied to the head.
            This saves their gradients and optimizer states. It also saves the backward pass through the frozen blocks,
            unless their inputs come from a trainable module, such as a connector. Default: `False`.

    Returns:
        The number of frozen blocks.

    Raises:
        ValueError: If `fraction` is not a number from 0 to 1, or `model` does not have a decoder with a list of blocks.

    References:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification" (arXiv:1801.06146), which
        unfreezes the layers gradually, from the last to the first.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=5, n_head=2))
        >>> freeze_lower_blocks(model, fraction=0.4)
        2
        >>> [block.mlp.c_fc.weight.requires_grad for block in model.transformer.h]
        [False, False, True, True, True]
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        raise ValueError(f"`fraction` must be a number from 0 to 1, but got {fraction!r}.")
    decoder, blocks, token_embeddings = _language_model(model)
    head = model.get_output_embeddings() or decoder.get_output_embeddings()
    num_frozen = int(fraction * len(blocks))

    decoder.requires_grad_(True)
    if head is not None:
        head.requires_grad_(True)
    for block in blocks[:num_frozen]:
        block.requires_grad_(False)
    if num_frozen:
        in_blocks = set(blocks.modules())
        for module in decoder.modules():
            if isinstance(module, nn.Embedding) and module not in in_blocks:
                module.requires_grad_(head is not None and module.weight is head.weight)
    if freeze_token_embeddings:
        token_embeddings.requires_grad_(False)
    return num_frozen


def _language_model(model: PreTrainedModel) -> tuple[PreTrainedModel, nn.ModuleList, nn.Embedding]:
    """Return the decoder of a model, its blocks and its token embeddings.

    Raises:
        ValueError: If the model does not have a decoder with a list of blocks.
    """
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None
    with suppress(ValueError):
        blocks, token_embeddings = decoder_layers(decoder), decoder.get_input_embeddings()
        if isinstance(token_embeddings, nn.Embedding):  # the input embeddings of an image model are a convolution
            return decoder, blocks, token_embeddings
    raise ValueError(
        f"`model` must have a decoder with a list of `config.num_hidden_layers` blocks, but got {type(model).__name__}."
        " Pass a causal language model, or a model whose `get_decoder()` returns one."
    )
