"""QFormerAligner: a Q-Former built from a text encoder, which aligns images with texts."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ProcessorMixin
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from vlmkit.base.building import build_from_pretrained
from vlmkit.base.modeling import VlmkitModel
from vlmkit.distributed import mean_over_processes
from vlmkit.losses import info_nce, matching_loss, matching_pairs
from vlmkit.losses.similarity import scaled_similarity
from vlmkit.models.qformer_aligner.configuration_qformer_aligner import QFormerAlignerConfig
from vlmkit.models.qformer_aligner.processing_qformer_aligner import QFormerAlignerProcessor
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


@dataclass
class QFormerFeatures(ModelOutput):
    """Outputs of [`QFormerAligner.get_multimodal_features`].

    Args:
        query_hidden_state: `(B, Q, D)`, the queries of the images.
        text_hidden_state: `(B, T, D)`, the tokens of the texts.
        query_pooled: `(B, D)`, the mean of the queries.
        text_pooled: `(B, D)`, the first token of each text.
    """

    query_hidden_state: Tensor | None = None
    text_hidden_state: Tensor | None = None
    query_pooled: Tensor | None = None
    text_pooled: Tensor | None = None


@dataclass
class QFormerAlignerOutput(ModelOutput):
    """Outputs of [`QFormerAligner`].

    Args:
        loss: Scalar, float32, the weighted sum of the losses below. Returned if images and texts are pairs and
            `return_loss` is set.
        logits_per_image: `(I, B)`, cosine similarities of images and texts, divided by the temperature.
        logits_per_text: `(B, I)`, the transpose of `logits_per_image`.
        image_embeds: `(I, D)`, unit length.
        text_embeds: `(B, D)`, unit length.
        contrastive_loss: Scalar, InfoNCE. Returned if `contrastive_loss_weight` is positive.
        matching_loss: Scalar, binary cross-entropy. Returned if `matching_loss_weight` is positive.
        captioning_loss: Scalar, cross-entropy of the next token. Returned if `captioning_loss_weight` is positive.
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    contrastive_loss: Tensor | None = None
    matching_loss: Tensor | None = None
    captioning_loss: Tensor | None = None


class MatchingHead(nn.Module):
    """Classify pairs of image and text as matching or not.

    Args:
        hidden_size: Width D of the queries.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, queries: Tensor) -> Tensor:
        """Compute logits `(B,)`, positive for a match, from queries `(B, Q, D)` that have attended to the text."""
        return self.score(queries.mean(dim=1)).squeeze(1)


class CaptioningHead(nn.Module):
    """Predict the next token of a text, with an output layer that is tied to the token embeddings.

    Args:
        hidden_size: Width D of the text states and of the token embeddings.
        eps: Epsilon of the layer norm.

    References:
        Devlin et al., "BERT" (arXiv:1810.04805). The layers follow its head for masked language modeling.
    """

    def __init__(self, hidden_size: int, *, eps: float):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=eps)

    def forward(self, text_states: Tensor, *, input_ids: Tensor, attention_mask: Tensor, embeddings: Tensor) -> Tensor:
        """Compute the loss of predicting each token of a text from the state of the token before it.

        Args:
            text_states: `(B, T, D)`, computed with a causal attention mask.
            input_ids: `(B, T)`, padded on either side.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding.
            embeddings: `(vocab_size, D)`, the token embeddings.

        Returns:
            A float32 scalar: the mean over the tokens of all processes, without the first token of each text. 0 if no
            token remains.
        """
        is_predicted = (attention_mask[:, :-1] * attention_mask[:, 1:]).bool()
        states = self.norm(F.gelu(self.dense(text_states[:, :-1][is_predicted])))
        logits = F.linear(states, embeddings).float()
        return mean_over_processes(F.cross_entropy(logits, input_ids[:, 1:][is_predicted], reduction="none"))


class QFormerAligner(VlmkitModel):
    """A vision encoder and a Q-Former, trained to align images with texts.

    The Q-Former has the layers of a text encoder. Learned queries pass through the same layers, and attend to the image
    in some of them. An image is embedded as the mean of its queries, a text as its first token, without attention
    between the two. For the matching and the captioning loss, queries and text attend to each other.

    Args:
        config: Configuration of the model.

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
    processor_class = QFormerAlignerProcessor
    base_model_prefix = "qformer_aligner"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    card_usage = _USAGE
    card_pipeline = None
    accepts_loss_kwargs = False  # the losses are means over the batch, also with gradient accumulation
    _supports_flash_attn = False  # it does not support attention masks of arbitrary shape

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
        self.captioning_head = CaptioningHead(width, eps=sizes.eps) if config.captioning_loss_weight else None
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

        The queries, their cross-attention and the heads of the losses are new.

        Args:
            vision: Folder or Hub id of an image model of transformers or timm, or of a two-tower model, whose image
                side is taken.
            text: Folder or Hub id of a DistilBERT, BERT (MiniLM) or RoBERTa.
            processor: [`QFormerAlignerProcessor`] of the same two models. Tokens that it has added get embeddings.
            dtype: Data type of the model weights.
            **config: Fields of [`QFormerAlignerConfig`].

        Raises:
            OSError: If a model cannot be found.
            TypeError: If a configuration field is unknown.
            ValueError: If a backbone does not support the configuration.
        """
        return build_from_pretrained(cls, vision=vision, text=text, processor=processor, dtype=dtype, **config)

    def load_text_backbone(self, text: str | os.PathLike, dtype: torch.dtype) -> None:
        """Load the weights of a pretrained text encoder into the Q-Former."""
        encoder = TextTower.load_backbone(text, self.config.text_config, dtype=dtype)
        self.load_state_dict({**self.state_dict(), **encoder_weights(encoder)})

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the token embeddings."""
        return self.text_embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings."""
        self.text_embeddings.word_embeddings = value

    @can_return_tuple
    def get_image_features(
        self, pixel_values: Tensor | None = None, vision_features: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode images and compute the queries of the Q-Former.

        Args:
            pixel_values: `(B, 3, H, W)`.
            vision_features: `(B, N, D_vision)`, precomputed features of the vision tower in place of `pixel_values`.
            **kwargs: Passed to the vision backbone, such as `output_hidden_states`.

        Returns:
            `last_hidden_state (B, Q, D)`, the queries, and `pooler_output (B, D)`, their mean, not normalized.
            `hidden_states` and `attentions` of the vision backbone are returned if requested.

        Raises:
            ValueError: If both or neither kind of images are given, the features have another shape, or features are
                given while the vision tower is trained.
        """
        vision = self._encode_images(pixel_values, vision_features, **kwargs)
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
        """Encode texts. A new model returns the outputs of the pretrained text encoder.

        Args:
            input_ids: `(B, T)`, padded on either side.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding. Defaults to ones.
            output_hidden_states: Whether to return the hidden states `(B, T, D)` of all layers.

        Returns:
            `last_hidden_state (B, T, D)` and `pooler_output (B, D)`, the first token of each text, not normalized.

        Raises:
            ValueError: If a text has more tokens than the text encoder has positions.
        """
        text_states, attention_mask = self._embed_texts(input_ids, attention_mask)
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
        """Encode pairs of image and text with attention between the queries and the text.

        Args:
            input_ids: `(B, T)`, one text per image, padded on either side.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding. Defaults to ones.
            pixel_values: `(B, 3, H, W)`.
            vision_features: `(B, N, D_vision)`, precomputed features of the vision tower in place of `pixel_values`.
            attention_mode: `"multimodal"` (attention in both directions, which `matching_head` expects),
                `"multimodal_causal"` (a token attends to earlier tokens and to the queries, as in captioning) or
                `"unimodal"` (no attention between queries and text).

        Raises:
            ValueError: If the mode is unknown, images and texts differ in number, or as `get_image_features` raises.
        """
        projected = self.vision_projection(self._encode_images(pixel_values, vision_features).last_hidden_state)
        text_states, attention_mask = self._embed_texts(input_ids, attention_mask)
        if len(projected) != len(text_states):
            raise ValueError(
                f"The number of images must equal the number of texts, but got {len(projected)} images and "
                f"{len(text_states)} texts. Pass one image for each text."
            )
        states = self.qformer(text_states, projected, attention_mask, mode=attention_mode)
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
        """Compute the similarities of images and texts, and the losses of pairs.

        Args:
            pixel_values: `(I, 3, H, W)`.
            input_ids: `(B, T)`, padded on either side.
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding. Defaults to ones.
            vision_features: `(I, N, D_vision)`, precomputed features of the vision tower in place of `pixel_values`.
            group_ids: `(I,)`, integers that are equal for equal images. Captions of one image are not negatives of each
                other.
            return_loss: Whether to compute the losses. In evaluation mode, they are omitted if I and B differ.
            **kwargs: Keywords that every transformers model accepts, passed to the vision backbone.

        Raises:
            TypeError: If an argument is unknown. The message suggests the most similar one.
            ValueError: If the texts are missing, or both or neither kind of images are given. In training also if
                images and texts differ in number, or features are given although the vision tower is trained.
        """
        self.check_forward_arguments(kwargs)
        if input_ids is None:
            raise ValueError("Pass the texts as `input_ids`.")
        vision = self._encode_images(pixel_values, vision_features, **kwargs)
        projected = self.vision_projection(vision.last_hidden_state)
        text_states, attention_mask = self._embed_texts(input_ids, attention_mask)
        paired = len(projected) == len(text_states)
        if self.training and return_loss and not paired:
            raise ValueError(
                f"The number of images must equal the number of texts in training, but got {len(projected)} images and "
                f"{len(text_states)} texts. Pass one text for each image."
            )

        queries = self.qformer(vision_features=projected).queries
        text = self.qformer(text_states, attention_mask=attention_mask).text
        # Embeddings are float32, also with weights of another data type.
        image_embeds = nn.functional.normalize(queries.mean(dim=1).float(), dim=-1)
        text_embeds = nn.functional.normalize(pool_tokens(text, attention_mask, pooling="cls").float(), dim=-1)
        scale = inverse_temperature(self.logit_scale, self.config.temperature)
        logits_per_image = scaled_similarity(image_embeds, text_embeds, logit_scale=scale)

        losses: dict[str, Tensor] = {}
        if return_loss and paired:
            if self.config.contrastive_loss_weight:
                losses["contrastive_loss"] = info_nce(image_embeds, text_embeds, logit_scale=scale, group_ids=group_ids)
            losses |= self._compute_multimodal_losses(
                text_states,
                image_states=projected,
                input_ids=input_ids,
                attention_mask=attention_mask,
                logits_per_image=logits_per_image,
                group_ids=group_ids,
            )
        weighted = [getattr(self.config, f"{name}_weight") * value for name, value in losses.items()]
        return QFormerAlignerOutput(
            loss=torch.stack(weighted).sum() if weighted else None,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_image.T,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            **losses,
        )

    def _encode_images(
        self, pixel_values: Tensor | None, vision_features: Tensor | None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode images, or check precomputed features. Cast both to the data type of the Q-Former."""
        vision = self.vision_tower.get_vision_features(
            pixel_values, vision_features=vision_features, training=self.training, **kwargs
        )
        vision.last_hidden_state = vision.last_hidden_state.to(self.qformer.query_tokens.dtype)
        return vision

    def _embed_texts(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the embedded texts `(B, T, D)` and their attention mask `(B, T)`."""
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.text_embeddings(input_ids, attention_mask), attention_mask

    def _compute_multimodal_losses(
        self,
        text_states: Tensor,
        *,
        image_states: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_per_image: Tensor,
        group_ids: Tensor | None,
    ) -> dict[str, Tensor]:
        """Compute the matching and the captioning loss, if the model has their heads."""
        losses = {}
        if self.matching_head is not None:
            pairs = matching_pairs(logits_per_image, group_ids, draw=self.training)  # deterministic in evaluation
            states = self.qformer(
                text_states[pairs.text_rows],
                image_states[pairs.image_rows],
                attention_mask[pairs.text_rows],
                mode="multimodal",
            )
            losses["matching_loss"] = matching_loss(self.matching_head(states.queries), pairs)
        if self.captioning_head is not None:
            states = self.qformer(text_states, image_states, attention_mask, mode="multimodal_causal")
            losses["captioning_loss"] = self.captioning_head(
                states.text,
                input_ids=input_ids,
                attention_mask=attention_mask,
                embeddings=self.get_input_embeddings().weight,
            )
        return losses
