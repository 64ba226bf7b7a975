"""PairedCifarAligner: an image encoder for pairs of images, aligned with a bank of captions."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ViTConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple, torch_compilable_check

from vlmkit.base.modeling import VlmkitModel
from vlmkit.losses import bank_logits, info_nce, soft_cross_entropy, swapped_margin
from vlmkit.models.paired_cifar.caption_bank import (
    BANK_FIELDS,
    bank_fingerprints,
    embed_captions,
    encoder_name,
    is_encoder,
    normalize_embeds,
)
from vlmkit.models.paired_cifar.configuration_paired_cifar import PairedCifarAlignerConfig
from vlmkit.models.paired_cifar.pair_captions import pair_captions
from vlmkit.models.paired_cifar.processing_paired_cifar import PairedCifarAlignerProcessor
from vlmkit.modules.initialization import initialize_xavier
from vlmkit.modules.temperature import initial_logit_scale, inverse_temperature, new_logit_scale
from vlmkit.modules.vision_tower import VisionTower

_USAGE = """import vlmkit
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}").eval()
processor = AutoProcessor.from_pretrained("{name}")
inputs = processor(images=[["left.png", "right.png"]], return_tensors="pt")
print(model.predict_captions(**inputs, k=5)[0])"""


class PredictedCaption(NamedTuple):
    """Predicted caption of a pair of images.

    Args:
        caption: Text of the caption.
        left: Class name of the left image.
        right: Class name of the right image.
        probability: Softmax probability of the caption among all captions of the bank.
    """

    caption: str
    left: str
    right: str
    probability: float


@dataclass
class PairedCifarAlignerOutput(ModelOutput):
    """Outputs of [`PairedCifarAligner`].

    Args:
        loss: Scalar, float32. Returned if `caption_ids` are given and `return_loss` is set.
        logits_per_image: `(B, C²)`, float32, cosine similarities of pairs of images and captions, divided by the
            temperature. `None` without a caption bank.
        image_embeds: `(B, D)`, float32, unit length.
        hidden_states: Hidden states of the vision backbone, if requested. With `vision_input="halves"`, their batch
            contains 2B images, all left images first.
        attentions: Attention weights of the vision backbone, if requested, with the same batch as `hidden_states`.
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    image_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class PairedCifarAligner(VlmkitModel):
    """An image encoder for pairs of images, trained to retrieve the caption of a pair from a bank of captions.

    The bank contains the captions of all ordered pairs of C classes. A frozen text encoder, which is not part of the
    model, embeds them once: [`PairedCifarAligner.build_caption_bank`] fills the buffer `caption_embeds (C², D)`, which
    is saved with the weights. The caption of the classes (left, right) is in row `C * left + right`.

    Args:
        config: Configuration of the model.

    References:
        The report on paired CIFAR-100 images (see `docs/papers.md`).

    Example:
        >>> from transformers import ViTConfig
        >>> vit = ViTConfig(image_size=(8, 16), patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> config = PairedCifarAlignerConfig(vision_config=vit, class_names=["cat", "dog"], text_embed_dim=12)
        >>> model = PairedCifarAligner(config)
        >>> model(pixel_values=torch.rand(2, 3, 8, 16)).image_embeds.shape
        torch.Size([2, 12])
    """

    config: PairedCifarAlignerConfig
    processor_class = PairedCifarAlignerProcessor
    base_model_prefix = "paired_cifar_aligner"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    card_usage = _USAGE
    card_pipeline = None  # pipelines of transformers do not support pairs of images
    accepts_loss_kwargs = False  # the losses are means over the batch, also with gradient accumulation

    def __init__(self, config: PairedCifarAlignerConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.vision_tower = VisionTower(config.vision_config, pooling=config.vision_pooling)
        if isinstance(config.vision_config, ViTConfig):
            initialize_xavier(self.vision_tower)  # as in the report
        width = self.vision_tower.pooled_size * (3 if config.vision_input == "halves" else 1)
        same = width == config.text_embed_dim
        self.vision_projection = nn.Identity() if same else nn.Linear(width, config.text_embed_dim)
        self.logit_scale = new_logit_scale(config.learn_temperature)
        classifiers = 2 if config.class_loss_weight else 0
        self.classifiers = nn.ModuleList(nn.Linear(width, config.num_classes) for _ in range(classifiers))
        self.register_buffer("caption_embeds", torch.zeros(config.num_classes**2, config.text_embed_dim))
        self.register_buffer("caption_bank_fingerprints", torch.zeros(len(BANK_FIELDS), 16, dtype=torch.uint8))
        self._bank_is_checked = False
        # The bank is constant and equal in all processes, so DDP does not have to broadcast it in each step.
        self._ddp_params_and_buffers_to_ignore = ["caption_embeds", "caption_bank_fingerprints"]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PairedCifarAligner):
            init.zeros_(module.caption_embeds)
            init.zeros_(module.caption_bank_fingerprints)
            if module.logit_scale is not None:
                init.constant_(module.logit_scale, initial_logit_scale(self.config.temperature))
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model, and check that its caption bank matches the configuration.

        Args:
            pretrained_model_name_or_path: Folder or Hub id of the model.
            *args: See `PreTrainedModel.from_pretrained`.
            **kwargs: See `PreTrainedModel.from_pretrained`. Fields of [`PairedCifarAlignerConfig`] override the saved
                configuration.

        Raises:
            OSError: If the model cannot be found, or its weights are truncated or damaged.
            ValueError: If the bank was built for another template, class list, text encoder or normalization.
        """
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except RuntimeError as error:  # transformers raises it for weights of another shape
            if not (changed := {"class_names", "text_embed_dim"} & kwargs.keys()):
                raise
            names = " and ".join(f"`{name}`" for name in sorted(changed))
            raise ValueError(
                f"{names} must match the caption bank in {pretrained_model_name_or_path}, which has another size. "
                "Build a new model, and call `model.build_caption_bank(text_model, tokenizer)`."
            ) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.text_encoder is not None:
            model.check_caption_bank()
        return loaded

    def get_input_embeddings(self) -> nn.Module:
        """Return the input embeddings of the vision backbone."""
        return self.vision_tower.backbone.get_input_embeddings()

    # The caption bank

    @property
    def captions(self) -> list[str]:
        """Return the C² captions, in the order of the bank."""
        return pair_captions(self.config.caption_template, self.config.class_names)

    def build_caption_bank(
        self,
        text_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str = "mean",
        batch_size: int = 256,
    ) -> None:
        """Embed all captions with a frozen text encoder, once for training and evaluation.

        Args:
            text_model: CLIP model (its projected embeddings are used) or any text encoder (its last hidden states are
                pooled).
            tokenizer: Tokenizer of the text encoder.
            pooling: Pooling of attended tokens: `"mean"` (for sentence encoders), `"cls"` or `"last"`.
            batch_size: Number of captions per forward pass.

        Raises:
            ValueError: If the width of the encoder is not `config.text_embed_dim`, or two captions have the same
                embedding.
        """
        embeds = embed_captions(text_model, tokenizer, captions=self.captions, pooling=pooling, batch_size=batch_size)
        if embeds.shape[1] != self.config.text_embed_dim:
            raise ValueError(
                f"`text_model` must have embeddings of width {self.config.text_embed_dim}, the `text_embed_dim` of the "
                f"model, but got {embeds.shape[1]} from {type(text_model).__name__}. Build the model with "
                f"`text_embed_dim={embeds.shape[1]}`, or use another text encoder."
            )
        self.caption_embeds.copy_(normalize_embeds(embeds, self.config.caption_normalization))
        self.config.text_encoder = encoder_name(text_model, pooling)
        self.caption_bank_fingerprints.copy_(bank_fingerprints(self.config))
        self._bank_is_checked = True

    def check_caption_bank(self, text_model: PreTrainedModel | None = None, *, pooling: str = "mean") -> None:
        """Check that the model has a caption bank that matches its configuration.

        Args:
            text_model: Text encoder that the bank must have been built with. Not checked if `None`.
            pooling: Pooling that the bank must have been built with. Only checked with a `text_model`.

        Raises:
            ValueError: If the bank has not been built, or was built for another template, class list, text encoder or
                normalization.
        """
        # A model that is built from a saved configuration names a text encoder, although its bank is empty.
        if self.config.text_encoder is None or not self.caption_bank_fingerprints.any():
            raise ValueError(
                "The caption bank must be built first. Call `model.build_caption_bank(text_model, tokenizer)`."
            )
        same = (self.caption_bank_fingerprints.cpu() == bank_fingerprints(self.config)).all(dim=1)
        differing = [f"`{name}`" for name, is_same in zip(BANK_FIELDS, same.tolist(), strict=True) if not is_same]
        if text_model is not None and not is_encoder(self.config.text_encoder, text_model=text_model, pooling=pooling):
            differing.append(f"text encoder ({self.config.text_encoder})")
        if differing:
            raise ValueError(
                f"The caption bank was built with another {' and '.join(differing)}. Rebuild it with "
                "`model.build_caption_bank(text_model, tokenizer)`."
            )
        self._bank_is_checked = True

    # Encoding and training

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode pairs of images.

        Args:
            pixel_values: `(B, 3, H, 2H)`, the two images side by side.
            **kwargs: Passed to the vision backbone, such as `output_hidden_states`.

        Returns:
            `last_hidden_state (B, N, D_vision)`, and the projected embeddings as `pooler_output (B, D)`, not
            normalized. With `vision_input="halves"`, the tokens of the left image come first.

        Raises:
            ValueError: If the images are not twice as wide as high.
        """
        outputs = self._encode(pixel_values, **kwargs)
        outputs.pooler_output = self.vision_projection(outputs.pooler_output)
        return outputs

    def _encode(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Run the vision tower on pairs of images."""
        if pixel_values.shape[-1] != 2 * pixel_values.shape[-2]:
            raise ValueError(
                "`pixel_values` must have the shape (B, 3, H, 2H), two images side by side, but got "
                f"{tuple(pixel_values.shape)}. Prepare pairs with a `PairedCifarAlignerProcessor`."
            )
        if self.config.vision_input == "pair":
            return self.vision_tower(pixel_values, **kwargs)
        outputs = self.vision_tower(torch.cat(pixel_values.chunk(2, dim=-1)), **kwargs)
        outputs.last_hidden_state = torch.cat(outputs.last_hidden_state.chunk(2), dim=1)
        left, right = outputs.pooler_output.chunk(2)
        # Without the product, a linear layer could not detect that both images have the same class.
        outputs.pooler_output = torch.cat([left, right, left * right], dim=1)
        return outputs

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        caption_ids: Tensor | None = None,
        caption_weights: Tensor | None = None,
        return_loss: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PairedCifarAlignerOutput:
        """Compute the similarities of pairs of images and all captions of the bank, and the loss.

        Args:
            pixel_values: `(B, 3, H, 2H)`, the two images side by side.
            caption_ids: `(B,)`, rows of the caption bank, `C * left + right`, or `(B, K)` for mixed images (MixUp,
                CutMix).
            caption_weights: `(B, K)`, weights of the captions of mixed images, which add up to 1.
            return_loss: Whether to compute the loss if `caption_ids` are given.
            **kwargs: Keywords that every transformers model accepts, passed to the vision backbone.

        Raises:
            TypeError: If an argument is unknown. The message suggests the most similar one.
            ValueError: If the images are not twice as wide as high, `caption_ids` are given without a caption bank or
                are not rows of it, the bank does not match the configuration, or images are mixed with
                `loss="in_batch"`.
        """
        self.check_forward_arguments(kwargs)
        outputs = self._encode(pixel_values, **kwargs)
        image_embeds = nn.functional.normalize(self.vision_projection(outputs.pooler_output).float(), dim=-1)
        logits = loss = None
        if caption_ids is not None or self.config.text_encoder is not None:
            if not self._bank_is_checked:
                self.check_caption_bank()
            scale = inverse_temperature(self.logit_scale, self.config.temperature)
            logits = bank_logits(image_embeds, self.caption_embeds, logit_scale=scale)
            if caption_ids is not None and return_loss:
                captions: dict[str, Any] = {"caption_ids": caption_ids, "caption_weights": caption_weights}
                loss = self._caption_loss(image_embeds, logits=logits, logit_scale=scale, **captions)
                loss = loss + self._extra_losses(outputs.pooler_output, image_embeds=image_embeds, **captions)
        return PairedCifarAlignerOutput(
            loss=loss,
            logits_per_image=logits,
            image_embeds=image_embeds,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _caption_loss(
        self,
        image_embeds: Tensor,
        *,
        logits: Tensor,
        logit_scale: Tensor | float,
        caption_ids: Tensor,
        caption_weights: Tensor | None,
    ) -> Tensor:
        """Compute the loss between images and captions, among the captions of the batch or of the whole bank."""
        torch_compilable_check(
            (caption_ids >= 0).all() & (caption_ids < len(self.caption_embeds)).all(),
            "`caption_ids` must be rows of the caption bank, num_classes * left + right, but some are out of range.",
        )
        if self.config.loss == "full_bank":
            return soft_cross_entropy(
                logits, caption_ids, weights=caption_weights, label_smoothing=self.config.label_smoothing
            )
        if caption_ids.ndim != 1 or caption_weights is not None:
            raise ValueError(
                "`caption_ids` must have the shape (B,), without `caption_weights`, for `loss='in_batch'`, but got "
                f"{tuple(caption_ids.shape)}. Set `loss='full_bank'`, or do not mix images."
            )
        return info_nce(image_embeds, self.caption_embeds[caption_ids], logit_scale=logit_scale, group_ids=caption_ids)

    def _extra_losses(
        self, pooled: Tensor, *, image_embeds: Tensor, caption_ids: Tensor, caption_weights: Tensor | None
    ) -> Tensor | float:
        """Compute the weighted sum of the optional losses."""
        left, right = caption_ids // self.config.num_classes, caption_ids % self.config.num_classes
        loss: Tensor | float = 0.0
        if self.config.swap_loss_weight:
            swapped = self.config.num_classes * right + left
            hinge = swapped_margin(
                image_embeds,
                self.caption_embeds,
                caption_ids=caption_ids,
                swapped_ids=swapped,
                margin=self.config.swap_margin,
                caption_weights=caption_weights,
            )
            loss = loss + self.config.swap_loss_weight * hinge
        for classifier, classes in zip(self.classifiers, (left, right), strict=False):  # empty without a class loss
            class_loss = soft_cross_entropy(classifier(pooled), classes, weights=caption_weights)
            loss = loss + self.config.class_loss_weight * class_loss
        return loss

    @torch.no_grad()
    def predict_captions(self, pixel_values: Tensor, k: int = 5) -> list[list[PredictedCaption]]:
        """Predict the captions of pairs of images, in evaluation mode.

        Args:
            pixel_values: `(B, 3, H, 2H)`, the two images side by side.
            k: Number of captions per pair, from 1 to C².

        Returns:
            The k most probable captions of each pair, in descending order of probability.

        Raises:
            ValueError: If `k` is out of range, or the caption bank is missing or does not match the configuration.
        """
        if not 1 <= k <= len(self.caption_embeds):
            raise ValueError(f"`k` must be from 1 to {len(self.caption_embeds)}, the number of captions, but got {k}.")
        self.check_caption_bank()
        training = self.training
        probabilities = self.eval()(pixel_values).logits_per_image.softmax(dim=-1)
        self.train(training)
        names, captions = self.config.class_names, self.captions
        return [
            [
                PredictedCaption(captions[row], names[row // len(names)], names[row % len(names)], probability)
                for row, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            for best in (row.topk(k) for row in probabilities)
        ]
