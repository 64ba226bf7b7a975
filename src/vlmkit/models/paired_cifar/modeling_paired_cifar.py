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
    """A caption that fits a pair of images.

    Args:
        caption: the text.
        left: the left image's class.
        right: the right image's class.
        probability: softmax over the whole bank, at the model's temperature.
    """

    caption: str
    left: str
    right: str
    probability: float


@dataclass
class PairedCifarAlignerOutput(ModelOutput):
    """What [`PairedCifarAligner`] returns.

    Args:
        loss: scalar, float32; given with `caption_ids`, if `return_loss` is set.
        logits_per_image: `(B, C²)` similarities of every pair with every caption, divided by the temperature; `None`
            as long as no caption bank was built.
        image_embeds: `(B, D)`, unit length.
        hidden_states: of the backbone, if asked for; with `vision_input="halves"` of `2B` images, the left ones first.
        attentions: of the backbone, if asked for, and likewise.
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    image_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class PairedCifarAligner(VlmkitModel):
    """An image encoder for two images side by side, trained to find their caption among those of all pairs of classes.

    The captions are embedded once by a frozen text encoder, which is no part of the model: [`build_caption_bank`] fills
    the buffer `caption_embeds (C², D)`, which is saved with the weights. Pair (left, right) has row C · left + right.

    Args:
        config: see [`PairedCifarAlignerConfig`].

    Example:
        >>> from transformers import ViTConfig
        >>> vit = ViTConfig(image_size=(8, 16), patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> config = PairedCifarAlignerConfig(vision_config=vit, class_names=["cat", "dog"], text_embed_dim=12)
        >>> model = PairedCifarAligner(config)
        >>> model(pixel_values=torch.rand(2, 3, 8, 16)).image_embeds.shape
        torch.Size([2, 12])
    """

    config: PairedCifarAlignerConfig
    base_model_prefix = "paired_cifar_aligner"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    card_usage = _USAGE
    card_pipeline = None  # transformers has none for pairs of images
    accepts_loss_kwargs = False  # the loss is a mean over the batch's pairs, whatever the accumulation

    def __init__(self, config: PairedCifarAlignerConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.vision_tower = VisionTower(config.vision_config, pooling=config.vision_pooling)
        if isinstance(config.vision_config, ViTConfig):
            initialize_xavier(self.vision_tower)  # as the report has it
        width = self.vision_tower.pooled_size * (3 if config.vision_input == "halves" else 1)
        same = width == config.text_embed_dim
        self.vision_projection = nn.Identity() if same else nn.Linear(width, config.text_embed_dim)
        self.logit_scale = new_logit_scale(config.learn_temperature)
        classifiers = 2 if config.class_loss_weight else 0
        self.classifiers = nn.ModuleList(nn.Linear(width, config.num_classes) for _ in range(classifiers))
        self.register_buffer("caption_embeds", torch.zeros(config.num_classes**2, config.text_embed_dim))
        self.register_buffer("caption_bank_fingerprints", torch.zeros(len(BANK_FIELDS), 16, dtype=torch.uint8))
        self._bank_is_checked = False
        # The bank is the same in all processes and does not change: DDP need not send it around in every step.
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
        """Load as transformers does, and check that the caption bank is the one that the configuration describes.

        Raises:
            OSError: nothing is found there, or the weights are truncated or damaged.
            ValueError: the bank was built for another template, class list, text encoder or normalisation.
        """
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except RuntimeError as error:  # what transformers raises for weights of another shape
            if not (changed := {"class_names", "text_embed_dim"} & kwargs.keys()):
                raise
            raise ValueError(
                f"the caption bank in {pretrained_model_name_or_path} was built with another "
                f"{' and '.join(sorted(changed))}, so its size differs; make a new model and call "
                "model.build_caption_bank(text_model, tokenizer)"
            ) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.text_encoder is not None:
            model.check_caption_bank()
        return loaded

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's first layer."""
        return self.vision_tower.backbone.get_input_embeddings()

    # The caption bank

    @property
    def captions(self) -> list[str]:
        """The C² captions, in the order of the bank."""
        return pair_captions(self.config.caption_template, self.config.class_names)

    def build_caption_bank(
        self,
        text_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str = "mean",
        batch_size: int = 256,
    ) -> None:
        """Embed all captions once with a frozen text encoder, for training and evaluation.

        Args:
            text_model: CLIP model (its projected embeddings are used) or any text encoder (its last hidden states are
                pooled).
            tokenizer: Tokenizer of the text encoder.
            pooling: `"mean"` (sentence encoders), `"cls"` or `"last"`, over attended tokens.
            batch_size: Number of captions per forward pass.

        Raises:
            ValueError: If the width of the encoder is not `config.text_embed_dim`, or two captions have the same
                embedding.
        """
        embeds = embed_captions(text_model, tokenizer, captions=self.captions, pooling=pooling, batch_size=batch_size)
        if embeds.shape[1] != self.config.text_embed_dim:
            raise ValueError(
                f"{type(text_model).__name__} gives embeddings of width {embeds.shape[1]}, but text_embed_dim is "
                f"{self.config.text_embed_dim}; set text_embed_dim={embeds.shape[1]}, or use another encoder"
            )
        self.caption_embeds.copy_(normalize_embeds(embeds, self.config.caption_normalization))
        self.config.text_encoder = encoder_name(text_model, pooling)
        self.caption_bank_fingerprints.copy_(bank_fingerprints(self.config))
        self._bank_is_checked = True

    def check_caption_bank(self, text_model: PreTrainedModel | None = None, *, pooling: str = "mean") -> None:
        """Check that the model has a caption bank that matches its configuration.

        Args:
            text_model: Text encoder that the bank must have been built with. Not checked if `None`.
            pooling: See [`build_caption_bank`].

        Raises:
            ValueError: If there is no bank, or it was built for another template, class list, encoder or normalization.
        """
        # A model built from a saved configuration, without its weights, has the name of an encoder but no embeddings.
        if self.config.text_encoder is None or not self.caption_bank_fingerprints.any():
            raise ValueError("there is no caption bank yet; call model.build_caption_bank(text_model, tokenizer)")
        same = (self.caption_bank_fingerprints.cpu() == bank_fingerprints(self.config)).all(dim=1)
        differing = [name for name, is_same in zip(BANK_FIELDS, same.tolist(), strict=True) if not is_same]
        if text_model is not None and not is_encoder(self.config.text_encoder, text_model=text_model, pooling=pooling):
            differing.append(f"text encoder ({self.config.text_encoder})")
        if differing:
            raise ValueError(
                f"the caption bank was built with another {' and '.join(differing)}; call "
                "model.build_caption_bank(text_model, tokenizer) to build it anew"
            )
        self._bank_is_checked = True

    # Encoding and training

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode pairs of images.

        Args:
            pixel_values: `(B, 3, H, 2H)`, the two images side by side.
            **kwargs: passed to the backbone, such as `output_hidden_states`.

        Returns:
            `last_hidden_state (B, N, D_vision)` (with `vision_input="halves"` the left image's tokens, then the right
            one's) and the projected `pooler_output (B, D)`, not normalised.
        """
        outputs = self._encode(pixel_values, **kwargs)
        outputs.pooler_output = self.vision_projection(outputs.pooler_output)
        return outputs

    def _encode(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The vision tower's output for each pair."""
        if pixel_values.shape[-1] != 2 * pixel_values.shape[-2]:
            raise ValueError(
                f"pixel_values {tuple(pixel_values.shape)} is no batch of pairs: two images side by side are "
                "(B, 3, H, 2H)"
            )
        if self.config.vision_input == "pair":
            return self.vision_tower(pixel_values, **kwargs)
        outputs = self.vision_tower(torch.cat(pixel_values.chunk(2, dim=-1)), **kwargs)
        outputs.last_hidden_state = torch.cat(outputs.last_hidden_state.chunk(2), dim=1)
        left, right = outputs.pooler_output.chunk(2)
        # The product tells whether both show one class, which no linear layer can read from the two vectors alone.
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
        """Compute the similarities of pairs of images with all captions of the bank, and the loss.

        Args:
            pixel_values: `(B, 3, H, 2H)`, the two images side by side.
            caption_ids: `(B,)`, rows of the caption bank, C · left + right, or `(B, K)` for mixed images.
            caption_weights: `(B, K)`, weights of the captions of mixed images, which add up to 1.
            return_loss: Whether to compute the loss if `caption_ids` are given.
            **kwargs: Keywords that every transformers model accepts, passed to the backbone.

        Raises:
            TypeError: If an argument is unknown. The message suggests the most similar one.
            ValueError: If `caption_ids` are given without a caption bank, are not rows of it, or are those of mixed
                images with `loss="in_batch"`.
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
            "caption_ids lie outside the caption bank; they are num_classes * left + right",
        )
        if self.config.loss == "full_bank":
            return soft_cross_entropy(
                logits, caption_ids, weights=caption_weights, label_smoothing=self.config.label_smoothing
            )
        if caption_ids.ndim != 1 or caption_weights is not None:
            raise ValueError(
                f"caption_ids {tuple(caption_ids.shape)} give several captions to a pair, which loss='in_batch' cannot "
                "use; set loss='full_bank', or do not mix images"
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
        for classifier, classes in zip(self.classifiers, (left, right), strict=False):  # none, or one for each
            class_loss = soft_cross_entropy(classifier(pooled), classes, weights=caption_weights)
            loss = loss + self.config.class_loss_weight * class_loss
        return loss

    @torch.no_grad()
    def predict_captions(self, pixel_values: Tensor, k: int = 5) -> list[list[PredictedCaption]]:
        """Find the captions that fit best, in evaluation mode.

        Args:
            pixel_values: `(B, 3, H, 2H)`, the two images side by side.
            k: captions per pair, from 1 to C².

        Returns:
            For each pair its k best captions, the best first.

        Raises:
            ValueError: k is out of range, or there is no caption bank.
        """
        if not 1 <= k <= len(self.caption_embeds):
            raise ValueError(f"k is {k}; give 1 to {len(self.caption_embeds)}, the number of captions")
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
