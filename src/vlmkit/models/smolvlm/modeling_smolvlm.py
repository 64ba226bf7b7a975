"""SmolVLM: an image encoder whose Q-Former's queries are tokens of a small language model."""

import os
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, GenerationConfig, GenerationMixin
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from vlmkit.base import WritingModel
from vlmkit.models.qformer_aligner import QFormerAligner
from vlmkit.models.smolvlm.configuration_smolvlm import VlmkitSmolVLMConfig
from vlmkit.modules.connectors import QFormerConnector
from vlmkit.modules.fusion import cached_images, merge_image_embeds
from vlmkit.modules.language_models import causal_language_model, check_plain_language_model
from vlmkit.modules.qformer import QFormer
from vlmkit.modules.text_encoders import encoder_sizes
from vlmkit.modules.towers import VisionTower, published_config, text_part, vision_part

_USAGE = """import vlmkit
from transformers import pipeline

chat = pipeline("image-text-to-text", model="{name}")
image, question = {{"type": "image", "url": "photo.jpg"}}, {{"type": "text", "text": "What is in this picture?"}}
chat([{{"role": "user", "content": [image, question]}}], return_full_text=False)[0]["generated_text"]"""
_QUERY_STD = 0.02


@dataclass
class SmolVLMOutput(ModelOutput):
    """What [`SmolVLM`] returns.

    Args:
        loss: scalar, float32; given with `labels`.
        logits: `(B, T, vocabulary)`; in training with `labels` there are none, as only positions with a label pass
            through the head.
        past_key_values: the language model's cache.
        image_hidden_states: `(I, Q, D)`, the images' tokens in the language model.
        hidden_states: of the language model's layers `(B, T, D)`; with `output_hidden_states`.
        attentions: of the language model's layers `(B, heads, T, T)`; with `output_attentions`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    image_hidden_states: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class SmolVLM(WritingModel, GenerationMixin):
    """An image encoder, a Q-Former and a small language model, in whose texts the queries take the images' places.

    A text may have any number of images, or none. Each has `num_query_tokens` places, which hold `image_token_id`.

    Args:
        config: see [`VlmkitSmolVLMConfig`].

    References:
        vlm-training (see `docs/papers.md`); Li et al., "BLIP-2" (arXiv:2301.12597).

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

    config: VlmkitSmolVLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    card_usage = _USAGE
    card_pipeline = "image-text-to-text"
    _no_split_modules = ["QFormerLayer"]  # noqa: RUF012

    def __init__(self, config: VlmkitSmolVLMConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.vision_tower = VisionTower(config.vision_config, "mean", config.freeze_vision)
        self.language_model = causal_language_model(config.text_config)
        self.connector = QFormerConnector(
            config,
            self.vision_tower.hidden_size,
            encoder_sizes(config.qformer_config),
            config.num_query_tokens,
            config.num_cross_attention_heads,
            config.cross_attention_frequency,
            self.language_model.get_input_embeddings().embedding_dim,
        )
        self._can_compile_fullgraph = self.language_model._can_compile_fullgraph
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QFormer):
            init.normal_(module.query_tokens, std=_QUERY_STD)

    @classmethod
    def from_aligner_text_pretrained(
        cls,
        aligner: str | os.PathLike,
        text: str | os.PathLike,
        image_token_id: int,
        vision: str | os.PathLike | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "SmolVLM":
        """Put a language model behind the vision tower and the Q-Former of a trained first stage.

        New are the two layers between them, and a row of the language model's token table where it has no room for the
        image token.

        Args:
            aligner: folder or hub id of a [`QFormerAligner`].
            text: folder or hub id of a causal language model.
            image_token_id: of the token that holds an image's places, `processor.image_token_id`.
            vision: folder or hub id of an image model in place of the aligner's own, with tokens of the same width.
            dtype: of all weights.

        Raises:
            OSError: a model cannot be found.
            ValueError: `aligner` is another kind of model, `text` is one that is not supported (see
                [`check_plain_language_model`]), or `vision` has tokens of another width.
        """
        first = QFormerAligner.from_pretrained(aligner, dtype=dtype)
        language_model = AutoModelForCausalLM.from_pretrained(text, dtype=dtype)
        if image_token_id >= language_model.get_input_embeddings().num_embeddings:
            language_model.resize_token_embeddings(image_token_id + 1)
        text_config = published_config(text, text_part)
        text_config.vocab_size = language_model.config.vocab_size
        config = cls.config_class(
            vision_config=first.config.vision_config if vision is None else published_config(vision, vision_part),
            qformer_config=first.config.text_config,
            text_config=text_config,
            image_token_id=image_token_id,
            num_query_tokens=first.config.num_query_tokens,
            num_cross_attention_heads=first.config.num_cross_attention_heads,
            cross_attention_frequency=first.config.cross_attention_frequency,
        )
        model = cls._from_config(config, dtype=dtype)
        check_plain_language_model(language_model)
        if (width := model.vision_tower.hidden_size) != first.vision_tower.hidden_size:
            raise ValueError(
                f"the tokens of {vision} are {width} wide, but the Q-Former in {aligner} was trained on a width of "
                f"{first.vision_tower.hidden_size}; give its own image model, or train a first stage with this one"
            )
        # After construction, which initialises everything.
        model.vision_tower.set_backbone(
            first.vision_tower.backbone
            if vision is None
            else VisionTower.load_backbone(vision, model.config.vision_config, dtype=dtype)
        )
        model.connector.image_projection = first.image_projection
        model.connector.qformer.load_state_dict(first.qformer.state_dict())
        model.language_model.load_state_dict(language_model.state_dict())
        model.generation_config = language_model.generation_config
        suppressed = model.generation_config.suppress_tokens or []
        model.generation_config.suppress_tokens = [*suppressed, image_token_id]  # a place without an image
        return model.eval()

    @can_return_tuple
    def get_image_features(
        self, pixel_values: Tensor | None = None, image_tokens: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Turn images into tokens of the language model.

        Args:
            pixel_values: `(I, 3, H, W)`.
            image_tokens: `(I, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            **kwargs: passed to the vision backbone.

        Returns:
            `last_hidden_state (I, N, vision width)`, the vision tower's tokens, and `pooler_output (I, Q, D)`.

        Raises:
            ValueError: no images or both kinds, tokens of another shape, or tokens in training of a vision tower.
        """
        vision = self.vision_tower.encode_or_take(pixel_values, image_tokens, self.training, **kwargs)
        tokens = vision.last_hidden_state.to(self.connector.qformer.query_tokens.dtype)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=self.connector(tokens),
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_tokens: Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SmolVLMOutput:
        """Predict the next token at every position of texts with images in them.

        Args:
            input_ids: `(B, T)`, padded on either side, with `num_query_tokens` times `image_token_id` for each image.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding; all ones if not given.
            pixel_values: `(I, 3, H, W)`, the images of all texts in their order.
            image_tokens: `(I, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            mm_encoder_outputs: `{"image": get_image_features(...)}` in place of the images; `generate` makes it once.
            position_ids: `(B, T)`; counted over attended tokens if not given.
            past_key_values: the language model's cache of earlier tokens.
            inputs_embeds: `(B, T, D)` in place of `input_ids`.
            labels: `(B, T)`, the token at each position, -100 where it counts in no loss; shifted here.
            use_cache: whether to return a cache.
            logits_to_keep: how many of the last positions get logits, or which; all by default.
            **kwargs: what every transformers model takes; passed to the language model.

        Raises:
            TypeError: an unknown argument (the message names the nearest).
            ValueError: no text or both kinds, images given twice, more or fewer images than the texts have places for,
                or a static cache for a language model that supports none.
        """
        self.refuse_arguments(kwargs.keys())
        inputs_embeds, is_place = self._text_embeds(input_ids, inputs_embeds)
        image_embeds = self._image_embeds(pixel_values, image_tokens, mm_encoder_outputs)
        if image_embeds is not None or inputs_embeds.shape[1] > 1:  # what is generated has no places
            inputs_embeds = merge_image_embeds(inputs_embeds, is_place, image_embeds, self.config.num_query_tokens)
        outputs = self._read(inputs_embeds, attention_mask, position_ids, past_key_values, use_cache, **kwargs)
        logits = loss = None
        if self.training and labels is not None:
            loss = self._loss_of_labelled(outputs.last_hidden_state, labels, **kwargs)
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.get_output_embeddings()(outputs.last_hidden_state[:, kept])
            if labels is not None:
                loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **kwargs)
        return SmolVLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            image_hidden_states=image_embeds,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
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
        """Go on with texts, as every transformers model does; vision tower and Q-Former run once per image.

        Given `past_key_values` of an earlier call, `input_ids` of the whole conversation and all its images, what the
        cache holds is not computed again, images included.

        Args:
            inputs: `(B, T)`, the same as `input_ids`.
            generation_config: see `GenerationMixin.generate`.
            *args: see `GenerationMixin.generate`.
            pixel_values: `(I, 3, H, W)`, the images of all texts in their order.
            image_tokens: `(I, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            **kwargs: see `GenerationMixin.generate`; such as `input_ids`, `attention_mask` (padded on the left),
                `past_key_values`, `streamer`, `max_new_tokens`.

        Raises:
            ValueError: images given twice, or more or fewer than the texts have places for; or as
                `GenerationMixin.generate` raises.
        """
        if given := kwargs.get("mm_encoder_outputs"):
            self._refuse_both(pixel_values, image_tokens, given)
            kwargs["mm_encoder_outputs"] = {"image": copy(given["image"])}  # beams would repeat the caller's in place
        images = pixel_values if image_tokens is None else image_tokens
        input_ids = kwargs.get("input_ids") if inputs is None else inputs
        if images is not None and input_ids is not None:
            cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
            num_absent = 0 if mask is None else mask.shape[1] - input_ids.shape[1]  # of the cached ones
            num_cached = 0 if cache is None else int(cache.get_seq_length()) - num_absent
            places = input_ids == self.config.image_token_id
            is_new = ~cached_images(places, len(images), self.config.num_query_tokens, num_cached)
            pixel_values, image_tokens = (
                given if given is None else given[is_new] for given in (pixel_values, image_tokens)
            )
            images = images[is_new]
        if images is not None and len(images):
            features = self.get_image_features(pixel_values, image_tokens, return_dict=True)
            kwargs["mm_encoder_outputs"] = {"image": features}
        return super().generate(inputs, generation_config, *args, **kwargs)

    def _text_embeds(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> tuple[Tensor, Tensor]:
        """The texts' tokens `(B, T, D)`, and which of them are an image's places `(B, T)`."""
        table, token = self.get_input_embeddings(), self.config.image_token_id
        if input_ids is not None and inputs_embeds is None:
            return table(input_ids), input_ids.eq(token)
        if inputs_embeds is not None and input_ids is None:  # as transformers finds the places, too
            return inputs_embeds, inputs_embeds.eq(table(torch.tensor(token, device=inputs_embeds.device))).all(dim=-1)
        raise ValueError("give the texts, either as input_ids or as inputs_embeds")

    def _image_embeds(
        self, pixel_values: Tensor | None, image_tokens: Tensor | None, mm_encoder_outputs: dict[str, Any] | None
    ) -> Tensor | None:
        """The images' tokens `(I, Q, D)`, if there are images."""
        self._refuse_both(pixel_values, image_tokens, mm_encoder_outputs)
        if mm_encoder_outputs:
            return mm_encoder_outputs["image"].pooler_output
        if pixel_values is None and image_tokens is None:
            return None
        return self.get_image_features(pixel_values, image_tokens, return_dict=True).pooler_output

    @staticmethod
    def _refuse_both(pixel_values: Any, image_tokens: Any, mm_encoder_outputs: Any) -> None:
        if mm_encoder_outputs and (pixel_values is not None or image_tokens is not None):
            raise ValueError("give the images, or the mm_encoder_outputs computed from them, but not both")

    def _loss_of_labelled(self, hidden_states: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        """The loss, with logits of those positions only that predict a label: the head is most of the vocabulary."""
        targets = labels[:, 1:]
        counts = targets != -100
        logits = self.get_output_embeddings()(hidden_states[:, :-1][counts])
        return self.loss_function(
            logits, labels=None, vocab_size=logits.shape[-1], shift_labels=targets[counts], **kwargs
        )
