"""QFormerAligner: a text encoder whose layers, with learned queries beside the text, learn to read images."""

import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ProcessorMixin
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from vlmkit.base.building import build_from_pretrained
from vlmkit.base.modeling import VlmkitModel
from vlmkit.losses import info_nce, matching_loss, matching_pairs
from vlmkit.losses.similarity import scaled_similarity
from vlmkit.models.qformer_aligner.configuration_qformer_aligner import QFormerAlignerConfig
from vlmkit.models.qformer_aligner.heads import CaptioningHead, MatchingHead
from vlmkit.models.qformer_aligner.outputs import QFormerAlignerOutput, QFormerFeatures
from vlmkit.modules.pooling import pool_tokens
from vlmkit.modules.qformer import QFormer, TextEmbeddings
from vlmkit.modules.temperature import initial_logit_scale, inverse_temperature, new_logit_scale
from vlmkit.modules.text_encoders import encoder_sizes, encoder_weights
from vlmkit.modules.text_tower import TextTower
from vlmkit.modules.vision_tower import VisionTower

_USAGE = """import vlmkit
from PIL import Image
from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained("{name}"), AutoProcessor.from_pretrained("{name}")
captions = ["a dog in the snow", "two children on a beach"]
inputs = processor(images=[Image.open("photo.jpg")], text=captions, return_tensors="pt")
print(model(**inputs).logits_per_image.softmax(dim=1))"""
_QUERY_STD = 0.02


class QFormerAligner(VlmkitModel):
    """A text encoder through which learned queries pass that look at an image, trained to match images with texts.

    An image is embedded as the mean of its queries, a text as its first token; neither sees the other. For the two
    further losses, queries and text see each other on their way.

    Args:
        config: see [`QFormerAlignerConfig`].

    References:
        vlm-training (see `docs/papers.md`); Li et al., "BLIP-2" (arXiv:2301.12597, sections 3.1 and 3.2).

    Example:
        >>> import torch
        >>> from transformers import DistilBertConfig, ViTConfig
        >>> config = QFormerAlignerConfig(
        ...     vision_config=ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32),
        ...     text_config=DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=50),
        ... )
        >>> model = QFormerAligner(config).eval()
        >>> outputs = model(pixel_values=torch.rand(2, 3, 32, 32), input_ids=torch.tensor([[1, 2], [3, 4]]))
        >>> outputs.logits_per_image.shape
        torch.Size([2, 2])
    """

    config: QFormerAlignerConfig
    base_model_prefix = "qformer_aligner"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    card_usage = _USAGE
    card_pipeline = None
    accepts_loss_kwargs = False  # the losses are means over the batch, whatever the accumulation
    _supports_flash_attn = False  # it takes no mask of who sees whom

    def __init__(self, config: QFormerAlignerConfig, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.vision_tower = VisionTower(config.vision_config, pooling="mean", frozen=config.freeze_vision)
        sizes = encoder_sizes(config.text_config)
        vision_size, width = self.vision_tower.hidden_size, sizes.hidden_size
        self.vision_projection = nn.Identity() if vision_size == width else nn.Linear(vision_size, width)
        self.text_embeddings = TextEmbeddings(sizes)
        self.qformer = QFormer(
            config,
            encoder_sizes=sizes,
            num_queries=config.num_query_tokens,
            num_cross_attention_heads=config.num_cross_attention_heads or sizes.num_heads,
            cross_attention_frequency=config.cross_attention_frequency,
            queries_see_text=config.original_causal_mask,
        )
        self.matching_head = MatchingHead(width) if config.matching_loss_weight else None
        self.captioning_head = CaptioningHead(width, sizes.eps) if config.captioning_loss_weight else None
        self.logit_scale = new_logit_scale(config.learn_temperature)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QFormer):
            init.normal_(module.query_tokens, std=_QUERY_STD)
        elif isinstance(module, QFormerAligner) and module.logit_scale is not None:
            init.constant_(module.logit_scale, initial_logit_scale(self.config.temperature))

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | os.PathLike,
        text: str | os.PathLike,
        *,
        processor: ProcessorMixin | None = None,
        dtype: torch.dtype = torch.float32,
        **config: Any,
    ) -> "QFormerAligner":
        """Build a Q-Former from a pretrained text encoder, with a pretrained vision encoder.

        The queries, their attention to the image, and the heads of the losses are new.

        Args:
            vision: Folder or Hub id of an image model of transformers or timm, or of a two-tower model, whose image
                side is taken.
            text: Folder or Hub id of a DistilBERT, BERT (MiniLM) or RoBERTa.
            processor: [`QFormerAlignerProcessor`] of the same two models. Tokens that it has added get
                embeddings.
            dtype: Data type of the model weights.
            **config: Fields of [`QFormerAlignerConfig`].

        Raises:
            OSError: If a model cannot be found.
            TypeError: If a configuration field is unknown.
            ValueError: If a backbone does not support the configuration.
        """
        return build_from_pretrained(cls, vision, text, processor=processor, dtype=dtype, **config)

    def load_text_backbone(self, text: str | os.PathLike, dtype: torch.dtype) -> None:
        """Load the weights of a pretrained text encoder into the Q-Former."""
        encoder = TextTower.load_backbone(text, self.config.text_config, dtype=dtype)
        self.load_state_dict({**self.state_dict(), **encoder_weights(encoder)})

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of token embeddings."""
        return self.text_embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the table of token embeddings."""
        self.text_embeddings.word_embeddings = value

    @can_return_tuple
    def get_image_features(
        self, pixel_values: Tensor | None = None, vision_features: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Let the queries collect what images show.

        Args:
            pixel_values: `(B, 3, H, W)`.
            vision_features: `(B, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            **kwargs: passed to the vision backbone, such as `output_hidden_states`.

        Returns:
            `last_hidden_state (B, Q, D)`, the queries, and `pooler_output (B, D)`, their mean, not normalised;
            `hidden_states` and `attentions` of the vision backbone, where asked for.

        Raises:
            ValueError: no images or both kinds, tokens of another shape, or tokens in training of a vision tower.
        """
        vision = self._vision_outputs(pixel_values, vision_features, **kwargs)
        queries = self.qformer(vision_features=self.vision_projection(vision.last_hidden_state)).queries
        return BaseModelOutputWithPooling(
            last_hidden_state=queries,
            pooler_output=queries.mean(dim=1),
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
        )

    @can_return_tuple
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> BaseModelOutputWithPooling:
        """Encode texts, as the text encoder alone does that the Q-Former comes from.

        Args:
            input_ids: `(B, T)`, padded on either side.
            attention_mask: `(B, T)`; all ones if not given.
            output_hidden_states: whether the states `(B, T, D)` after each layer are returned, too.

        Returns:
            `last_hidden_state (B, T, D)` and `pooler_output (B, D)`, the first token's, not normalised.

        Raises:
            ValueError: a text is longer than the text encoder's positions.
        """
        text_states, attention_mask = self._text_states(input_ids, attention_mask)
        keep = output_hidden_states or self.config.output_hidden_states
        states = self.qformer(text_states, attention_mask=attention_mask, output_hidden_states=keep)
        return BaseModelOutputWithPooling(
            last_hidden_state=states.text,
            pooler_output=pool_tokens(states.text, attention_mask, pooling="cls"),
            hidden_states=states.layers,
        )

    @can_return_tuple
    def get_multimodal_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        attention_mode: str = "multimodal",
    ) -> QFormerFeatures:
        """Read images and texts together.

        Args:
            input_ids: `(B, T)`, one text per image, padded on either side.
            attention_mask: `(B, T)`; all ones if not given.
            pixel_values: `(B, 3, H, W)`.
            vision_features: `(B, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            attention_mode: `"multimodal"` (all see all, as `matching_head` expects it), `"multimodal_causal"` (a word
                sees the words before it and the queries, as in captioning) or `"unimodal"` (neither sees the other).

        Raises:
            ValueError: an unknown mode, images and texts that differ in number, or as `get_image_features` raises.
        """
        projected = self.vision_projection(self._vision_outputs(pixel_values, vision_features).last_hidden_state)
        text_states, attention_mask = self._text_states(input_ids, attention_mask)
        if len(projected) != len(text_states):
            raise ValueError(
                f"The number of images must equal the number of texts, but got {len(projected)} images and "
                f"{len(text_states)} texts. Pass one image for each text."
            )
        states = self.qformer(text_states, projected, attention_mask, attention_mode)
        return QFormerFeatures(
            query_hidden_state=states.queries,
            text_hidden_state=states.text,
            query_pooled=states.queries.mean(dim=1),
            text_pooled=pool_tokens(states.text, attention_mask, pooling="cls"),
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        vision_features: Tensor | None = None,
        group_ids: Tensor | None = None,
        return_loss: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QFormerAlignerOutput:
        """Compare images with texts.

        Args:
            pixel_values: `(I, 3, H, W)`.
            input_ids: `(T, L)`, padded on either side.
            attention_mask: `(T, L)`; all ones if not given.
            vision_features: `(I, N, vision width)`, the vision tower's tokens in place of `pixel_values`.
            group_ids: `(I,)` integers, equal for equal images: captions of one image are not each other's negatives.
            return_loss: whether to compute the losses; outside training they are left out where I and T differ.
            **kwargs: what every transformers model takes; passed to the vision backbone.

        Raises:
            TypeError: an unknown argument (the message names the closest).
            ValueError: a side is missing, or images are given twice; in training, images and texts differ in number, or
                tokens are given for a vision tower that is not frozen.
        """
        self.check_forward_arguments(kwargs)
        if input_ids is None:
            raise ValueError("give the texts as input_ids")
        vision = self._vision_outputs(pixel_values, vision_features, **kwargs)
        projected = self.vision_projection(vision.last_hidden_state)
        text_states, attention_mask = self._text_states(input_ids, attention_mask)
        paired = len(projected) == len(text_states)
        if self.training and return_loss and not paired:
            raise ValueError(f"training needs one text per image, got {len(projected)} and {len(text_states)}")

        queries = self.qformer(vision_features=projected).queries
        text = self.qformer(text_states, attention_mask=attention_mask).text
        # Unit vectors are float32 whatever the weights are.
        image_embeds = nn.functional.normalize(queries.mean(dim=1).float(), dim=-1)
        text_embeds = nn.functional.normalize(pool_tokens(text, attention_mask, pooling="cls").float(), dim=-1)
        scale = inverse_temperature(self.logit_scale, self.config.temperature)
        logits_per_image = scaled_similarity(image_embeds, text_embeds, logit_scale=scale)

        losses: dict[str, Tensor] = {}
        if return_loss and paired:
            if self.config.contrastive_loss_weight:
                losses["contrastive_loss"] = info_nce(image_embeds, text_embeds, logit_scale=scale, group_ids=group_ids)
            states = (text_states, projected, attention_mask)
            losses.update(self._multimodal_losses(*states, input_ids, logits_per_image, group_ids))
        weighted = [getattr(self.config, f"{name}_weight") * value for name, value in losses.items()]
        return QFormerAlignerOutput(
            loss=torch.stack(weighted).sum() if weighted else None,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_image.T,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            **losses,
        )

    def _vision_outputs(
        self, pixel_values: Tensor | None, vision_features: Tensor | None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """The vision tower's outputs, or given tokens in their place, which may be of another type than the weights."""
        vision = self.vision_tower.get_vision_features(pixel_values, vision_features, training=self.training, **kwargs)
        vision.last_hidden_state = vision.last_hidden_state.to(self.qformer.query_tokens.dtype)
        return vision

    def _text_states(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Embedded texts `(B, T, D)` and their mask `(B, T)`."""
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.text_embeddings(input_ids, attention_mask), attention_mask

    def _multimodal_losses(
        self, text: Tensor, image: Tensor, mask: Tensor, input_ids: Tensor, logits: Tensor, group_ids: Tensor | None
    ) -> dict[str, Tensor]:
        """The losses for which queries and text see each other, as far as the model has their heads."""
        losses = {}
        if self.matching_head is not None:
            pairs = matching_pairs(logits, group_ids, draw=self.training)  # no chance in evaluation
            rows = pairs.text_rows
            states = self.qformer(text[rows], image[pairs.image_rows], mask[rows], "multimodal")
            losses["matching_loss"] = matching_loss(self.matching_head(states.queries), pairs)
        if self.captioning_head is not None:
            states = self.qformer(text, image, mask, "multimodal_causal")
            table = self.get_input_embeddings().weight
            losses["captioning_loss"] = self.captioning_head(states.text, input_ids, mask, table)
        return losses
