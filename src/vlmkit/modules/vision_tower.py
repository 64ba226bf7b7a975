"""Any image backbone behind one interface: tokens `(B, N, D)` and one pooled vector `(B, D)`."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from vlmkit.modules.backbones import (
    name_of,
    num_prefix_tokens,
    pretrained_size,
    restore_timm_initialization,
    token_width,
    without_pooler,
)
from vlmkit.modules.image_sizes import VisionTowerOutput, encode_by_size
from vlmkit.modules.towers import Tower
from vlmkit.validation import one_of

VISION_POOLINGS = ("auto", "pooler", "cls", "mean")


class VisionTower(Tower):
    """An image backbone of transformers or timm.

    Args:
        config: the backbone's configuration; of a two-tower one (CLIP, SigLIP), its vision part.
        pooling: `"pooler"` (the backbone's own pooled output), `"cls"` (the class token), `"mean"` (mean over patch
            tokens) or `"auto"` (the first of these three that the backbone has).
        frozen: see [`Tower`].
        prefix_tokens: whether class, distillation and register tokens are among the tokens that are returned.
        layers: indices into the backbone's `hidden_states`, whose tokens are returned one layer after the other in
            place of the last ones. They must be as many in each and as wide as the last ones, as a ViT's are.

    Attributes:
        hidden_size: width of the tokens.
        num_prefix_tokens: class, distillation and register tokens that precede the patch tokens.

    Raises:
        ValueError: it is no image model, or cannot be pooled in the way asked for.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        pooling: str = "auto",
        frozen: bool = False,
        prefix_tokens: bool = True,
        layers: Sequence[int] | None = None,
    ):
        one_of("vision_pooling", pooling, VISION_POOLINGS)
        backbone = AutoModel.from_config(config, **without_pooler(AutoModel, config))
        if backbone.main_input_name != "pixel_values":
            raise ValueError(f"{name_of(config)} is no image model: it takes {backbone.main_input_name}")
        if hasattr(backbone, "timm_model"):
            restore_timm_initialization(backbone)
        super().__init__(backbone, pooling, frozen)
        self.prefix_tokens, self.layers = prefix_tokens, None if layers is None else list(layers)
        self.num_prefix_tokens = num_prefix_tokens(self.backbone)
        depth = getattr(self.backbone.config, "num_hidden_layers", None)
        for layer in self.layers or ():
            if isinstance(depth, int) and not -depth - 1 <= layer <= depth:
                raise ValueError(f"{name_of(config)} has no hidden states {layer}; it has {depth + 1}, from 0")
        if pooling == "cls" and not self.num_prefix_tokens:
            raise ValueError(
                f"vision_pooling is 'cls', but {name_of(config)} has no class token; choose 'mean' or 'pooler'"
            )

    @property
    def hidden_size(self) -> int:
        """Width D of the tokens."""
        return token_width(self.backbone)

    @property
    def pooled_size(self) -> int:
        """Width of the pooled vector: that of the tokens, except for CNNs whose head widens it."""
        timm_model = getattr(self.backbone, "timm_model", None)
        if timm_model is not None and self.pooling in ("auto", "pooler"):
            return getattr(timm_model, "head_hidden_size", None) or timm_model.num_features
        return self.hidden_size

    @property
    def _channels_last(self) -> bool:
        return getattr(getattr(self.backbone, "timm_model", None), "output_fmt", None) == "NHWC"

    @classmethod
    def load_backbone(cls, name_or_path: str | os.PathLike, config: PreTrainedConfig, **kwargs: Any) -> PreTrainedModel:
        """Load pretrained weights for a tower of this configuration, from a folder or the hub."""
        return AutoModel.from_pretrained(name_or_path, config=config, **without_pooler(AutoModel, config), **kwargs)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None, **kwargs: Any) -> VisionTowerOutput:
        """Encode images.

        Args:
            pixel_values: `(B, 3, H, W)`; with a mask, images of several sizes, padded on the right and at the bottom.
            pixel_mask: `(B, H, W)`, 1 where the image is and 0 for padding; if given, each image is encoded at its own
                size, with position embeddings interpolated to it, and no other image or padding has a part in it (but
                in training, batch normalisation takes its statistics over images of equal size).
            **kwargs: passed to the backbone, such as `output_hidden_states`.

        Returns:
            `last_hidden_state (B, N, D)`, prefix tokens first, or `(B, L * N, D)` of L layers; and
            `pooler_output (B, pooled_size)`. With a `pixel_mask`, `token_mask (B, rows, columns)`, too: the grid of the
            patch tokens, row by row, false for padding, whose tokens are zeros; then hidden states and attentions only
            of images of one size. Images of another size than the pretrained one are treated as with a mask of ones.

        Raises:
            ValueError: the backbone returns other tokens than its configuration tells, or has no such layer; the mask
                does not fit, a side is no multiple of the patch, or the backbone takes only images of its own size.
        """
        if pixel_mask is None:
            size, own = tuple(pixel_values.shape[2:]), pretrained_size(self.backbone)
            if own is None or size == own or self.layers is not None:
                return self._encode(pixel_values, **kwargs)
            pixel_mask = pixel_values.new_ones(len(pixel_values), *size)
        if self.layers is not None:
            raise ValueError(
                f"pixel_mask and the vision layers {self.layers} exclude each other; leave out the mask and give "
                "images of one size, or take the last layer's tokens alone"
            )
        num_prefix = self.num_prefix_tokens if self.prefix_tokens else 0
        return encode_by_size(self.backbone, self._encode, pixel_values, pixel_mask, num_prefix, **kwargs)

    def encode_or_take(
        self,
        pixel_values: Tensor | None,
        image_tokens: Tensor | None,
        training: bool,
        pixel_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> VisionTowerOutput:
        """Encode images, or take the tokens that the tower gave for them before.

        Args:
            pixel_values: `(B, 3, H, W)`.
            image_tokens: `(B, N, D)` or `(B, L * N, D)`, as `last_hidden_state` of [`VisionTower.forward`].
            training: whether the model around the tower is being trained.
            pixel_mask: of the images, see [`VisionTower.forward`].
            token_mask: `(B, rows, columns)`, as it came with `image_tokens`.
            **kwargs: passed to the backbone.

        Returns:
            The outputs of [`VisionTower.forward`]; of given tokens, `last_hidden_state` and `token_mask` alone.

        Raises:
            ValueError: no images or both kinds, tokens of another shape, tokens in training of this tower, or a mask
                of the other kind.
        """
        if (pixel_values is None) == (image_tokens is None):
            raise ValueError("give the images, either as pixel_values or as image_tokens")
        if (token_mask if image_tokens is None else pixel_mask) is not None:
            raise ValueError("give a pixel_mask with pixel_values, and a token_mask with image_tokens")
        if image_tokens is None:
            return self(pixel_values, pixel_mask=pixel_mask, **kwargs)
        if training and self.is_trained:
            raise ValueError(
                "image_tokens would bypass the vision tower, which is being trained; freeze it: "
                "freeze_vision=True, and in adapt_backbones vision='frozen'"
            )
        num_layers = len(self.layers or [-1])
        if image_tokens.ndim != 3 or image_tokens.shape[2] != self.hidden_size or image_tokens.shape[1] % num_layers:
            tokens = "tokens" if num_layers == 1 else f"tokens of {num_layers} vision layers"
            raise ValueError(
                f"image_tokens are {tuple(image_tokens.shape)}, but this model takes (images, {tokens}, "
                f"{self.hidden_size}); compute them with its own vision tower"
            )
        return VisionTowerOutput(last_hidden_state=image_tokens, token_mask=token_mask)

    def _encode(self, pixel_values: Tensor, **kwargs: Any) -> VisionTowerOutput:
        """Run the backbone on images of one size."""
        if self.layers is not None:
            kwargs["output_hidden_states"] = True
        outputs = self.backbone(pixel_values=pixel_values, return_dict=True, **kwargs)
        tokens = outputs.last_hidden_state
        if tokens.ndim == 4:  # a feature map: (B, D, H, W), or (B, H, W, D) of timm's Swin
            tokens = tokens.flatten(1, 2) if self._channels_last else tokens.flatten(2).transpose(1, 2)
        pooled = self._pool(tokens, outputs.get("pooler_output"))
        for what, tensor, width in (("tokens", tokens, self.hidden_size), ("pooled output", pooled, self.pooled_size)):
            if tensor.shape[-1] != width:
                raise ValueError(
                    f"{name_of(self.backbone.config)} returns {what} of width {tensor.shape[-1]}, but its "
                    f"configuration tells {width}; use another backbone, or the same one of timm"
                )
        if self.layers is not None:
            tokens = self._tokens_of_layers(outputs.get("hidden_states") or ())
        elif not self.prefix_tokens:
            tokens = tokens[:, self.num_prefix_tokens :]
        return VisionTowerOutput(
            last_hidden_state=tokens,
            pooler_output=pooled,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def _tokens_of_layers(self, hidden_states: Sequence[Tensor]) -> Tensor:
        """The tokens of the chosen layers, one layer after the other."""
        name = name_of(self.backbone.config)
        selected: list[Tensor] = []
        for layer in self.layers or ():
            if not -len(hidden_states) <= layer < len(hidden_states):
                raise ValueError(f"{name} has no hidden states {layer}; it has {len(hidden_states)}, from 0")
            states = hidden_states[layer]
            if states.ndim == 4:  # timm gives even a ViT's as maps (B, D, H, W), without the prefix
                states = states.flatten(2).transpose(1, 2)
            elif not self.prefix_tokens:
                states = states[:, self.num_prefix_tokens :]
            if states.shape[-1] != self.hidden_size or states.shape != (selected or [states])[0].shape:
                raise ValueError(
                    f"the layers of {name} differ in shape: layer {layer} gives {tuple(states.shape[1:])}, and the "
                    f"last one's tokens have width {self.hidden_size}; take layers of one shape, as a ViT's are"
                )
            selected.append(states)
        return torch.cat(selected, dim=1)

    def _pool(self, tokens: Tensor, pooler_output: Tensor | None) -> Tensor:
        if self.pooling == "pooler" or (self.pooling == "auto" and pooler_output is not None):
            if pooler_output is None:
                raise ValueError(
                    f"vision_pooling is 'pooler', but {name_of(self.backbone.config)} returns no pooled output; "
                    f"choose {'cls' if self.num_prefix_tokens else 'mean'!r}"
                )
            return pooler_output.flatten(1)  # transformers' CNNs return (B, D, 1, 1)
        if self.pooling == "mean" or not self.num_prefix_tokens:
            return tokens[:, self.num_prefix_tokens :].mean(dim=1)
        return tokens[:, 0]
