"""SmolVLM: an image encoder, a connector, and a small language model that reads what comes out of it."""

from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationConfig, GenerationMixin
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from vlmkit.models.smolvlm.configuration_smolvlm import VlmkitSmolVLMConfig
from vlmkit.models.smolvlm.connector import build_connector, num_places
from vlmkit.models.smolvlm.outputs import SmolVLMOutput
from vlmkit.models.smolvlm.pretrained_parts import FromPretrainedParts
from vlmkit.modules.fusion import ImageEmbeds, cached_images, check_places, images_beside_texts, merge_image_embeds
from vlmkit.modules.gated_cross_attention import (
    GatedCrossAttention,
    GatedCrossAttentionBlock,
    ImageReader,
    check_hands_on_keywords,
    interleave,
)
from vlmkit.modules.language_models import causal_language_model, decoder_layers
from vlmkit.modules.perceiver import PerceiverResampler
from vlmkit.modules.qformer import QFormer
from vlmkit.modules.vision_tower import VisionTower

_USAGE = """import vlmkit
from transformers import pipeline

chat = pipeline("image-text-to-text", model="{name}")
image, question = {{"type": "image", "url": "photo.jpg"}}, {{"type": "text", "text": "What is in this picture?"}}
chat([{{"role": "user", "content": [image, question]}}], return_full_text=False)[0]["generated_text"]"""
_QUERY_STD = 0.02


class SmolVLM(FromPretrainedParts, GenerationMixin):
    """An image encoder, a connector and a small language model that reads the images' tokens.

    A text may have any number of images, or none. With `fusion="autoregressive"`, each has as many places in it as the
    connector makes tokens of it, which hold `image_token_id`. With `"cross_attention"`, each has one place, and what
    follows looks at the image between the layers of the language model. An image that is split (see
    [`VlmkitSmolVLMImageProcessor`]) is several images here, its views.

    Args:
        config: see [`VlmkitSmolVLMConfig`].

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

    config: VlmkitSmolVLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    card_usage = _USAGE
    card_pipeline = "image-text-to-text"
    _supports_flash_attn = False  # what joins the backbones takes masks of who sees whom
    _no_split_modules = ["QFormerLayer", "PerceiverLayer", "GatedCrossAttentionBlock"]  # noqa: RUF012

    def __init__(self, config: VlmkitSmolVLMConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        # Only the Q-Former was trained with a class token before the patches.
        has_prefix = config.connector == "qformer"
        self.vision_tower = VisionTower(config.vision_config, "mean", config.freeze_vision, has_prefix)
        self.language_model = causal_language_model(config.text_config)
        decoder, text_config = self.get_decoder(), config.get_text_config()
        text_size = self.get_input_embeddings().embedding_dim
        self.cross_attention = None
        if config.fusion == "cross_attention":
            layers, text_size = decoder_layers(decoder), text_config.hidden_size
            sizes = (text_size, text_config.num_attention_heads, len(layers), config.cross_layer_interval)
            self.cross_attention = GatedCrossAttention(config, *sizes)
            interleave(layers)
            check_hands_on_keywords(decoder)
        self.connector = build_connector(config, self.vision_tower.hidden_size, text_size)
        self._can_compile_fullgraph = self.language_model._can_compile_fullgraph
        self.post_init()

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

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        image_tokens: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Turn images into tokens of the language model.

        Args:
            pixel_values: `(I, 3, H, W)`.
            image_tokens: `(I, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            pixel_mask: `(I, H, W)`, 1 where an image is, if they differ in size and are padded.
            token_mask: `(I, rows, columns)`, as the vision tower gave it with such `image_tokens`.
            **kwargs: passed to the vision backbone.

        Returns:
            `last_hidden_state (I, N, vision width)`, the vision tower's tokens, and as `pooler_output` those for the
            language model: `(I, M, D)`, or where images differ in their number of tokens, one `(M_i, D)` for each.

        Raises:
            ValueError: no images or both kinds, tokens of another shape, tokens in training of a vision tower, or
                images of a size that vision tower or connector cannot take.
        """
        if pixel_values is not None and pixel_mask is None and self.config.connector == "pixel_shuffle":
            height, width = pixel_values.shape[2:]
            if height != width:  # a mask tells the grid of the tokens, which else is taken for a square
                pixel_mask = pixel_values.new_ones(len(pixel_values), height, width)
        vision = self.vision_tower.encode_or_take(
            pixel_values, image_tokens, self.training, pixel_mask, token_mask, **kwargs
        )
        tokens = vision.last_hidden_state.to(next(self.connector.parameters()).dtype)
        embeds, is_there = self.connector(tokens, vision.token_mask)
        if is_there is not None:
            embeds = [image[own] for image, own in zip(embeds, is_there, strict=True)]
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=embeds,
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
        pixel_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        image_key_values: Tensor | None = None,
        image_columns: Tensor | None = None,
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
            input_ids: `(B, T)`, padded on either side, with an `image_token_id` for each token of each image; with
                `fusion="cross_attention"`, with one for each image.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding; all ones if not given.
            pixel_values: `(I, 3, H, W)`, the images of all texts in their order.
            image_tokens: `(I, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            pixel_mask: see [`SmolVLM.get_image_features`].
            token_mask: see [`SmolVLM.get_image_features`].
            mm_encoder_outputs: `{"image": get_image_features(...)}` in place of the images; `generate` makes it once.
            image_key_values: `(B, blocks, 2, heads, N, D / heads)`, in place of the images of a model that looks at
                them by cross-attention, with `image_columns`; `generate` computes them once.
            image_columns: `(B, N)`, the columns of the places of the images that they belong to.
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
        is_place = self._places(input_ids, inputs_embeds)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        image_embeds = self._image_embeds(pixel_values, image_tokens, pixel_mask, token_mask, mm_encoder_outputs)
        reading: dict[str, ImageReader] = {}
        if self.cross_attention is not None:
            reading = self._reading(is_place, image_embeds, image_key_values, image_columns, past_key_values)
        elif image_key_values is not None or image_columns is not None:
            raise ValueError('image_key_values and image_columns are for fusion="cross_attention"; give the images')
        elif image_embeds is not None or inputs_embeds.shape[1] > 1:  # what is generated has no places
            inputs_embeds = merge_image_embeds(inputs_embeds, is_place, image_embeds)
        outputs = self._read(
            inputs_embeds, attention_mask, position_ids, past_key_values, use_cache, **reading, **kwargs
        )
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
        pixel_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Go on with texts, as every transformers model does; vision tower and connector run once per image.

        Given `past_key_values` of an earlier call, `input_ids` of the whole conversation and all its images, what the
        cache holds is not computed again, images included; except that for `fusion="cross_attention"` all images are.

        Args:
            inputs: `(B, T)`, the same as `input_ids`.
            generation_config: see `GenerationMixin.generate`.
            *args: see `GenerationMixin.generate`.
            pixel_values: `(I, 3, H, W)`, the images of all texts in their order.
            image_tokens: `(I, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            pixel_mask: see [`SmolVLM.get_image_features`].
            token_mask: see [`SmolVLM.get_image_features`].
            **kwargs: see `GenerationMixin.generate`; such as `input_ids`, `attention_mask` (padded on the left),
                `past_key_values`, `streamer`, `max_new_tokens`.

        Raises:
            ValueError: images given twice, or more or fewer than the texts have places for; or as
                `GenerationMixin.generate` raises.
        """
        given = kwargs.pop("mm_encoder_outputs", None)
        self._refuse_both(pixel_values, image_tokens, given)
        features = copy(given["image"]) if given else None  # beams would repeat the caller's in place
        input_ids = kwargs.get("input_ids") if inputs is None else inputs
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        num_absent = 0 if mask is None or input_ids is None else mask.shape[1] - input_ids.shape[1]  # cached ones
        if num_absent and self.cross_attention is not None:
            raise ValueError("cached images are not kept; give input_ids of the whole conversation and all its images")
        images = [pixel_values, image_tokens, pixel_mask, token_mask]
        is_new_place = None  # where the images stand that are computed here
        if input_ids is not None and self.cross_attention is None:
            num_cached = 0 if cache is None else max(int(cache.get_seq_length()) - num_absent, 0)
            is_place = input_ids == self.config.image_token_id
            images, is_new_place = self._without_cached(images, is_place, num_cached), is_place[:, num_cached:]
        if any(part is not None and len(part) for part in images):
            features = self.get_image_features(*images, return_dict=True)
            if is_new_place is not None:
                check_places(is_new_place, features.pooler_output)
        if features is not None and self.cross_attention is None:
            kwargs["mm_encoder_outputs"] = {"image": features}
        elif features is not None:
            is_place = self._places(input_ids, kwargs.get("inputs_embeds"))
            beside = self._beside_texts(is_place, features.pooler_output, 0)
            kwargs["image_key_values"], kwargs["image_columns"] = beside
        return super().generate(inputs, generation_config, *args, **kwargs)

    def _without_cached(self, images: list[Tensor | None], is_place: Tensor, num_cached: int) -> list[Tensor | None]:
        """The images, as pixels or tokens with their masks, but for those whose places the cache holds."""
        num_images = max((len(part) for part in images if part is not None), default=0)
        if num_cached == 0 or num_images == 0:
            return images
        _, image_tokens, pixel_mask, token_mask = images
        sizes = num_places(self.config, is_place, num_images, pixel_mask if image_tokens is None else token_mask)
        is_new = ~cached_images(is_place, sizes, num_cached)
        return [part if part is None else part[is_new] for part in images]

    def _beside_texts(self, is_place: Tensor, image_embeds: ImageEmbeds, first_column: int) -> tuple[Tensor, Tensor]:
        """What texts look at: `image_key_values` and `image_columns`, as [`SmolVLM.forward`] takes them."""
        embeds, columns = images_beside_texts(is_place, image_embeds, first_column)
        blocks: Any = self.cross_attention
        return blocks.key_values(embeds), columns

    def _reading(
        self,
        is_place: Tensor,
        image_embeds: ImageEmbeds | None,
        image_key_values: Tensor | None,
        image_columns: Tensor | None,
        past_key_values: Cache | None,
    ) -> dict[str, ImageReader]:
        """What shows the new columns of texts the images up to them, as a keyword of the decoder; none without."""
        given = image_key_values is not None
        if given != (image_columns is not None) or (given and image_embeds is not None):
            raise ValueError("give the images, or image_key_values with their image_columns, but not both")
        num_seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        if image_embeds is not None:
            image_key_values, image_columns = self._beside_texts(is_place, image_embeds, num_seen)
        if image_key_values is None or image_columns is None:
            if is_place.shape[1] > 1:  # what is generated has no places
                check_places(is_place, ())
            return {}
        columns = num_seen + torch.arange(is_place.shape[1], device=is_place.device)
        blocks: Any = self.cross_attention
        return {"image_reader": blocks.reader(image_key_values, image_columns[:, None, None, :] <= columns[:, None])}

    def _places(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Which of the texts' tokens are an image's places `(B, T)`."""
        token = self.config.image_token_id
        if input_ids is not None and inputs_embeds is None:
            return input_ids.eq(token)
        if inputs_embeds is not None and input_ids is None:  # as transformers finds the places, too
            place = self.get_input_embeddings()(torch.tensor(token, device=inputs_embeds.device))
            return inputs_embeds.eq(place).all(dim=-1)
        raise ValueError("give the texts, either as input_ids or as inputs_embeds")

    def _image_embeds(
        self,
        pixel_values: Tensor | None,
        image_tokens: Tensor | None,
        pixel_mask: Tensor | None,
        token_mask: Tensor | None,
        mm_encoder_outputs: dict[str, Any] | None,
    ) -> ImageEmbeds | None:
        """The images' tokens, if there are images."""
        self._refuse_both(pixel_values, image_tokens, mm_encoder_outputs)
        if mm_encoder_outputs:
            return mm_encoder_outputs["image"].pooler_output
        images = (pixel_values, image_tokens, pixel_mask, token_mask)
        if all(part is None for part in images):
            return None
        return self.get_image_features(*images, return_dict=True).pooler_output

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
