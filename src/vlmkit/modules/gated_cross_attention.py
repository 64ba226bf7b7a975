"""Gated cross-attention between the layers of a causal language model."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from vlmkit.modules.attention import Attention, additive_attention_mask
from vlmkit.modules.feed_forward import FeedForward
from vlmkit.modules.language_models import decoder_layers

_EPS = 1e-5
# Maps the index of a decoder layer and its input `(B, T, D)` to the input that replaces it, `(B, T, D)`.
CrossAttentionHook = Callable[[int, Tensor], Tensor]


class GatedCrossAttentionBlock(GradientCheckpointingLayer):
    """Cross-attention to images and a feed-forward layer, each with a pre-norm, a gate and a residual connection.

    The gates are initialized to 0, so that a new block changes nothing.

    Args:
        config: See [`Attention`].
        hidden_size: Width D of text and images. The feed-forward layer has 4 D hidden units.
        num_heads: See [`Attention`].
    """

    def __init__(self, config: PreTrainedConfig, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size, eps=_EPS)
        self.attention = Attention(config, hidden_size=hidden_size, num_heads=num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=_EPS)
        self.feed_forward = FeedForward(hidden_size, intermediate_size=4 * hidden_size)
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def forward(
        self, hidden_states: Tensor, cross_attention_states: Tensor, attention_mask: Tensor, has_image: Tensor
    ) -> Tensor:
        """Attend to the images of each text.

        Args:
            hidden_states: `(B, T, D)`.
            cross_attention_states: `(B, 2, heads, N, D / heads)`, keys and values of the images.
            attention_mask: `(B, 1, T, N)`, added to the scores. No row is entirely minus infinity.
            has_image: `(B, T, 1)`, false for positions without an image, whose states are returned unchanged.

        Returns:
            `(B, T, D)`.
        """
        keys, values = cross_attention_states.unbind(dim=1)
        attended, _ = self.attention(self.attention_norm(hidden_states), (keys, values), attention_mask)
        states = hidden_states + self.attention_gate.tanh() * attended
        states = states + self.feed_forward_gate.tanh() * self.feed_forward(self.feed_forward_norm(states))
        return torch.where(has_image, states, hidden_states)


class GatedCrossAttention(nn.Module):
    """Cross-attention blocks in front of the first decoder layer and of every `interval`-th layer after it.

    Positions without an image pass through all blocks unchanged, so that a text without images gives the outputs of the
    language model alone. The blocks are not part of the language model, whose checkpoints load as before:
    [`register_cross_attention_hooks`] prepares its layers once, and each call passes them a hook:

        decoder(inputs_embeds=..., cross_attention_hook=blocks.make_hook(states, visible))

    Args:
        config: See [`Attention`].
        hidden_size: Width D of the language model.
        num_heads: Heads of the cross-attention.
        num_layers: Number of layers of the language model.
        interval: Number of layers from one block to the next.

    Raises:
        ValueError: If `interval` is not between 1 and `num_layers`, or the heads do not divide the width.

    References:
        Alayrac et al., "Flamingo" (arXiv:2204.14198, section 2.2); compared with image tokens in the text by Laurençon
        et al., "What matters when building vision-language models?" (arXiv:2405.02246).

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> config = LlamaConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32)
        >>> decoder = LlamaModel(config).eval()
        >>> register_cross_attention_hooks(decoder)
        >>> blocks = GatedCrossAttention(config, hidden_size=16, num_heads=2, num_layers=4, interval=2)
        >>> texts, images = torch.randn(1, 5, 16), torch.randn(1, 3, 16)
        >>> visible = torch.ones(1, 1, 5, 3, dtype=torch.bool)
        >>> hook = blocks.make_hook(blocks.cross_attention_states(images), visible)
        >>> states = decoder(inputs_embeds=texts, cross_attention_hook=hook).last_hidden_state
        >>> torch.equal(states, decoder(inputs_embeds=texts).last_hidden_state)  # the gates are still closed
        True
    """

    def __init__(self, config: PreTrainedConfig, *, hidden_size: int, num_heads: int, num_layers: int, interval: int):
        super().__init__()
        if not 1 <= interval <= num_layers:
            raise ValueError(
                f"`cross_layer_interval` must be between 1 and {num_layers}, the number of layers of the language "
                f"model, but got {interval}."
            )
        self.interval = interval
        self.blocks = nn.ModuleList(
            GatedCrossAttentionBlock(config, hidden_size=hidden_size, num_heads=num_heads)
            for _ in range(0, num_layers, interval)
        )

    def cross_attention_states(self, image_embeds: Tensor) -> Tensor:
        """Compute the keys and values of all blocks, once for any number of calls.

        Args:
            image_embeds: `(B, N, D)`, the images of each text.

        Returns:
            `(B, blocks, 2, heads, N, D / heads)`, keys before values.
        """
        attentions: list[Any] = [block.attention for block in self.blocks]
        return torch.stack([torch.stack(part.key_values(image_embeds), dim=1) for part in attentions], dim=1)

    def make_hook(self, cross_attention_states: Tensor, visible: Tensor) -> CrossAttentionHook:
        """Return the hook that the decoder layers apply to their inputs in one call.

        Args:
            cross_attention_states: See [`GatedCrossAttention.cross_attention_states`].
            visible: `(B, 1, T, N)` booleans, which image embeddings each position may attend to. A row may be all
                false.
        """
        has_image = visible.any(dim=-1, keepdim=True)
        # A softmax needs at least one entry: positions without images attend to all, and their result is discarded.
        mask = additive_attention_mask(visible | ~has_image, cross_attention_states.dtype)
        has_image = has_image[:, 0]

        # A function, because accelerate would move the tensors of a tuple or dataclass to other devices.
        def hook(index: int, hidden_states: Tensor) -> Tensor:
            row, offset = divmod(index, self.interval)
            if offset:
                return hidden_states
            return self.blocks[row](hidden_states, cross_attention_states[:, row], mask, has_image)

        return hook


def register_cross_attention_hooks(decoder: PreTrainedModel) -> None:
    """Let the layers of a decoder apply the keyword argument `cross_attention_hook` to their inputs.

    A decoder that is called with `cross_attention_hook` passes it on to its layers (see [`check_forwards_keywords`]).
    The input of each layer is then replaced with `cross_attention_hook(index, hidden_states)`. Calls without the
    keyword are unchanged. The layers do not store blocks, images or weights.

    Args:
        decoder: Causal language model without its head.

    Raises:
        ValueError: If the decoder accepts no further keyword arguments.
    """
    parameters = inspect.signature(decoder.forward).parameters.values()
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        raise ValueError(unsupported_message(decoder))
    for index, layer in enumerate(decoder_layers(decoder)):
        # A partial function, unlike a closure, can be copied and pickled with the layer.
        layer.register_forward_pre_hook(partial(_apply_hook, index), with_kwargs=True)


@torch.no_grad()
def check_forwards_keywords(decoder: PreTrainedModel) -> None:
    """Check that a decoder passes unknown keyword arguments on to all of its layers, by a forward pass of two tokens.

    Args:
        decoder: Decoder that [`register_cross_attention_hooks`] has prepared.

    Raises:
        ValueError: If a layer does not receive the keyword, and could not attend to images.
    """
    called = set()

    def record(index: int, hidden_states: Tensor) -> Tensor:
        called.add(index)
        return hidden_states

    input_ids = torch.zeros(1, 2, dtype=torch.long, device=decoder.device)
    decoder(input_ids=input_ids, use_cache=False, cross_attention_hook=record)
    if len(called) < len(decoder_layers(decoder)):
        raise ValueError(unsupported_message(decoder))


def unsupported_message(decoder: PreTrainedModel) -> str:
    """Return the error message for a decoder that does not pass keyword arguments on to its layers."""
    return (
        f"{type(decoder).__name__} does not pass keyword arguments on to its layers, which cross-attention needs. "
        'Use a language model that does, such as Llama, SmolLM, Qwen, GPT-2 or OPT, or set `fusion="autoregressive"`.'
    )


def _apply_hook(index: int, _layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Change the input of a layer, as a forward pre-hook of torch."""
    hook = kwargs.pop("cross_attention_hook", None)
    if hook is None:
        return args, kwargs
    if args:
        return (hook(index, args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": hook(index, kwargs["hidden_states"])}
