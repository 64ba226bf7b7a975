"""Which blocks of a language model train."""

from contextlib import suppress
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from vlmkit.modules.language_models import decoder_layers


def freeze_lower_blocks(model: PreTrainedModel, *, fraction: float, freeze_token_embeddings: bool = False) -> int:
    """Train the upper blocks of a language model, its final norm and its head; keep the rest of it as it is.

    The lowest `int(fraction * blocks)` blocks are frozen, and with them the tables of learned positions and of tokens.
    A token table that is tied to the head is the head, and trains. With no block to freeze, everything trains.

    `from_pretrained` makes all of them trainable again, so call this after it. The call decides alone what trains,
    whatever was frozen before: 0.5 after 0.7 frees a fifth of the blocks. Outside the language model it touches
    nothing, be it a vision tower or a connector. Frozen blocks keep their dropout.

    Args:
        model: a causal language model or a model that holds one, found by `get_decoder()` and
            `get_output_embeddings()`; before [peft](https://github.com/huggingface/peft) wraps it.
        fraction: of the blocks, from the lowest, 0 to 1.
        freeze_token_embeddings: whether the token table stays as it is even if it is the head. This saves the table's
            gradient and optimizer state, and, unless something that trains feeds the blocks, such as a connector, the
            backward pass through the frozen ones.

    Returns:
        The number of frozen blocks.

    Raises:
        ValueError: the fraction is not a number between 0 and 1, or the model has no decoder with a list of blocks.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=5, n_head=2))
        >>> freeze_lower_blocks(model, fraction=0.4)
        2
        >>> [block.mlp.c_fc.weight.requires_grad for block in model.transformer.h]
        [False, False, True, True, True]
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction!r}; give a number between 0 and 1, such as 0.5")
    decoder, blocks, token_table = _language_model(model)
    head = model.get_output_embeddings() or decoder.get_output_embeddings()
    num_frozen = int(fraction * len(blocks))

    decoder.requires_grad_(True)
    if head is not None:
        head.requires_grad_(True)
    for block in blocks[:num_frozen]:
        block.requires_grad_(False)
    if num_frozen:
        in_blocks = set(blocks.modules())
        for table in decoder.modules():
            if isinstance(table, nn.Embedding) and table not in in_blocks:
                table.requires_grad_(head is not None and table.weight is head.weight)
    if freeze_token_embeddings:
        token_table.requires_grad_(False)
    return num_frozen


def _language_model(model: PreTrainedModel) -> tuple[PreTrainedModel, nn.ModuleList, nn.Embedding]:
    """The decoder of a model, the list of its blocks and its token table.

    Raises:
        ValueError: there is none.
    """
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None
    with suppress(ValueError):
        blocks, token_table = decoder_layers(decoder), decoder.get_input_embeddings()
        if isinstance(token_table, nn.Embedding):  # an image model's is a convolution
            return decoder, blocks, token_table
    raise ValueError(
        f"{type(model).__name__} has no decoder with a list of `config.num_hidden_layers` blocks; "
        "give a causal language model, or a model whose get_decoder() returns one"
    )
