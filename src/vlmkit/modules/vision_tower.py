"""Vision towers: any image backbone with one interface, vision features `(B, N, D)` and a pooled vector `(B, D)`."""

import copy
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from vlmkit.modules.backbones import (
    backbone_name,
    features_size,
    num_prefix_tokens,
    patch_size,
    pooler_keywords,
    pretrained_size,
    restore_timm_initialization,
)
from vlmkit.modules.image_sizes import VisionTowerOutput, encode_by_size
from vlmkit.modules.precomputed_vision import PrecomputedVisionConfig
from vlmkit.modules.towers import Tower
from vlmkit.validation import check_choice

VISION_POOLINGS = ("auto", "pooler", "cls", "mean")


class VisionTower(Tower):
    """An image backbone of transformers or timm.

    Args:
        config: Configuration of the backbone, or the vision part of a model with two towers (CLIP, SigLIP).
        pooling: `"pooler"` (pooled output of the backbone), `"cls"` (class token), `"mean"` (mean over patches) or
            `"auto"` (the first of these three that the backbone supports).
        frozen: Whether the backbone is frozen.
        prefix_tokens: Whether to return class, distillation and register tokens in front of the patches.
        layers: Indices into the `hidden_states` of the backbone. The tokens of these layers are concatenated along the
            token dimension, instead of returning the last layer. All layers must have the same shape, as in a ViT.

    Attributes:
        hidden_size: Width D of the vision features.
        num_prefix_tokens: Number of class, distillation and register tokens, which precede the patches.

    Raises:
        ValueError: If the model is not an image model, or does not support `pooling` or `layers`.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        pooling: str = "auto",
        frozen: bool = False,
        prefix_tokens: bool = True,
        layers: Sequence[int] | None = None,
    ):
        check_choice("vision_pooling", pooling, VISION_POOLINGS)
        backbone = AutoModel.from_config(config, **pooler_keywords(AutoModel, config))
        if backbone.main_input_name != "pixel_values":
            raise ValueError(
                f"The vision backbone must take `pixel_values`, but {backbone_name(config)} takes "
                f"`{backbone.main_input_name}`. Use an image model."
            )
        if hasattr(backbone, "timm_model"):
            restore_timm_initialization(backbone)
        super().__init__(backbone, pooling=pooling, frozen=frozen)
        self.prefix_tokens, self.layers = prefix_tokens, None if layers is None else list(layers)
        self.num_prefix_tokens = num_prefix_tokens(self.backbone)
        depth = getattr(self.backbone.config, "num_hidden_layers", None)
        for layer in self.layers or ():
            if isinstance(depth, int) and not -depth - 1 <= layer <= depth:
                raise ValueError(_missing_layer_message(config, layer, depth + 1))
        if pooling == "cls" and not self.num_prefix_tokens:
            raise ValueError(
                f"`vision_pooling` must be 'mean' or 'pooler' for {backbone_name(config)}, which has no class token, "
                "but got 'cls'."
            )

    @property
    def hidden_size(self) -> int:
        """Return the width D of the vision features."""
        return features_size(self.backbone)

    @property
    def pooled_size(self) -> int:
        """Return the width of the pooled vector. It differs from `hidden_size` for CNNs with a wider head."""
        timm_model = getattr(self.backbone, "timm_model", None)
        if timm_model is not None and self.pooling in ("auto", "pooler"):
            return getattr(timm_model, "head_hidden_size", None) or timm_model.num_features
        return self.hidden_size

    @property
    def _channels_last(self) -> bool:
        return getattr(getattr(self.backbone, "timm_model", None), "output_fmt", None) == "NHWC"

    @classmethod
    def load_backbone(cls, name_or_path: str | os.PathLike, config: PreTrainedConfig, **kwargs: Any) -> PreTrainedModel:
        """Load a pretrained backbone.

        Args:
            name_or_path: Folder or Hub id of the image model.
            config: Configuration of the tower.
            **kwargs: Passed to `from_pretrained`, such as `dtype`.
        """
        return AutoModel.from_pretrained(name_or_path, config=config, **pooler_keywords(AutoModel, config), **kwargs)

    def forward(
        self, pixel_values: Tensor, pixel_attention_mask: Tensor | None = None, **kwargs: Any
    ) -> VisionTowerOutput:
        """Encode images.

        Args:
            pixel_values: `(B, 3, H, W)`. Images of different sizes are padded on the right and at the bottom.
            pixel_attention_mask: `(B, H, W)`, 1 for pixels of the image and 0 for padding. With a mask, each image is
                encoded at its own size with interpolated position embeddings, independently of padding and of other
                images. In training, batch normalization computes its statistics over images of equal size. Defaults
                to ones if the images do not have the pretrained size.
            **kwargs: Passed to the backbone, such as `output_hidden_states`.

        Returns:
            `last_hidden_state (B, N, D)`, prefix tokens first, or `(B, L * N, D)` for L layers, and
            `pooler_output (B, pooled_size)`. With a mask, also `patch_attention_mask (B, rows, columns)`, false for
            padding, whose features are zeros. Hidden states and attentions are then only returned if all images have
            the same size.

        Raises:
            ValueError: If the features do not match the configuration of the backbone, a layer does not exist, the
                mask has another shape than the images, a side is not a multiple of the patch size, or the backbone
                does not support the image size.
        """
        if pixel_attention_mask is None:
            size, own = tuple(pixel_values.shape[2:]), pretrained_size(self.backbone)
            if own is None or size == own or self.layers is not None:
                return self._encode(pixel_values, **kwargs)
            pixel_attention_mask = pixel_values.new_ones(len(pixel_values), *size)
        if self.layers is not None:
            raise ValueError(
                f"`pixel_attention_mask` cannot be combined with the vision layers {self.layers}. Pass images of the "
                "pretrained size without a mask, or use the last layer only."
            )
        num_prefix = self.num_prefix_tokens if self.prefix_tokens else 0
        return encode_by_size(
            self.backbone,
            self._encode,
            pixel_values=pixel_values,
            pixel_attention_mask=pixel_attention_mask,
            num_prefix_tokens=num_prefix,
            **kwargs,
        )

    def get_vision_features(
        self,
        pixel_values: Tensor | None = None,
        *,
        vision_features: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        patch_attention_mask: Tensor | None = None,
        training: bool,
        **kwargs: Any,
    ) -> VisionTowerOutput:
        """Encode images, or check and return precomputed vision features.

        Args:
            pixel_values: `(B, 3, H, W)`.
            vision_features: `(B, N, D)` or `(B, L * N, D)`, the `last_hidden_state` of an earlier
                [`VisionTower.forward`].
            pixel_attention_mask: Mask of `pixel_values`, see [`VisionTower.forward`].
            patch_attention_mask: `(B, rows, columns)`, the mask that was returned with `vision_features`.
            training: Whether the model that contains the tower is in training mode.
            **kwargs: Passed to the backbone.

        Returns:
            The outputs of [`VisionTower.forward`]. For precomputed features, only `last_hidden_state` and
            `patch_attention_mask`.

        Raises:
            ValueError: If both or neither of the inputs are given, the features have another shape, a mask belongs to
                the other input, or features are given in training although the tower is trained.
        """
        if (pixel_values is None) == (vision_features is None):
            raise ValueError("Pass the images either as `pixel_values` or as `vision_features`.")
        if (patch_attention_mask if vision_features is None else pixel_attention_mask) is not None:
            raise ValueError(
                "Pass `pixel_attention_mask` with `pixel_values`, and `patch_attention_mask` with `vision_features`."
            )
        if vision_features is None:
            return self(pixel_values, pixel_attention_mask=pixel_attention_mask, **kwargs)
        if training and self.is_trained:
            raise ValueError(
                "`vision_features` cannot be used while the vision tower is trained. Freeze it with "
                "`freeze_vision=True`, or with `vision='frozen'` in `adapt_backbones`."
            )
        num_layers = len(self.layers or [-1])
        has_shape = vision_features.ndim == 3 and vision_features.shape[2] == self.hidden_size
        if not has_shape or vision_features.shape[1] % num_layers:
            tokens = "tokens" if num_layers == 1 else f"tokens of {num_layers} vision layers"
            raise ValueError(
                f"`vision_features` must have the shape (images, {tokens}, {self.hidden_size}), but got "
                f"{tuple(vision_features.shape)}. Compute them with the vision tower of this model."
            )
        return VisionTowerOutput(last_hidden_state=vision_features, patch_attention_mask=patch_attention_mask)

    def _encode(self, pixel_values: Tensor, **kwargs: Any) -> VisionTowerOutput:
        """Run the backbone on images of one size."""
        if self.layers is not None:
            kwargs["output_hidden_states"] = True
        outputs = self.backbone(pixel_values=pixel_values, return_dict=True, **kwargs)
        tokens = outputs.last_hidden_state
        if tokens.ndim == 4:  # a feature map (B, D, H, W), or (B, H, W, D) for Swin of timm
            tokens = tokens.flatten(1, 2) if self._channels_last else tokens.flatten(2).transpose(1, 2)
        pooled = self._pool(tokens, outputs.get("pooler_output"))
        for name, tensor, width in (("tokens", tokens, self.hidden_size), ("pooled output", pooled, self.pooled_size)):
            if tensor.shape[-1] != width:
                raise ValueError(
                    f"The {name} of {backbone_name(self.backbone.config)} must have the width {width} of its "
                    f"configuration, but got {tensor.shape[-1]}. Use another backbone, or the same one from timm."
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
        """Concatenate the tokens of the selected layers."""
        selected: list[Tensor] = []
        for layer in self.layers or ():
            if not -len(hidden_states) <= layer < len(hidden_states):
                raise ValueError(_missing_layer_message(self.backbone.config, layer, len(hidden_states)))
            states = hidden_states[layer]
            if states.ndim == 4:  # timm returns feature maps (B, D, H, W) even for a ViT, without prefix tokens
                states = states.flatten(2).transpose(1, 2)
            elif not self.prefix_tokens:
                states = states[:, self.num_prefix_tokens :]
            if states.shape[-1] != self.hidden_size or states.shape != (selected or [states])[0].shape:
                raise ValueError(
                    f"All vision layers must have the same shape and the width {self.hidden_size}, but layer {layer} "
                    f"of {backbone_name(self.backbone.config)} has {tuple(states.shape[1:])}. Select layers of one "
                    "shape, or use a ViT."
                )
            selected.append(states)
        return torch.cat(selected, dim=1)

    def _pool(self, tokens: Tensor, pooler_output: Tensor | None) -> Tensor:
        if self.pooling == "pooler" or (self.pooling == "auto" and pooler_output is not None):
            if pooler_output is None:
                raise ValueError(
                    f"`vision_pooling` must be {'cls' if self.num_prefix_tokens else 'mean'!r} for "
                    f"{backbone_name(self.backbone.config)}, which returns no pooled output, but got 'pooler'."
                )
            return pooler_output.flatten(1)  # CNNs of transformers return (B, D, 1, 1)
        if self.pooling == "mean" or not self.num_prefix_tokens:
            return tokens[:, self.num_prefix_tokens :].mean(dim=1)
        return tokens[:, 0]


def _missing_layer_message(config: PreTrainedConfig, layer: int, num_states: int) -> str:
    return (
        f"Vision layers must be from {-num_states} to {num_states - 1} for {backbone_name(config)}, which returns "
        f"{num_states} hidden states, but got {layer}."
    )


def num_vision_patches(config: PreTrainedConfig, *, height: int, width: int) -> int:
    """Return the number of patch tokens that an image backbone computes, without its prefix tokens.

    Args:
        config: Configuration of the backbone.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.

    Example:
        >>> from transformers import ViTConfig
        >>> config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> num_vision_patches(config, height=224, width=224)
        196
    """
    tower = _meta_tower(config)
    return tower(torch.empty(1, 3, height, width, device="meta")).last_hidden_state.shape[1]


def vision_patch_size(config: PreTrainedConfig) -> int | None:
    """Return the side of a patch in pixels, or `None` for a [`PrecomputedVisionConfig`].

    Args:
        config: Configuration of the backbone.

    Example:
        >>> from transformers import ViTConfig
        >>> vision_patch_size(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
        16
    """
    if isinstance(config, PrecomputedVisionConfig):
        return None
    backbone = _meta_tower(config).backbone
    if (size := patch_size(backbone)) is not None:
        return size[0]
    height, width = pretrained_size(backbone) or (224, 224)  # the configuration of a CNN does not state its stride
    return math.isqrt(height * width // num_vision_patches(config, height=height, width=width))


def _meta_tower(config: PreTrainedConfig) -> VisionTower:
    """Build a tower on the meta device, to compute shapes."""
    config = copy.deepcopy(config)  # building a model writes into its configuration
    with torch.device("meta"):
        return VisionTower(config, pooling="mean", prefix_tokens=False).eval()
