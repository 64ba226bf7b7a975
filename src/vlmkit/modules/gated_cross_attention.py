"""Gated cross-attention: a language model looks at images between its layers, which stay as they are."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from vlmkit.modules.attention import Attention, FeedForward, added_to_scores
from vlmkit.modules.language_models import decoder_layers

_EPS = 1e-5
# From the index of a layer and the states before it `(B, T, D)` to the states `(B, T, D)` that the layer gets.
ImageReader = Callable[[int, Tensor], Tensor]


class GatedCrossAttentionBlock(GradientCheckpointingLayer):
    """Attention of a text to images, then a feed-forward layer; each behind a norm, with a gate and a residual.

    The gates are 0 at first, and then the block changes nothing.

    Args:
        config: see [`Attention`].
        hidden_size: width D of text and images; the feed-forward layer has 4 D hidden units.
        num_heads: see [`Attention`].
    """

    def __init__(self, config: PreTrainedConfig, hidden_size: int, num_heads: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size, eps=_EPS)
        self.attention = Attention(config, hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=_EPS)
        self.feed_forward = FeedForward(hidden_size, 4 * hidden_size)
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_states: Tensor, key_values: Tensor, attention_mask: Tensor, sees_any: Tensor) -> Tensor:
        """From a text `(B, T, D)` to `(B, T, D)`.

        Args:
            hidden_states: `(B, T, D)`.
            key_values: `(B, 2, heads, N, D / heads)`, of the images.
            attention_mask: `(B, 1, T, N)`, added to the scores; no row is all minus infinity.
            sees_any: `(B, T, 1)`, false where a position sees no image, and keeps its state.
        """
        keys, values = key_values.unbind(dim=1)
        attended, _ = self.attention(self.attention_norm(hidden_states), (keys, values), attention_mask)
        states = hidden_states + self.attention_gate.tanh() * attended
        states = states + self.feed_forward_gate.tanh() * self.feed_forward(self.feed_forward_norm(states))
        return torch.where(sees_any, states, hidden_states)


class GatedCrossAttention(nn.Module):
    """Blocks between the layers of a causal language model, in which its text looks at images.

    The first block stands before the first layer, the others before every `interval`-th after it. A position that sees
    no image passes through all of them as it is, feed-forward layers included: a text without images is the language
    model's own, however long the blocks were trained.

    The blocks are no part of the language model, whose checkpoints load as before. [`interleave`] prepares its layers
    once, and they ask the reader that a call gives them:

        decoder(inputs_embeds=..., image_reader=blocks.reader(blocks.key_values(image_embeds), sees))

    Args:
        config: see [`Attention`].
        hidden_size: width D of the language model's layers.
        num_heads: heads of the attention to the images.
        num_layers: of the language model.
        interval: layers from one block to the next.

    Raises:
        ValueError: `interval` is less than 1 or more than `num_layers`, or the heads do not divide the width.

    References:
        Alayrac et al., "Flamingo" (arXiv:2204.14198, section 2.2); compared with image tokens in the text by Laurençon
        et al., "What matters when building vision-language models?" (arXiv:2405.02246).

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> config = LlamaConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32)
        >>> decoder = LlamaModel(config).eval()
        >>> interleave(decoder_layers(decoder))
        >>> check_hands_on_keywords(decoder)
        >>> blocks = GatedCrossAttention(config, 16, num_heads=2, num_layers=4, interval=2)
        >>> texts, images = torch.randn(1, 5, 16), torch.randn(1, 3, 16)
        >>> reader = blocks.reader(blocks.key_values(images), sees=torch.ones(1, 1, 5, 3, dtype=torch.bool))
        >>> seeing = decoder(inputs_embeds=texts, image_reader=reader).last_hidden_state
        >>> torch.equal(seeing, decoder(inputs_embeds=texts).last_hidden_state)  # until the gates open
        True
    """

    def __init__(self, config: PreTrainedConfig, hidden_size: int, num_heads: int, num_layers: int, interval: int):
        super().__init__()
        if not 1 <= interval <= num_layers:
            raise ValueError(
                f"cross_layer_interval is {interval}, but the language model has {num_layers} layers; "
                f"give 1 to {num_layers}"
            )
        self.interval = interval
        self.blocks = nn.ModuleList(
            GatedCrossAttentionBlock(config, hidden_size, num_heads) for _ in range(0, num_layers, interval)
        )

    def key_values(self, image_embeds: Tensor) -> Tensor:
        """What all blocks attend to, computed once for any number of calls.

        Args:
            image_embeds: `(B, N, D)`, of all images of a text side by side.

        Returns:
            `(B, blocks, 2, heads, N, D / heads)`: keys, then values.
        """
        attentions: list[Any] = [block.attention for block in self.blocks]
        return torch.stack([torch.stack(part.key_values(image_embeds), dim=1) for part in attentions], dim=1)

    def reader(self, key_values: Tensor, sees: Tensor) -> ImageReader:
        """What the layers of a language model ask in one call of it.

        Args:
            key_values: of [`GatedCrossAttention.key_values`].
            sees: `(B, 1, T, N)` booleans, which image tokens each position of this call sees; it may see none.

        Returns:
            A function of a layer's index and the states before it `(B, T, D)`: they pass through the block before that
            layer, if there is one.
        """
        sees_any = sees.any(dim=-1, keepdim=True)
        # A softmax needs something to see: who sees nothing sees all, and drops it.
        mask = added_to_scores(sees | ~sees_any, key_values.dtype)
        sees_any = sees_any[:, 0]

        # No tuple or dataclass: accelerate would look into it, and move what it holds.
        def read(index: int, hidden_states: Tensor) -> Tensor:
            row, is_between = divmod(index, self.interval)
            if is_between:
                return hidden_states
            return self.blocks[row](hidden_states, key_values[:, row], mask, sees_any)

        return read


def interleave(layers: nn.ModuleList) -> None:
    """Let the layers of a language model ask for images before they run.

    Called with the keyword `image_reader`, an [`ImageReader`], a decoder hands it to its layers (see
    [`check_hands_on_keywords`]), and each gets `image_reader(index, hidden_states)` in place of its hidden states.
    Called without, they are as before. They keep nothing: no block, no image, no further weight.

    Args:
        layers: of [`decoder_layers`].
    """
    for index, layer in enumerate(layers):
        # A bound index and no closure, so that layers can be copied and pickled.
        layer.register_forward_pre_hook(partial(_ask, index), with_kwargs=True)


@torch.no_grad()
def check_hands_on_keywords(decoder: PreTrainedModel) -> None:
    """Run two tokens through a decoder to see whether all of its layers get a keyword that only they know.

    On the meta device, where weights are about to be loaded, nothing can run, and nothing is checked.

    Args:
        decoder: whose layers went through [`interleave`].

    Raises:
        ValueError: some layer does not, and would never see an image.
    """
    if decoder.device.type == "meta":
        return
    asked = set()

    def record(index: int, hidden_states: Tensor) -> Tensor:
        asked.add(index)
        return hidden_states

    input_ids = torch.zeros(1, 2, dtype=torch.long, device=decoder.device)
    cause = None
    try:
        decoder(input_ids=input_ids, use_cache=False, image_reader=record)
    except TypeError as error:  # it takes no keyword that it does not know
        cause = error
    if len(asked) < len(decoder_layers(decoder)):
        raise ValueError(
            f"{type(decoder).__name__} does not hand keywords on to its layers, between which the text would look at "
            "images; give a language model that does, such as a Llama, SmolLM, Qwen, GPT-2 or OPT, or use "
            'fusion="autoregressive"'
        ) from cause


def _ask(index: int, _layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Change what a layer is called with, as a pre-hook of torch."""
    read = kwargs.pop("image_reader", None)
    if read is None:
        return args, kwargs
    if args:
        return (read(index, args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": read(index, kwargs["hidden_states"])}
