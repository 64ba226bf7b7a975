"""QFormerCaptioner: a language model whose last hidden states look at an image through a Q-Former."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Cache,
    GenerationConfig,
    GenerationMixin,
)
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from vlmkit.base import WritingModel
from vlmkit.models.qformer_captioner.configuration_qformer_captioner import QFormerCaptionerConfig
from vlmkit.models.qformer_captioner.qformer import (
    CaptionerFeatures,
    CaptionerQFormer,
    ImageCrossAttention,
    ImageProjection,
)
from vlmkit.modules.language_models import causal_language_model
from vlmkit.modules.towers import published_config, text_part, vision_part
from vlmkit.modules.vision_tower import VisionTower

_USAGE = """import vlmkit
from transformers import pipeline

describe = pipeline("image-text-to-text", model="{name}")
describe("photo.jpg", text="")[0]["generated_text"]"""
_QUERY_STD = 0.02


@dataclass
class QFormerCaptionerOutput(ModelOutput):
    """What [`QFormerCaptioner`] returns.

    Args:
        loss: scalar, float32; given with `labels`.
        logits: `(B, T, vocabulary)`.
        past_key_values: the language model's cache.
        query_embeds: `(B, 1 + Q, D)`, the Q-Former's output, the global token first.
        image_hidden_states: `(B, N, D)`, the projected tokens of the vision tower.
        hidden_states: of the language model's layers `(B, T, D)`; with `output_hidden_states`.
        attentions: of the language model's layers `(B, heads, T, T)`; with `output_attentions`.
        cross_attentions: `(B, heads, T, 1 + Q)`, of each text position to the queries; with `output_attentions`.
        query_attentions: of each Q-Former layer `(B, heads, 1 + Q, N)`; with `output_attentions`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    query_embeds: Tensor | None = None
    image_hidden_states: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: Tensor | None = None
    query_attentions: tuple[Tensor, ...] | None = None


class QFormerCaptioner(WritingModel, GenerationMixin):
    """An image encoder, a Q-Former and a language model, which looks at the queries once, before its head.

    The patch tokens of the vision tower are projected to the language model's width; a global token and Q learned
    queries attend to them. No image token enters the language model: its final hidden states attend to the queries.

    Args:
        config: see [`QFormerCaptionerConfig`].

    References:
        MultiModel (see `docs/papers.md`).

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

    config: QFormerCaptionerConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    card_usage = _USAGE
    card_pipeline = "image-text-to-text"
    _no_split_modules = ["QFormerLayer", "ImageCrossAttention"]  # noqa: RUF012

    def __init__(self, config: QFormerCaptionerConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.vision_tower = VisionTower(
            config.vision_config, "mean", config.freeze_vision, prefix_tokens=False, layers=config.vision_layers
        )
        self.language_model = causal_language_model(config.text_config)
        width = self.language_model.get_input_embeddings().embedding_dim
        shape = (config, width, config.num_attention_heads)
        self.image_projection = ImageProjection(self.vision_tower.hidden_size, width, len(config.vision_layers or [-1]))
        self.qformer = CaptionerQFormer(*shape, config.num_qformer_layers, config.num_query_tokens, config.dropout)
        self.image_cross_attention = ImageCrossAttention(*shape, config.dropout)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self._can_compile_fullgraph = self.language_model._can_compile_fullgraph
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CaptionerQFormer):
            init.normal_(module.global_token, std=_QUERY_STD)
            init.normal_(module.query_tokens, std=_QUERY_STD)
        elif isinstance(module, ImageCrossAttention):
            init.ones_(module.scale)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | os.PathLike,
        text: str | os.PathLike,
        dtype: torch.dtype = torch.float32,
        **config: Any,
    ) -> "QFormerCaptioner":
        """Join a pretrained image encoder with a pretrained language model; what lies between them is new.

        Args:
            vision: folder or hub id of an image model of transformers or timm, or of a two-tower model, whose image
                side is taken.
            text: folder or hub id of a causal language model.
            dtype: of all weights.
            **config: fields of [`QFormerCaptionerConfig`].

        Raises:
            OSError: a model cannot be found.
            TypeError: an unknown configuration field.
            ValueError: `text` is no causal language model, or a field does not fit.
        """
        vision_config, text_config = published_config(vision, vision_part), published_config(text, text_part)
        model = cls._from_config(
            cls.config_class(vision_config=vision_config, text_config=text_config, **config), dtype=dtype
        )
        # After construction, which initialises everything. It took the configurations over and adapted them.
        model.vision_tower.set_backbone(VisionTower.load_backbone(vision, model.config.vision_config, dtype=dtype))
        model.language_model = AutoModelForCausalLM.from_pretrained(text, config=model.config.text_config, dtype=dtype)
        return model.eval()

    @can_return_tuple
    def get_image_features(
        self, pixel_values: Tensor | None = None, image_tokens: Tensor | None = None, **kwargs: Any
    ) -> CaptionerFeatures:
        """Let the queries collect what images show.

        Args:
            pixel_values: `(B, 3, H, W)`.
            image_tokens: `(B, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            **kwargs: `output_attentions`; all else is passed to the vision backbone.

        Raises:
            ValueError: no images or both kinds, tokens of another shape, or tokens in training of a vision tower.
        """
        output_attentions = bool(kwargs.pop("output_attentions", False))
        vision = self.vision_tower.encode_or_take(pixel_values, image_tokens, self.training, **kwargs)
        image_states = self.image_projection(vision.last_hidden_state)
        queries, attentions = self.qformer(image_states, output_attentions)
        return CaptionerFeatures(
            last_hidden_state=queries,
            pooler_output=queries[:, 0],
            image_hidden_states=image_states,
            query_attentions=attentions,
            hidden_states=vision.hidden_states,
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_tokens: Tensor | None = None,
        image_key_values: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QFormerCaptionerOutput:
        """Predict the next token at every position of texts, each beside its image.

        Args:
            input_ids: `(B, T)`, padded on either side; beginning with the start token, without image placeholders.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding; all ones if not given.
            pixel_values: `(B, 3, H, W)`, one image per text.
            image_tokens: `(B, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            image_key_values: `(B, 2, heads, 1 + Q, D / heads)` in place of the images; `generate` computes them once.
            position_ids: `(B, T)`; counted over attended tokens if not given.
            past_key_values: the language model's cache of earlier tokens.
            inputs_embeds: `(B, T, D)` in place of `input_ids`.
            labels: `(B, T)`, the token at each position, -100 where it counts in no loss; shifted here.
            use_cache: whether to return a cache.
            logits_to_keep: how many of the last positions get logits, or which; all by default.
            **kwargs: what every transformers model takes; passed to the language model.

        Raises:
            TypeError: an unknown argument (the message names the nearest).
            ValueError: no text or no image, both kinds of either, or images and texts differ in number.
        """
        self.refuse_arguments(kwargs.keys())
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give the texts, either as input_ids or as inputs_embeds")
        output_attentions = bool(kwargs.get("output_attentions") or self.config.output_attentions)
        features = CaptionerFeatures()
        if image_key_values is None:
            features = self.get_image_features(
                pixel_values, image_tokens, output_attentions=output_attentions, return_dict=True
            )
            image_key_values = self._image_key_values(features.last_hidden_state)
        elif pixel_values is not None or image_tokens is not None:
            raise ValueError("give the images, or the image_key_values computed from them, but not both")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if len(image_key_values) != len(inputs_embeds):
            raise ValueError(
                f"{len(image_key_values)} images and {len(inputs_embeds)} texts; give one image for each text"
            )
        embeddings = self.embedding_dropout(inputs_embeds)
        outputs = self._read(embeddings, attention_mask, position_ids, past_key_values, use_cache, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden_states, cross_attentions = self.image_cross_attention(
            outputs.last_hidden_state[:, kept], tuple(image_key_values.unbind(dim=1)), output_attentions
        )
        logits = self.get_output_embeddings()(hidden_states)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **kwargs)
        return QFormerCaptionerOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            query_embeds=features.last_hidden_state,
            image_hidden_states=features.image_hidden_states,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=cross_attentions if output_attentions else None,
            query_attentions=features.query_attentions,
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        pixel_values: Tensor | None = None,
        image_tokens: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write texts, as every transformers model does; vision tower and Q-Former run once per image.

        Without `input_ids`, texts begin with the start token (`generation_config.bos_token_id`).

        Args:
            inputs: `(B, T)`, the same as `input_ids`.
            generation_config: see `GenerationMixin.generate`.
            *args: see `GenerationMixin.generate`.
            pixel_values: `(B, 3, H, W)`, one image per text.
            image_tokens: `(B, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            **kwargs: see `GenerationMixin.generate`; such as `input_ids`, `attention_mask` (padded on the left),
                `num_beams`, `max_new_tokens`.

        Raises:
            ValueError: no images or both kinds, no start token and no `input_ids`, a static cache for a language model
                that supports none; or as `GenerationMixin.generate` raises.
        """
        features = self.get_image_features(pixel_values, image_tokens, return_dict=True)
        if inputs is None and kwargs.get("input_ids") is None and kwargs.get("inputs_embeds") is None:
            if self._start_token(generation_config, kwargs) is None:
                raise ValueError("no start token is known; set model.generation_config.bos_token_id, or give input_ids")
            kwargs["attention_mask"] = features.pooler_output.new_ones(len(features.pooler_output), 1, dtype=torch.long)
        image_key_values = self._image_key_values(features.last_hidden_state)
        return super().generate(inputs, generation_config, *args, image_key_values=image_key_values, **kwargs)

    def _start_token(self, generation_config: GenerationConfig | None, options: dict[str, Any]) -> int | None:
        """What texts begin with: an argument of `generate`, else the given configuration's, else the model's own."""
        given = [options.get("bos_token_id"), getattr(generation_config, "bos_token_id", None)]
        return next((token for token in given if token is not None), self.generation_config.bos_token_id)

    def _image_key_values(self, queries: Tensor) -> Tensor:
        """What text attends to, from `(B, 1 + Q, D)`, as one tensor, which beam search can repeat."""
        return torch.stack(self.image_cross_attention.attention.key_values(queries), dim=1)
