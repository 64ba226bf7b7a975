"""[`SmolVLM`] from the checkpoints of its parts."""

import os
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from typing_extensions import Self

from vlmkit.base import WritingModel
from vlmkit.models.qformer_aligner import QFormerAligner
from vlmkit.models.smolvlm.configuration_smolvlm import VlmkitSmolVLMConfig
from vlmkit.modules.language_models import check_plain_language_model
from vlmkit.modules.towers import published_config, text_part, vision_part
from vlmkit.modules.vision_tower import VisionTower


class FromPretrainedParts(WritingModel):
    """How a [`SmolVLM`] is put together; a subclass has `vision_tower`, `connector` and `language_model`.

    Args:
        config: its configuration.
        **unknown: see [`VlmkitModel`].
    """

    config: VlmkitSmolVLMConfig

    @classmethod
    def from_aligner_text_pretrained(
        cls,
        aligner: str | os.PathLike,
        text: str | os.PathLike,
        image_token_id: int,
        vision: str | os.PathLike | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
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
        language_model, text_config = _language_model(text, image_token_id, dtype)
        config = VlmkitSmolVLMConfig(
            vision_config=first.config.vision_config if vision is None else published_config(vision, vision_part),
            qformer_config=first.config.text_config,
            text_config=text_config,
            image_token_id=image_token_id,
            num_query_tokens=first.config.num_query_tokens,
            num_cross_attention_heads=first.config.num_cross_attention_heads,
            cross_attention_frequency=first.config.cross_attention_frequency,
        )
        model = cls._from_config(config, dtype=dtype)
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
        return model._with_weights_of(language_model)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | os.PathLike,
        text: str | os.PathLike,
        image_token_id: int,
        dtype: torch.dtype = torch.float32,
        **config: Any,
    ) -> Self:
        """Join a pretrained image encoder with a pretrained language model; what lies between them is new.

        Args:
            vision: folder or hub id of an image model of transformers or timm, or of a two-tower model, whose image
                side is taken.
            text: folder or hub id of a causal language model.
            image_token_id: of the token that holds an image's places, `processor.image_token_id`.
            dtype: of all weights.
            **config: fields of [`VlmkitSmolVLMConfig`], such as `connector` and `fusion`.

        Raises:
            OSError: a model cannot be found.
            TypeError: an unknown configuration field.
            ValueError: `text` is a language model that is not supported (see [`check_plain_language_model`]), or a
                field does not fit.
        """
        language_model, text_config = _language_model(text, image_token_id, dtype)
        parts = {"vision_config": published_config(vision, vision_part), "text_config": text_config}
        model = cls._from_config(VlmkitSmolVLMConfig(**parts, image_token_id=image_token_id, **config), dtype=dtype)
        # After construction, which initialises everything.
        model.vision_tower.set_backbone(VisionTower.load_backbone(vision, model.config.vision_config, dtype=dtype))
        return model._with_weights_of(language_model)

    def _with_weights_of(self, language_model: PreTrainedModel) -> Self:
        """Take over a language model's weights and the way it writes, and be ready for use."""
        check_plain_language_model(language_model)
        self.language_model.load_state_dict(language_model.state_dict())
        self.generation_config = language_model.generation_config
        suppressed = self.generation_config.suppress_tokens or []
        # A place without an image must not be written.
        self.generation_config.suppress_tokens = [*suppressed, self.config.image_token_id]
        return self.eval()


def _language_model(
    text: str | os.PathLike, image_token_id: int, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedConfig]:
    """A pretrained language model with a row for the image token, and a configuration to build another one with."""
    language_model = AutoModelForCausalLM.from_pretrained(text, dtype=dtype)
    if image_token_id >= language_model.get_input_embeddings().num_embeddings:
        language_model.resize_token_embeddings(image_token_id + 1)
    config = published_config(text, text_part)
    config.vocab_size = language_model.config.vocab_size
    return language_model, config
