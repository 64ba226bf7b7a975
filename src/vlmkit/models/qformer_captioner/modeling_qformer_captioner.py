"""QFormerCaptioner: a vision encoder, a Q-Former and a language model with cross-attention to the queries."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationConfig, GenerationMixin, ProcessorMixin
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from vlmkit.base.building import build_from_pretrained
from vlmkit.base.generation import GenerativeModel, HeadlessModel
from vlmkit.base.modeling import VlmkitModel
from vlmkit.compat.cache import accepts_cache, cache_argument, cache_output
from vlmkit.models.qformer_captioner.captioner_qformer import (
    CaptionerFeatures,
    CaptionerQFormer,
    ImageCrossAttention,
)
from vlmkit.models.qformer_captioner.configuration_qformer_captioner import QFormerCaptionerConfig
from vlmkit.models.qformer_captioner.processing_qformer_captioner import QFormerCaptionerProcessor
from vlmkit.modules.language_models import build_decoder, build_lm_head
from vlmkit.modules.vision_tower import VisionTower

_USAGE = """import vlmkit
from transformers import pipeline

describe = pipeline("image-text-to-text", model="{name}")
describe("photo.jpg", text="")[0]["generated_text"]"""
_QUERY_STD = 0.02


@dataclass
class QFormerCaptionerModelOutput(BaseModelOutputWithPast):
    """Outputs of [`QFormerCaptionerModel`], in addition to the fields of `BaseModelOutputWithPast`.

    Args:
        query_embeds: `(B, 1 + Q, D)`, the outputs of the Q-Former: the global token followed by the queries.
        image_hidden_states: `(B, N, D)`, the projected vision features.
        cross_attentions: `(B, heads, T, 1 + Q)`, attention weights of each text position to the queries. Returned with
            `output_attentions`.
        query_attentions: Attention weights of the queries to the image, one `(B, heads, 1 + Q, N)` per Q-Former layer.
            Returned with `output_attentions`.
    """

    query_embeds: Tensor | None = None
    image_hidden_states: Tensor | None = None
    cross_attentions: Tensor | None = None
    query_attentions: tuple[Tensor, ...] | None = None


@dataclass
class QFormerCaptionerOutput(CausalLMOutputWithPast):
    """Outputs of [`QFormerCaptioner`], in addition to the fields of `CausalLMOutputWithPast`.

    Args:
        query_embeds: See [`QFormerCaptionerModelOutput`].
        image_hidden_states: See [`QFormerCaptionerModelOutput`].
        cross_attentions: See [`QFormerCaptionerModelOutput`].
        query_attentions: See [`QFormerCaptionerModelOutput`].
    """

    query_embeds: Tensor | None = None
    image_hidden_states: Tensor | None = None
    cross_attentions: Tensor | None = None
    query_attentions: tuple[Tensor, ...] | None = None


class QFormerCaptionerPreTrainedModel(VlmkitModel):
    """Base class of [`QFormerCaptionerModel`] and [`QFormerCaptioner`], with the initialization of weights."""

    config: QFormerCaptionerConfig
    processor_class = QFormerCaptionerProcessor
    input_modalities = ("image", "text")
    card_usage = _USAGE
    card_pipeline = "image-text-to-text"
    _no_split_modules = ["CaptionerQFormerLayer", "ImageCrossAttention"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CaptionerQFormer):
            init.normal_(module.global_token, std=_QUERY_STD)
            init.normal_(module.query_tokens, std=_QUERY_STD)
        elif isinstance(module, ImageCrossAttention):
            init.ones_(module.scale)


class QFormerCaptionerModel(QFormerCaptionerPreTrainedModel, HeadlessModel):
    """Vision tower, Q-Former, decoder and cross-attention of [`QFormerCaptioner`], without its language modeling head.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: QFormerCaptionerConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.vision_tower = VisionTower(
            config.vision_config,
            pooling="mean",
            frozen=config.freeze_vision,
            prefix_tokens=False,
            layers=config.vision_layers,
        )
        self.language_model = build_decoder(config.text_config)
        width = self.get_input_embeddings().embedding_dim
        self.connector = CaptionerQFormer(
            config,
            vision_size=self.vision_tower.hidden_size,
            hidden_size=width,
            num_heads=config.num_attention_heads,
            num_layers=config.num_qformer_layers,
            num_queries=config.num_query_tokens,
            num_vision_layers=len(config.vision_layers or [-1]),
            dropout=config.dropout,
        )
        self.cross_attention = ImageCrossAttention(
            config, hidden_size=width, num_heads=config.num_attention_heads, dropout=config.dropout
        )
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.post_init()

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> CaptionerFeatures:
        """Encode images and compute the queries of the Q-Former.

        Args:
            pixel_values: `(B, 3, H, W)`.
            vision_features: `(B, N, D_vision)`, precomputed features of the vision tower in place of `pixel_values`.
            output_attentions: Whether to return the attention weights of the queries to the image.
            **kwargs: Passed to the vision backbone.

        Raises:
            ValueError: If both or neither kind of images are given, the features have another shape, or features are
                given while the vision tower is trained.
        """
        vision = self.vision_tower.get_vision_features(
            pixel_values, vision_features=vision_features, training=self.training, **kwargs
        )
        features = self.connector(vision.last_hidden_state, output_attentions)
        features.hidden_states = vision.hidden_states
        return features

    @can_return_tuple
    @accepts_cache
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cross_attention_states: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QFormerCaptionerModelOutput:
        """Run texts through the decoder and the cross-attention to the queries of their images.

        The arguments are the same as in [`QFormerCaptioner.forward`], without `labels` and `logits_to_keep`.

        Raises:
            TypeError: If an argument is unknown. The message suggests the most similar one.
            ValueError: As [`QFormerCaptioner.forward`] raises.
        """
        self.check_forward_arguments(kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass the texts either as `input_ids` or as `inputs_embeds`.")
        output_attentions = bool(kwargs.get("output_attentions") or self.config.output_attentions)
        features = CaptionerFeatures()
        if cross_attention_states is None:
            features = self.get_image_features(
                pixel_values, vision_features, output_attentions=output_attentions, return_dict=True
            )
            cross_attention_states = self.compute_cross_attention_states(features.last_hidden_state)
        elif pixel_values is not None or vision_features is not None:
            raise ValueError("Pass either images or the `cross_attention_states` computed from them, but not both.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if len(cross_attention_states) != len(inputs_embeds):
            raise ValueError(
                f"The number of images must equal the number of texts, but got {len(cross_attention_states)} images "
                f"and {len(inputs_embeds)} texts. Pass one image for each text."
            )
        embeddings = self.embedding_dropout(inputs_embeds)
        outputs = self._decode(embeddings, attention_mask, position_ids, cache, use_cache, **kwargs)
        hidden_states, cross_attentions = self.cross_attention(
            outputs.last_hidden_state, tuple(cross_attention_states.unbind(dim=1)), output_attentions
        )
        return QFormerCaptionerModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            query_embeds=features.last_hidden_state,
            image_hidden_states=features.image_hidden_states,
            cross_attentions=cross_attentions if output_attentions else None,
            query_attentions=features.query_attentions,
            **cache_output(outputs),
        )

    def compute_cross_attention_states(self, query_embeds: Tensor) -> Tensor:
        """Compute the keys and values of the queries, which any number of forward passes can reuse.

        Args:
            query_embeds: `(B, 1 + Q, D)`, the outputs of the Q-Former.

        Returns:
            `(B, 2, heads, 1 + Q, D / heads)`, keys and values.
        """
        return torch.stack(self.cross_attention.attention.key_values(query_embeds), dim=1)


class QFormerCaptioner(QFormerCaptionerPreTrainedModel, GenerativeModel, GenerationMixin):
    """An image captioner: a vision encoder, a Q-Former, and a language model with cross-attention to the queries.

    The patch tokens of the vision tower are projected to the width of the language model. A global token and Q learned
    queries attend to them in the Q-Former. The texts do not contain image tokens: the last hidden states of the
    language model attend to the queries, once before the head.

    Args:
        config: Configuration of the model.

    References:
        MultiModel (see `docs/papers.md`); Li et al., "BLIP-2" (arXiv:2301.12597).

    Example:
        >>> import torch
        >>> from transformers import CLIPVisionConfig, GPT2Config
        >>> sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64}
        >>> config = QFormerCaptionerConfig(
        ...     vision_config=CLIPVisionConfig(hidden_size=16, **sizes),
        ...     text_config=GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, bos_token_id=0, eos_token_id=0),
        ... )
        >>> model = QFormerCaptioner(config).eval()
        >>> images = torch.rand(2, 3, 64, 64)
        >>> model(pixel_values=images, input_ids=torch.tensor([[0, 1, 2], [0, 3, 4]])).logits.shape
        torch.Size([2, 3, 50])
        >>> model.generate(pixel_values=images, max_new_tokens=5, min_new_tokens=5).shape  # after the start token
        torch.Size([2, 6])
    """

    def __init__(self, config: QFormerCaptionerConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.model = QFormerCaptionerModel(config)
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
    ) -> "QFormerCaptioner":
        """Join a pretrained vision encoder and a pretrained language model. The Q-Former and cross-attention are new.

        Args:
            vision: Folder or Hub id of an image model of transformers or timm, or of a two-tower model, whose image
                side is taken.
            text: Folder or Hub id of a causal language model.
            processor: [`QFormerCaptionerProcessor`] of the same two models. The start, end and padding tokens are taken
                from it, and tokens that it has added get embeddings.
            dtype: Data type of the model weights.
            **config: Fields of [`QFormerCaptionerConfig`].

        Raises:
            OSError: If a model cannot be found.
            TypeError: If a configuration field is unknown.
            ValueError: If `text` is not a causal language model, or a field has a wrong value.

        Example:
            >>> vision, text = "openai/clip-vit-base-patch32", "EleutherAI/gpt-neo-125m"
            >>> processor = QFormerCaptionerProcessor.from_vision_text_pretrained(vision, text)  # doctest: +SKIP
            >>> model = QFormerCaptioner.from_vision_text_pretrained(
            ...     vision, text, processor=processor
            ... )  # doctest: +SKIP
        """
        return build_from_pretrained(cls, vision=vision, text=text, processor=processor, dtype=dtype, **config)

    def load_text_backbone(self, text: str | os.PathLike, dtype: torch.dtype) -> None:
        """Load a pretrained language model, and use the special tokens of the configuration in generation."""
        super().load_text_backbone(text, dtype)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(self.generation_config, name, getattr(self.config.text_config, name))

    def get_image_features(self, *args: Any, **kwargs: Any) -> CaptionerFeatures:
        """See [`QFormerCaptionerModel.get_image_features`]."""
        return self.model.get_image_features(*args, **kwargs)

    @can_return_tuple
    @accepts_cache
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cross_attention_states: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QFormerCaptionerOutput:
        """Predict the next token at every position of texts, each with its image.

        Args:
            input_ids: `(B, T)`, padded on either side, starting with the start token, without image placeholders.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding. Defaults to ones.
            pixel_values: `(B, 3, H, W)`, one image per text.
            vision_features: `(B, N, D_vision)`, precomputed features of the vision tower in place of `pixel_values`.
            position_ids: `(B, T)`. Defaults to counting attended tokens.
            cache: Key/value cache of earlier tokens, called `past_key_values` before transformers 5.24.
            inputs_embeds: `(B, T, D)`, text embeddings in place of `input_ids`.
            labels: `(B, T)`, token ids, or -100 for positions without a loss. They are shifted inside the model.
            use_cache: Whether to return a cache.
            logits_to_keep: Number of trailing positions to compute logits for (0 computes all), or a tensor of position
                indices.
            cross_attention_states: Keys and values of images that `generate` has computed. Pass images instead.
            **kwargs: Keywords that every transformers model accepts, passed to the language model.

        Raises:
            TypeError: If an argument is unknown. The message suggests the most similar one.
            ValueError: If both or neither kind of text or image are given, or images and texts differ in number.
        """
        self.check_forward_arguments(kwargs)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            vision_features=vision_features,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cross_attention_states=cross_attention_states,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **kwargs)
        return QFormerCaptionerOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            query_embeds=outputs.query_embeds,
            image_hidden_states=outputs.image_hidden_states,
            cross_attentions=outputs.cross_attentions,
            query_attentions=outputs.query_attentions,
            **cache_output(outputs),
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
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate captions. Vision tower and Q-Former run once per image.

        Without `input_ids`, captions begin with the start token (`generation_config.bos_token_id`).

        Args:
            inputs: `(B, T)`, the same as `input_ids`.
            generation_config: See `GenerationMixin.generate`.
            *args: See `GenerationMixin.generate`.
            pixel_values: `(B, 3, H, W)`, one image per text.
            vision_features: `(B, N, D_vision)`, precomputed features of the vision tower in place of `pixel_values`.
            cache: See [`QFormerCaptioner.forward`].
            **kwargs: See `GenerationMixin.generate`, such as `input_ids`, `attention_mask` (padded on the left),
                `num_beams` and `max_new_tokens`.

        Raises:
            ValueError: If both or neither kind of images are given, there is neither a start token nor `input_ids`, or
                as `GenerationMixin.generate` raises.
        """
        queries: Any = self.get_image_features(pixel_values, vision_features, return_dict=True).last_hidden_state
        if inputs is None and kwargs.get("input_ids") is None and kwargs.get("inputs_embeds") is None:
            if self._start_token(generation_config, kwargs) is None:
                raise ValueError(
                    "`input_ids` must be given for a model without a start token. Pass them, or set "
                    "`model.generation_config.bos_token_id`."
                )
            kwargs["attention_mask"] = queries.new_ones(len(queries), 1, dtype=torch.long)
        kwargs["cross_attention_states"] = self.model.compute_cross_attention_states(queries)
        return super().generate(inputs, generation_config, *args, **cache_argument(cache), **kwargs)

    def _start_token(self, generation_config: GenerationConfig | None, kwargs: dict[str, Any]) -> int | None:
        """Return the start token: from the arguments of `generate`, or from the generation configuration."""
        given = [kwargs.get("bos_token_id"), getattr(generation_config, "bos_token_id", None)]
        return next((token for token in given if token is not None), self.generation_config.bos_token_id)
