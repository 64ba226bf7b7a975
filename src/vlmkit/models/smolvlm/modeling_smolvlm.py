"""SmolVLM: a vision encoder, a connector and a small causal language model."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationConfig, GenerationMixin, PreTrainedModel, ProcessorMixin
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from vlmkit.base.building import build_from_pretrained, check_processor, grown_text_config
from vlmkit.base.generation import GenerativeModel, HeadlessModel
from vlmkit.base.modeling import VlmkitModel
from vlmkit.compat.cache import accepts_cache, cache_argument, cache_output
from vlmkit.compat.encoder_outputs import encoder_outputs_argument, pop_encoder_outputs
from vlmkit.compat.keywords import SERVER_KEYWORDS
from vlmkit.models.qformer_aligner import QFormerAligner
from vlmkit.models.smolvlm.configuration_smolvlm import VlmkitSmolVLMConfig
from vlmkit.models.smolvlm.image_token_counts import fixed_num_image_tokens
from vlmkit.models.smolvlm.processing_smolvlm import VlmkitSmolVLMProcessor
from vlmkit.modules.connectors import MLPConnector, PerceiverConnector, PixelShuffleConnector, QFormerConnector
from vlmkit.modules.crops import crop_counts, flatten_crops, join_crops
from vlmkit.modules.fusion import (
    ImageEmbeds,
    cached_images,
    check_num_image_tokens,
    group_images_by_text,
    merge_image_embeds,
)
from vlmkit.modules.gated_cross_attention import (
    CrossAttentionHook,
    GatedCrossAttention,
    GatedCrossAttentionBlock,
    check_forwards_keywords,
    register_cross_attention_hooks,
    unsupported_message,
)
from vlmkit.modules.language_models import build_decoder, build_lm_head, check_plain_language_model, decoder_layers
from vlmkit.modules.perceiver import PerceiverResampler
from vlmkit.modules.qformer import QFormer
from vlmkit.modules.text_encoders import encoder_sizes
from vlmkit.modules.towers import get_vision_config, load_backbone_config
from vlmkit.modules.vision_tower import VisionTower

_USAGE = """import vlmkit
from transformers import pipeline

chat = pipeline("image-text-to-text", model="{name}")
image, question = {{"type": "image", "url": "photo.jpg"}}, {{"type": "text", "text": "What is in this picture?"}}
chat([{{"role": "user", "content": [image, question]}}], return_full_text=False)[0]["generated_text"]"""
_QUERY_STD = 0.02


@dataclass
class VlmkitSmolVLMModelOutput(BaseModelOutputWithPast):
    """Outputs of [`VlmkitSmolVLMModel`], in addition to those of every decoder of transformers.

    Args:
        image_hidden_states: Image embeddings in the language model, `(I, M, D)`, or one `(M_i, D)` per image where the
            numbers of image tokens differ.
    """

    image_hidden_states: ImageEmbeds | None = None


@dataclass
class SmolVLMOutput(CausalLMOutputWithPast):
    """Outputs of [`SmolVLM`], in addition to those of every causal language model of transformers.

    In training with `labels`, `logits` is `None`: only labelled positions pass through the head.

    Args:
        image_hidden_states: See [`VlmkitSmolVLMModelOutput`].
    """

    image_hidden_states: ImageEmbeds | None = None


class VlmkitSmolVLMPreTrainedModel(VlmkitModel):
    """Base class of [`VlmkitSmolVLMModel`] and [`SmolVLM`], with the initialization of weights."""

    config: VlmkitSmolVLMConfig
    processor_class = VlmkitSmolVLMProcessor
    input_modalities = ("image", "text")
    card_usage = _USAGE
    card_pipeline = "image-text-to-text"
    _supports_flash_attn = False  # the connectors and the cross-attention use arbitrary masks
    _no_split_modules = ["QFormerLayer", "PerceiverLayer", "GatedCrossAttentionBlock"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QFormer):
            init.normal_(module.query_tokens, std=_QUERY_STD)
        elif isinstance(module, PerceiverResampler):
            init.normal_(module.latents, std=_QUERY_STD)
        elif isinstance(module, GatedCrossAttentionBlock):
            init.zeros_(module.attention_gate)
            init.zeros_(module.feed_forward_gate)


class VlmkitSmolVLMModel(VlmkitSmolVLMPreTrainedModel, HeadlessModel):
    """Vision tower, connector and decoder of [`SmolVLM`], without its language modeling head.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: VlmkitSmolVLMConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        # Only the Q-Former was trained with a class token in front of the patches.
        self.vision_tower = VisionTower(
            config.vision_config,
            pooling="mean",
            frozen=config.freeze_vision,
            prefix_tokens=config.connector == "qformer",
        )
        self.language_model = build_decoder(config.text_config)
        text_size = self.get_input_embeddings().embedding_dim
        self.cross_attention = None
        if config.fusion == "cross_attention":
            text_config = config.get_text_config()
            text_size = text_config.hidden_size
            self.cross_attention = GatedCrossAttention(
                config,
                hidden_size=text_size,
                num_heads=text_config.num_attention_heads,
                num_layers=len(decoder_layers(self.language_model)),
                interval=config.cross_layer_interval,
            )
            register_cross_attention_hooks(self.language_model)
        self.connector = build_connector(config, vision_size=self.vision_tower.hidden_size, text_size=text_size)
        self.post_init()

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        patch_attention_mask: Tensor | None = None,
        num_crops: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode images and project them to embeddings of the language model.

        Args:
            pixel_values: `(C, 3, H, W)`, all crops of all images, or `(I, C_i, 3, H, W)` for images with equal numbers
                of crops.
            vision_features: `(C, N, D_vision)`, precomputed features of the vision tower in place of `pixel_values`.
            pixel_attention_mask: `(C, H, W)` or `(I, C_i, H, W)`, 1 for pixels and 0 for padding, if crops of
                different sizes are padded.
            patch_attention_mask: `(C, rows, columns)`, the mask that the vision tower returned with `vision_features`.
            num_crops: `(I,)`, number of crops of each image. Defaults to one.
            **kwargs: Passed to the vision backbone.

        Returns:
            `last_hidden_state (C, N, D_vision)`, the vision features of all crops, and as `pooler_output` the
            embeddings of each image: `(I, M, D)`, or a list of `(M_i, D)` where the numbers of image tokens differ.
            With `fusion="cross_attention"`, each crop has its own embeddings.

        Raises:
            ValueError: If both or neither kind of images are given, the features have another shape, features are given
                while the vision tower is trained, `num_crops` does not fit, or the vision tower or connector does not
                support the image size.
        """
        pixel_values, pixel_attention_mask, num_crops = flatten_crops(
            pixel_values, pixel_attention_mask=pixel_attention_mask, num_crops=num_crops
        )
        if pixel_values is not None and pixel_attention_mask is None and self.config.connector == "pixel_shuffle":
            height, width = pixel_values.shape[2:]
            if height != width:  # without a mask, the connector assumes a square grid of patches
                pixel_attention_mask = pixel_values.new_ones(len(pixel_values), height, width)
        vision = self.vision_tower.get_vision_features(
            pixel_values,
            vision_features=vision_features,
            pixel_attention_mask=pixel_attention_mask,
            patch_attention_mask=patch_attention_mask,
            training=self.training,
            **kwargs,
        )
        vision_features = vision.last_hidden_state.to(next(self.connector.parameters()).dtype)
        embeds, mask = self.connector(vision_features, vision.patch_attention_mask)
        if mask is not None:
            embeds = [crop[valid] for crop, valid in zip(embeds, mask, strict=True)]
        if num_crops is not None:
            counts = crop_counts(num_crops, len(embeds))
            if self.cross_attention is None:
                embeds = join_crops(embeds, counts)
        return BaseModelOutputWithPooling(
            last_hidden_state=vision_features,
            pooler_output=embeds,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
        )

    @can_return_tuple
    @accepts_cache
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        patch_attention_mask: Tensor | None = None,
        num_crops: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        cross_attention_states: Tensor | None = None,
        cross_attention_positions: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VlmkitSmolVLMModelOutput:
        """Run texts with images through the decoder.

        The arguments are those of [`SmolVLM.forward`] without `labels` and `logits_to_keep`. Those that inference
        servers pass to their attention layers are accepted as well.

        Raises:
            TypeError: If an argument is unknown. The message suggests the most similar one.
            ValueError: As [`SmolVLM.forward`] raises.
        """
        self.check_forward_arguments(set(kwargs) - SERVER_KEYWORDS)
        image_token_mask = self.get_image_token_mask(input_ids, inputs_embeds)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        images = (pixel_values, vision_features, pixel_attention_mask, patch_attention_mask)
        has_images = any(part is not None and len(part) for part in images)
        if mm_encoder_outputs and has_images:
            raise ValueError("Pass either images or the `mm_encoder_outputs` computed from them, but not both.")
        image_embeds = None
        if mm_encoder_outputs:
            image_embeds = mm_encoder_outputs["image"].pooler_output
        elif has_images:
            image_embeds = self.get_image_features(*images, num_crops, return_dict=True).pooler_output
        if self.cross_attention is not None:
            hook = self._cross_attention_hook(
                image_token_mask, image_embeds, cross_attention_states, cross_attention_positions, cache
            )
            outputs = self._decode_with_hook(
                hook, inputs_embeds, attention_mask, position_ids, cache, use_cache, **kwargs
            )
        elif cross_attention_states is not None or cross_attention_positions is not None:
            raise ValueError("`cross_attention_states` must not be passed to a model without cross-attention.")
        else:
            if image_embeds is not None or inputs_embeds.shape[1] > 1:  # generated tokens are never placeholders
                inputs_embeds = merge_image_embeds(
                    inputs_embeds, image_token_mask=image_token_mask, image_embeds=image_embeds
                )
            outputs = self._decode(inputs_embeds, attention_mask, position_ids, cache, use_cache, **kwargs)
        return VlmkitSmolVLMModelOutput(**outputs, image_hidden_states=image_embeds)

    def get_image_token_mask(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Return where the texts have placeholder tokens, `(B, T)`.

        Raises:
            ValueError: If both or neither of `input_ids` and `inputs_embeds` are given.
        """
        image_token_id = self.config.image_token_id
        if input_ids is not None and inputs_embeds is None:
            return input_ids.eq(image_token_id)
        if inputs_embeds is not None and input_ids is None:
            embedding = self.get_input_embeddings()(torch.tensor(image_token_id, device=inputs_embeds.device))
            return inputs_embeds.eq(embedding).all(dim=-1)
        raise ValueError("Pass the texts either as `input_ids` or as `inputs_embeds`.")

    def compute_cross_attention_states(
        self, image_token_mask: Tensor, image_embeds: ImageEmbeds, first_position: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Compute the keys and values of the images of each text, and the positions of their placeholders.

        Returns:
            `cross_attention_states (B, blocks, 2, heads, N, D / heads)` and `cross_attention_positions (B, N)`.
        """
        embeds, positions = group_images_by_text(image_token_mask, image_embeds, first_position=first_position)
        blocks: Any = self.cross_attention
        return blocks.cross_attention_states(embeds), positions

    def _cross_attention_hook(
        self,
        image_token_mask: Tensor,
        image_embeds: ImageEmbeds | None,
        cross_attention_states: Tensor | None,
        cross_attention_positions: Tensor | None,
        cache: Cache | None,
    ) -> CrossAttentionHook | None:
        """Return the hook with which the decoder layers attend to images, or `None` without images."""
        has_states = cross_attention_states is not None
        if has_states != (cross_attention_positions is not None) or (has_states and image_embeds is not None):
            raise ValueError(
                "Pass either images, or `cross_attention_states` and `cross_attention_positions`, but not both."
            )
        num_cached = 0 if cache is None else cache.get_seq_length()
        if image_embeds is not None:
            cross_attention_states, cross_attention_positions = self.compute_cross_attention_states(
                image_token_mask, image_embeds, num_cached
            )
        if cross_attention_states is None or cross_attention_positions is None:
            if image_token_mask.shape[1] > 1:  # generated tokens are never placeholders
                check_num_image_tokens(image_token_mask, ())
            return None
        positions = num_cached + torch.arange(image_token_mask.shape[1], device=image_token_mask.device)
        visible = cross_attention_positions[:, None, None, :] <= positions[:, None]
        blocks: Any = self.cross_attention
        return blocks.make_hook(cross_attention_states, visible)

    def _decode_with_hook(self, hook: CrossAttentionHook | None, *args: Any, **kwargs: Any) -> Any:
        """Run the decoder, whose layers attend to images by a hook, and check that they do."""
        if hook is None:
            return self._decode(*args, **kwargs)
        layers: list[int] = []

        def recorded(index: int, hidden_states: Tensor) -> Tensor:
            layers.append(index)
            return hook(index, hidden_states)

        outputs = self._decode(*args, cross_attention_hook=recorded, **kwargs)
        if not layers:
            raise ValueError(unsupported_message(self.language_model))
        return outputs


class SmolVLM(VlmkitSmolVLMPreTrainedModel, GenerativeModel, GenerationMixin):
    """A small vision-language model: a vision encoder, a connector and a causal language model.

    A text may have any number of images, or none. With `fusion="autoregressive"`, it has one placeholder
    (`image_token_id`) for each embedding that the connector computes of an image. With `"cross_attention"`, it has one
    placeholder for each crop, and the positions from there on attend to the crop between the decoder layers. An image
    that is split (see [`VlmkitSmolVLMImageProcessor`]) consists of several crops.

    Args:
        config: Configuration of the model.

    References:
        vlm-training (see `docs/papers.md`); Li et al., "BLIP-2" (arXiv:2301.12597); Laurençon et al., "What matters
        when building vision-language models?" (arXiv:2405.02246).

    Example:
        >>> import torch
        >>> from transformers import DistilBertConfig, LlamaConfig, ViTConfig
        >>> config = VlmkitSmolVLMConfig(
        ...     vision_config=ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32),
        ...     qformer_config=DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32),
        ...     text_config=LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50),
        ...     image_token_id=49,
        ...     num_query_tokens=2,
        ... )
        >>> model = SmolVLM(config).eval()
        >>> inputs = {"pixel_values": torch.rand(1, 3, 32, 32), "input_ids": torch.tensor([[1, 49, 49, 5]])}
        >>> model(**inputs).logits.shape
        torch.Size([1, 4, 50])
        >>> model.generate(**inputs, max_new_tokens=3, min_new_tokens=3).shape  # after the prompt
        torch.Size([1, 7])
    """

    def __init__(self, config: VlmkitSmolVLMConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.model = VlmkitSmolVLMModel(config)
        self.lm_head = build_lm_head(config.text_config)
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | os.PathLike,
        text: str | os.PathLike,
        *,
        processor: ProcessorMixin,
        dtype: torch.dtype = torch.float32,
        **config: Any,
    ) -> "SmolVLM":
        """Join a pretrained vision encoder and a pretrained language model. The connector is new.

        A new Q-Former has the size of DistilBERT unless `qformer_config` is passed. It is usually trained on image-text
        pairs first, see [`SmolVLM.from_aligner_text_pretrained`].

        Args:
            vision: Folder or Hub id of an image model of transformers or timm, or of a two-tower model, whose image
                side is taken.
            text: Folder or Hub id of a causal language model.
            processor: [`VlmkitSmolVLMProcessor`] of the same two models. The image token, the design and the number of
                queries are taken from it.
            dtype: Data type of the model weights.
            **config: Fields of [`VlmkitSmolVLMConfig`].

        Raises:
            OSError: If a model cannot be found.
            TypeError: If a configuration field is unknown.
            ValueError: If the processor belongs to other models or contradicts a field, or the language model is not
                supported (see [`check_plain_language_model`]).

        Example:
            >>> vision, text = "google/vit-base-patch16-224", "HuggingFaceTB/SmolLM2-135M-Instruct"
            >>> processor = VlmkitSmolVLMProcessor.from_vision_text_pretrained(
            ...     vision, text, connector="mlp"
            ... )  # doctest: +SKIP
            >>> model = SmolVLM.from_vision_text_pretrained(vision, text, processor=processor)  # doctest: +SKIP
        """
        model = build_from_pretrained(cls, vision=vision, text=text, processor=processor, dtype=dtype, **config)
        processor.check_model(model)
        return model

    @classmethod
    def from_aligner_text_pretrained(
        cls,
        aligner: str | os.PathLike,
        text: str | os.PathLike,
        *,
        processor: ProcessorMixin,
        vision: str | os.PathLike | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "SmolVLM":
        """Join the vision tower and Q-Former of a trained [`QFormerAligner`] with a pretrained language model.

        The two layers between the Q-Former and the language model are new.

        Args:
            aligner: Folder or Hub id of a [`QFormerAligner`].
            text: Folder or Hub id of a causal language model.
            processor: [`VlmkitSmolVLMProcessor`] of the same two models. The image token is taken from it.
            vision: Folder or Hub id of an image model that replaces the aligner's own. Its features must have the same
                width.
            dtype: Data type of the model weights.

        Raises:
            OSError: If a model cannot be found.
            ValueError: If `aligner` is another kind of model, the processor has another number of image tokens, the
                features of `vision` have another width, or the language model is not supported (see
                [`check_plain_language_model`]).
        """
        check_processor(cls, processor, text)
        first = QFormerAligner.from_pretrained(aligner, dtype=dtype)
        config = VlmkitSmolVLMConfig(
            vision_config=(
                first.config.vision_config if vision is None else load_backbone_config(vision, get_vision_config)
            ),
            qformer_config=first.config.text_config,
            text_config=grown_text_config(text, processor),
            num_cross_attention_heads=first.config.num_cross_attention_heads,
            cross_attention_frequency=first.config.cross_attention_frequency,
            **processor.complete_config({"connector": "qformer", "num_query_tokens": first.config.num_query_tokens}),
        )
        model = cls._from_config(config, dtype=dtype)
        tower, connector = model.model.vision_tower, model.model.connector
        if tower.hidden_size != first.vision_tower.hidden_size:
            raise ValueError(
                f"The features of `vision` must have the width {first.vision_tower.hidden_size} that the Q-Former in "
                f"{aligner} was trained on, but {vision} has {tower.hidden_size}. Use the aligner's own image model, "
                "or train a first stage with this one."
            )
        # After construction, which initializes all weights.
        tower.set_backbone(
            first.vision_tower.backbone
            if vision is None
            else VisionTower.load_backbone(vision, model.config.vision_config, dtype=dtype)
        )
        connector.vision_projection = first.vision_projection
        connector.qformer.load_state_dict(first.qformer.state_dict())
        model.load_text_backbone(text, dtype)
        processor.check_model(model)
        return model.eval()

    def load_text_backbone(self, text: str | os.PathLike, dtype: torch.dtype) -> None:
        """Load a pretrained language model, and suppress image tokens in generated text."""
        super().load_text_backbone(text, dtype)
        if self.model.cross_attention is not None:
            check_forwards_keywords(self.model.language_model)
        suppressed = self.generation_config.suppress_tokens or []
        self.generation_config.suppress_tokens = [*suppressed, self.config.image_token_id]

    def check_language_model(self, language_model: PreTrainedModel) -> None:
        """Check that the language model consists of decoder layers, a key/value cache and a linear head."""
        check_plain_language_model(language_model)

    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        patch_attention_mask: Tensor | None = None,
        num_crops: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """See [`VlmkitSmolVLMModel.get_image_features`]."""
        return self.model.get_image_features(
            pixel_values, vision_features, pixel_attention_mask, patch_attention_mask, num_crops, **kwargs
        )

    @can_return_tuple
    @accepts_cache
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        patch_attention_mask: Tensor | None = None,
        num_crops: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        cross_attention_states: Tensor | None = None,
        cross_attention_positions: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SmolVLMOutput:
        """Predict the next token at every position of texts with images.

        Args:
            input_ids: `(B, T)`, padded on either side, with one `image_token_id` for each embedding of each image, or
                with `fusion="cross_attention"` for each crop.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding. Defaults to ones.
            pixel_values: `(C, 3, H, W)`, all crops of all images, in the order of the texts.
            vision_features: `(C, N, D_vision)`, precomputed features of the vision tower in place of `pixel_values`.
            pixel_attention_mask: See [`VlmkitSmolVLMModel.get_image_features`].
            patch_attention_mask: See [`VlmkitSmolVLMModel.get_image_features`].
            num_crops: See [`VlmkitSmolVLMModel.get_image_features`].
            position_ids: `(B, T)`. Defaults to counting attended tokens.
            cache: Key/value cache of earlier tokens, called `past_key_values` before transformers 5.24.
            inputs_embeds: `(B, T, D)`, text embeddings in place of `input_ids`.
            labels: `(B, T)`, token ids, or -100 for positions without a loss. They are shifted inside the model.
            use_cache: Whether to return a cache.
            logits_to_keep: Number of trailing positions to compute logits for (0 computes all), or a tensor of position
                indices.
            mm_encoder_outputs: Image features that `generate` has computed. Pass images instead.
            cross_attention_states: Keys and values of images that `generate` has computed. Pass images instead.
            cross_attention_positions: Positions of the placeholders of `cross_attention_states`.
            **kwargs: Keywords that every transformers model accepts, passed to the language model.

        Raises:
            TypeError: If an argument is unknown. The message suggests the most similar one.
            ValueError: If both or neither kind of text are given, images are given twice, the number of images differs
                from that of the placeholders, or a static cache is given for a language model without support for it.
        """
        self.check_forward_arguments(kwargs)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            vision_features=vision_features,
            pixel_attention_mask=pixel_attention_mask,
            patch_attention_mask=patch_attention_mask,
            num_crops=num_crops,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            cross_attention_states=cross_attention_states,
            cross_attention_positions=cross_attention_positions,
            return_dict=True,
            **kwargs,
        )
        logits = loss = None
        if self.training and labels is not None:
            loss = self._loss_of_labelled_positions(outputs.last_hidden_state, labels, **kwargs)
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(outputs.last_hidden_state[:, kept])
            if labels is not None:
                loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **kwargs)
        return SmolVLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            **cache_output(outputs),
        )

    def _loss_of_labelled_positions(self, hidden_states: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        """Compute the loss with logits of labelled positions only, because the head has most of the activations."""
        targets = labels[:, 1:]
        is_labelled = targets != -100
        logits = self.lm_head(hidden_states[:, :-1][is_labelled])
        return self.loss_function(
            logits, labels=None, vocab_size=logits.shape[-1], shift_labels=targets[is_labelled], **kwargs
        )

    @torch.no_grad()
    @accepts_cache
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        patch_attention_mask: Tensor | None = None,
        num_crops: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Continue texts. Vision tower and connector run once per image.

        With the `cache` of an earlier call, pass `input_ids` of the whole conversation and all of its images: tokens
        and images in the cache are not computed again. With `fusion="cross_attention"`, all images are encoded again.

        Args:
            inputs: `(B, T)`, the same as `input_ids`.
            generation_config: See `GenerationMixin.generate`.
            *args: See `GenerationMixin.generate`.
            pixel_values: See [`SmolVLM.forward`].
            vision_features: See [`SmolVLM.forward`].
            pixel_attention_mask: See [`SmolVLM.forward`].
            patch_attention_mask: See [`SmolVLM.forward`].
            num_crops: See [`SmolVLM.forward`].
            cache: See [`SmolVLM.forward`].
            **kwargs: See `GenerationMixin.generate`, such as `input_ids`, `attention_mask` (padded on the left),
                `streamer` and `max_new_tokens`.

        Raises:
            ValueError: If images are given twice, their number differs from that of the placeholders, or as
                `GenerationMixin.generate` raises.
        """
        pixel_values, pixel_attention_mask, num_crops = flatten_crops(
            pixel_values, pixel_attention_mask=pixel_attention_mask, num_crops=num_crops
        )
        images = {
            "pixel_values": pixel_values,
            "vision_features": vision_features,
            "pixel_attention_mask": pixel_attention_mask,
            "patch_attention_mask": patch_attention_mask,
        }
        has_images = any(part is not None and len(part) for part in images.values())
        if kwargs.get("mm_encoder_outputs") and has_images:
            raise ValueError("Pass either images or the `mm_encoder_outputs` computed from them, but not both.")
        features = pop_encoder_outputs(kwargs)
        input_ids = kwargs.get("input_ids") if inputs is None else inputs
        if self.model.cross_attention is None:
            if features is None and has_images:
                features = self._features_of_new_images(input_ids, images, num_crops, cache, kwargs)
            if features is not None:
                kwargs |= encoder_outputs_argument(features)
        else:
            if features is None and has_images:
                features = self.get_image_features(**images, num_crops=num_crops, return_dict=True)
            kwargs |= self._cross_attention_arguments(input_ids, features, kwargs)
        return super().generate(inputs, generation_config, *args, **cache_argument(cache), **kwargs)

    def _features_of_new_images(
        self,
        input_ids: Tensor | None,
        images: dict[str, Tensor | None],
        num_crops: Tensor | None,
        cache: Cache | None,
        kwargs: dict[str, Any],
    ) -> BaseModelOutputWithPooling | None:
        """Return the features of the images that the cache does not hold, or `None` if there are none."""
        new_token_mask = None
        if input_ids is not None:
            mask = self.model.get_image_token_mask(input_ids, None)
            # Tokens of which only the attention mask is given are in the cache, in front of `input_ids`.
            num_absent = _num_absent_tokens(input_ids, kwargs)
            num_cached = 0 if cache is None else max(int(cache.get_seq_length()) - num_absent, 0)
            images, num_crops = self._without_cached_images(images, num_crops, mask, num_cached)
            new_token_mask = mask[:, num_cached:]
        if all(part is None or not len(part) for part in images.values()):
            return None
        features = self.get_image_features(**images, num_crops=num_crops, return_dict=True)
        if new_token_mask is not None:
            check_num_image_tokens(new_token_mask, features.pooler_output)
        return features

    def _without_cached_images(
        self,
        images: dict[str, Tensor | None],
        num_crops: Tensor | None,
        image_token_mask: Tensor,
        num_cached: int,
    ) -> tuple[dict[str, Tensor | None], Tensor | None]:
        """Drop the crops whose placeholder tokens are already in the key/value cache."""
        if num_cached == 0:
            return images, num_crops
        num_parts = max(len(part) for part in images.values() if part is not None)
        mask = images["pixel_attention_mask" if images["vision_features"] is None else "patch_attention_mask"]
        sizes = num_image_tokens_per_crop(self.config, image_token_mask, num_parts, mask)
        is_new = ~cached_images(image_token_mask, num_image_tokens=sizes, num_cached_tokens=num_cached)
        if num_crops is not None:
            counts = torch.stack([part.sum() for part in is_new.split(crop_counts(num_crops, num_parts))])
            num_crops = counts[counts > 0]
        return {name: part if part is None else part[is_new] for name, part in images.items()}, num_crops

    def _cross_attention_arguments(
        self, input_ids: Tensor | None, features: BaseModelOutputWithPooling | None, kwargs: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return the keys and values of all images, as keywords of `forward`."""
        if _num_absent_tokens(input_ids, kwargs):
            raise ValueError(
                "Images in the cache are not kept with `fusion='cross_attention'`. Pass `input_ids` of the whole "
                "conversation and all of its images."
            )
        if features is None:
            return {}
        mask = self.model.get_image_token_mask(input_ids, kwargs.get("inputs_embeds"))
        states, positions = self.model.compute_cross_attention_states(mask, features.pooler_output)
        return {"cross_attention_states": states, "cross_attention_positions": positions}


def build_connector(config: VlmkitSmolVLMConfig, *, vision_size: int, text_size: int) -> nn.Module:
    """Build the connector that a configuration selects.

    Args:
        config: Configuration of the model.
        vision_size: Width of the vision features, D_vision.
        text_size: Width of the language model, D.

    Raises:
        ValueError: If the number of heads does not divide the width of the connector.
    """
    sizes: dict[str, int] = {"vision_size": vision_size, "text_size": text_size}
    if config.connector == "mlp":
        return MLPConnector(**sizes)
    if config.connector == "pixel_shuffle":
        return PixelShuffleConnector(**sizes, factor=config.pixel_shuffle_factor)
    num_queries, num_heads = config.num_query_tokens or 0, config.num_cross_attention_heads
    if config.connector == "perceiver":
        text_config = config.get_text_config()
        return PerceiverConnector(
            config,
            **sizes,
            intermediate_size=getattr(text_config, "intermediate_size", None) or 4 * text_size,
            num_latents=num_queries,
            depth=config.perceiver_depth,
            num_heads=num_heads or text_config.num_attention_heads,
        )
    if config.connector == "qformer":
        return QFormerConnector(
            config,
            **sizes,
            encoder_sizes=encoder_sizes(config.qformer_config),
            num_queries=num_queries,
            num_cross_attention_heads=num_heads,
            cross_attention_frequency=config.cross_attention_frequency,
        )
    raise ValueError(f"`build_connector` must be extended to build `connector={config.connector!r}`.")


def num_image_tokens_per_crop(
    config: VlmkitSmolVLMConfig, image_token_mask: Tensor, num_crops: int, mask: Tensor | None
) -> Tensor:
    """Count the placeholders of each crop in texts that contain all of them.

    Args:
        config: Configuration of a model with `fusion="autoregressive"`.
        image_token_mask: `(B, T)`, true at placeholder tokens.
        num_crops: Number of crops C.
        mask: `(C, rows, columns)`, pixel or patch mask of crops of different sizes.

    Returns:
        Integers `(C,)`.
    """
    fixed = fixed_num_image_tokens(
        config.connector, fusion=config.fusion, num_query_tokens=config.num_query_tokens or 0
    )
    if fixed is not None:
        return torch.full((num_crops,), fixed, device=image_token_mask.device)
    areas = torch.ones(num_crops, device=image_token_mask.device) if mask is None else mask.flatten(1).sum(dim=1)
    return (image_token_mask.sum() * areas / areas.sum()).round().long()  # proportional to the area of the crop


def _num_absent_tokens(input_ids: Tensor | None, kwargs: dict[str, Any]) -> int:
    """Return the number of tokens that only the attention mask covers."""
    attention_mask = kwargs.get("attention_mask")
    return 0 if attention_mask is None or input_ids is None else attention_mask.shape[1] - input_ids.shape[1]
