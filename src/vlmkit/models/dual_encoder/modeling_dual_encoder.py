"""DualEncoderModel: an image backbone and a text backbone with a joint embedding space."""

import math
import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import ProcessorMixin
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from vlmkit.base.building import build_from_pretrained
from vlmkit.base.modeling import VlmkitModel
from vlmkit.losses import info_nce, sigmoid_loss
from vlmkit.losses.similarity import scaled_similarity
from vlmkit.models.dual_encoder.configuration_dual_encoder import DualEncoderConfig
from vlmkit.models.dual_encoder.processing_dual_encoder import DualEncoderProcessor
from vlmkit.modules.temperature import initial_logit_scale, inverse_temperature, new_logit_scale
from vlmkit.modules.text_tower import TextTower
from vlmkit.modules.vision_tower import VisionTower

_USAGE = """import vlmkit
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model="{name}")
classify("photo.jpg", candidate_labels=["a dog in the snow", "two children on a beach"])"""


@dataclass
class DualEncoderOutput(ModelOutput):
    """Outputs of [`DualEncoderModel`].

    Args:
        loss: Scalar, float32. Returned if images and texts are pairs and `return_loss` is set.
        logits_per_image: `(I, B)`, float32, cosine similarities of images and texts, divided by the temperature. With
            `loss="sigmoid"`, a learned bias is added.
        logits_per_text: `(B, I)`, the transpose of `logits_per_image`.
        image_embeds: `(I, D)`, float32, unit length.
        text_embeds: `(B, D)`, float32, unit length.
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class DualEncoderModel(VlmkitModel):
    """A dual encoder: an image backbone and a text backbone, whose pooled outputs are projected to a joint space.

    By default, it is the model of the paper "Which side should we scale?": a frozen ViT for images, the mean of frozen
    GPT-2 token and position embeddings for texts, a linear layer that projects images to the width of the text
    features, and InfoNCE with temperature 0.07.

    Args:
        config: Configuration of the model.

    References:
        "Which side should we scale?" (see `docs/papers.md`).

    Example:
        >>> import torch
        >>> from transformers import GPT2Config, ViTConfig
        >>> config = DualEncoderConfig(
        ...     vision_config=ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32),
        ...     text_config=GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50),
        ... )
        >>> model = DualEncoderModel(config)
        >>> outputs = model(pixel_values=torch.rand(2, 3, 32, 32), input_ids=torch.tensor([[1, 2], [3, 4]]))
        >>> outputs.logits_per_image.shape
        torch.Size([2, 2])
    """

    config: DualEncoderConfig
    processor_class = DualEncoderProcessor
    base_model_prefix = "dual_encoder"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    card_usage = _USAGE
    card_pipeline = "zero-shot-image-classification"
    accepts_loss_kwargs = False  # the losses are means over the batch, also with gradient accumulation

    def __init__(self, config: DualEncoderConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.vision_tower = VisionTower(
            config.vision_config, pooling=config.vision_pooling, frozen=config.freeze_vision
        )
        self.text_tower = TextTower(
            config.text_config,
            features=config.text_features,
            pooling=config.text_pooling,
            frozen=config.freeze_text,
        )
        shared = config.projection == "shared"
        width = config.projection_dim or self.text_tower.hidden_size
        self.vision_projection = nn.Linear(self.vision_tower.pooled_size, width)
        self.text_projection = nn.Linear(self.text_tower.hidden_size, width) if shared else nn.Identity()
        self.logit_scale = new_logit_scale(config.learn_temperature)
        self.logit_bias = nn.Parameter(torch.empty(1)) if config.loss == "sigmoid" else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, DualEncoderModel):
            if module.logit_scale is not None:
                init.constant_(module.logit_scale, initial_logit_scale(self.config.temperature))
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, self.config.logit_bias)
        elif isinstance(module, nn.Linear):  # the default of PyTorch, which the original uses
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | os.PathLike,
        text: str | os.PathLike,
        *,
        processor: ProcessorMixin | None = None,
        dtype: torch.dtype = torch.float32,
        **config: Any,
    ) -> "DualEncoderModel":
        """Join two pretrained backbones. Only the projections are new.

        Args:
            vision: Folder or Hub id of an image model of transformers or timm, or of a two-tower model, whose image
                side is taken.
            text: Folder or Hub id of a text model, or of a two-tower model, whose text side is taken.
            processor: [`DualEncoderProcessor`] of the same two models. Tokens that it has added get embeddings.
            dtype: Data type of the model weights.
            **config: Fields of [`DualEncoderConfig`].

        Raises:
            OSError: If a model cannot be found.
            TypeError: If a configuration field is unknown.
            ValueError: If a backbone does not support the configuration.
        """
        return build_from_pretrained(cls, vision=vision, text=text, processor=processor, dtype=dtype, **config)

    def load_text_backbone(self, text: str | os.PathLike, dtype: torch.dtype) -> None:
        """Load the weights of a pretrained text model."""
        config = self.config
        backbone = TextTower.load_backbone(text, config.text_config, features=config.text_features, dtype=dtype)
        self.text_tower.set_backbone(backbone)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the token embeddings of the text backbone."""
        return self.text_tower.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings of the text backbone."""
        self.text_tower.backbone.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: `(B, 3, H, W)`.
            **kwargs: Passed to the vision backbone, such as `output_hidden_states`.

        Returns:
            `last_hidden_state (B, N, D_vision)`, and the projected embeddings as `pooler_output (B, D)`, not
            normalized.
        """
        outputs = self.vision_tower(pixel_values, **kwargs)
        outputs.pooler_output = self.vision_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode texts.

        Args:
            input_ids: `(B, T)`, padded on either side.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding. Defaults to ones.
            **kwargs: Passed to the text backbone, such as `output_hidden_states`.

        Returns:
            `last_hidden_state (B, T, D_text)`, and the projected embeddings as `pooler_output (B, D)`, not normalized.
        """
        outputs = self.text_tower(input_ids, attention_mask, **kwargs)
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_pooled: Tensor | None = None,
        text_pooled: Tensor | None = None,
        group_ids: Tensor | None = None,
        return_loss: bool = True,
        token_type_ids: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DualEncoderOutput:
        """Compute the similarities of images and texts, and the loss of pairs.

        Args:
            pixel_values: `(I, 3, H, W)`.
            input_ids: `(B, T)`, padded on either side.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding. Defaults to ones.
            image_pooled: `(I, D_vision)`, precomputed pooled outputs of the vision tower in place of `pixel_values`.
            text_pooled: `(B, D_text)`, precomputed pooled outputs of the text tower in place of `input_ids`.
            group_ids: `(I,)`, integers that are equal for equal images. Captions of one image are not negatives of each
                other.
            return_loss: Whether to compute the loss. In evaluation mode, it is omitted if I and B differ, as in
                zero-shot classification.
            token_type_ids: Ignored, because a caption is a single segment. Accepted because BERT tokenizers return it.
            **kwargs: Keywords that every transformers model accepts, passed to both backbones.

        Raises:
            TypeError: If an argument is unknown. The message suggests the most similar one.
            ValueError: If both or neither kind of images or texts are given, or features have another shape. In
                training also if images and texts differ in number, or features are given for a tower that is trained.
        """
        self.check_forward_arguments(kwargs)
        if (pixel_values is None) == (image_pooled is None):
            raise ValueError("Pass the images either as `pixel_values` or as `image_pooled`.")
        if (input_ids is None) == (text_pooled is None):
            raise ValueError("Pass the texts either as `input_ids` or as `text_pooled`.")
        if image_pooled is None:
            image_pooled = self.vision_tower(pixel_values, **kwargs).pooler_output
        else:
            self._check_pooled(image_pooled, side="image", width=self.vision_tower.pooled_size)
        if text_pooled is None:
            text_pooled = self.text_tower(input_ids, attention_mask, **kwargs).pooler_output
        else:
            self._check_pooled(text_pooled, side="text", width=self.text_tower.hidden_size)
        paired = len(image_pooled) == len(text_pooled)
        if self.training and return_loss and not paired:
            raise ValueError(
                f"The number of images must equal the number of texts in training, but got {len(image_pooled)} images "
                f"and {len(text_pooled)} texts. Pass one text for each image."
            )

        # Precomputed features may have another data type than the weights. Embeddings are always float32.
        image_features = self.vision_projection(image_pooled.to(self.vision_projection.weight.dtype))
        text_features = self.text_projection(text_pooled.to(self.vision_projection.weight.dtype))
        image_embeds = nn.functional.normalize(image_features.float(), dim=-1)
        text_embeds = nn.functional.normalize(text_features.float(), dim=-1)
        scale = inverse_temperature(self.logit_scale, self.config.temperature)
        logits_per_image = scaled_similarity(image_embeds, text_embeds, logit_scale=scale)
        if self.logit_bias is not None:
            logits_per_image = logits_per_image + self.logit_bias

        loss = None
        if return_loss and paired:
            if self.logit_bias is not None:
                loss = sigmoid_loss(
                    image_embeds, text_embeds, logit_scale=scale, logit_bias=self.logit_bias, group_ids=group_ids
                )
            else:
                loss = info_nce(image_embeds, text_embeds, logit_scale=scale, group_ids=group_ids)
        return DualEncoderOutput(
            loss=loss,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_image.T,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
        )

    def _check_pooled(self, pooled: Tensor, *, side: Literal["image", "text"], width: int) -> None:
        """Check precomputed outputs of a tower.

        Raises:
            ValueError: If the shape is not `(B, width)`, or the tower is trained and the model is in training mode.
        """
        part, tower = ("vision", self.vision_tower) if side == "image" else ("text", self.text_tower)
        if self.training and tower.is_trained:
            raise ValueError(
                f"`{side}_pooled` cannot be used while the {part} tower is trained. Freeze it with "
                f"`freeze_{part}=True`."
            )
        if pooled.ndim != 2 or pooled.shape[1] != width:
            raise ValueError(
                f"`{side}_pooled` must have the shape ({side}s, {width}), but got {tuple(pooled.shape)}. Pass the "
                f"`pooler_output` of the {part} tower of this model."
            )
