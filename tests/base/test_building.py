"""Models and configurations that are assembled from pretrained parts and a processor."""

from pathlib import Path

import pytest
import torch
from tests import tiny
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from vlmkit import DualEncoderModel, QFormerCaptioner, QFormerCaptionerProcessor, SmolVLM, VlmkitSmolVLMProcessor
from vlmkit.base.building import build_from_pretrained, grown_text_config

VOCAB_SIZE = len(tiny.tokenizer())  # the number of rows that the tokenizer needs


@pytest.fixture
def vision(tmp_path) -> PreTrainedModel:
    model = AutoModel.from_config(tiny.vision_config(initializer_range=0.5))
    model.save_pretrained(tmp_path / "vision")
    return model


@pytest.fixture
def text(tmp_path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(tiny.llama_config(vocab_size=VOCAB_SIZE, initializer_range=0.5))
    model.save_pretrained(tmp_path / "text")
    return model


def captioner_processor() -> QFormerCaptionerProcessor:
    """With a start token that the language model does not have."""
    return QFormerCaptionerProcessor(tiny.image_processor(), tiny.tokenizer(bos_token="<START>"))


class TestGrownTextConfig:
    def test_without_a_processor_is_that_of_the_folder(self, text, tmp_path):
        assert grown_text_config(tmp_path / "text", None).to_dict() == text.config.to_dict()

    def test_takes_vocabulary_and_special_tokens_of_the_processor(self, text, tmp_path):
        processor = captioner_processor()
        config = grown_text_config(tmp_path / "text", processor)
        assert config.vocab_size == len(processor.tokenizer) == VOCAB_SIZE + 1
        assert config.bos_token_id == VOCAB_SIZE != text.config.bos_token_id
        assert (config.eos_token_id, config.pad_token_id) == (processor.tokenizer.eos_token_id,) * 2

    def test_a_larger_vocabulary_is_kept(self, tmp_path):
        tiny.llama_config(vocab_size=99).save_pretrained(tmp_path)
        assert grown_text_config(tmp_path, captioner_processor()).vocab_size == 99

    def test_a_processor_without_special_tokens_changes_none(self, text, tmp_path):
        config = grown_text_config(tmp_path / "text", tiny.smolvlm_processor())
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            assert getattr(config, name) == getattr(text.config, name)

    def test_a_model_without_a_vocabulary_is_rejected(self, vision, tmp_path):
        with pytest.raises(ValueError, match=r"Model type 'vit' has no vocabulary\. Pass a causal language model"):
            grown_text_config(tmp_path / "vision", None)


class TestBuildFromPretrained:
    def build(self, folder: Path, **options) -> QFormerCaptioner:
        parts = {"vision": folder / "vision", "text": folder / "text", "processor": captioner_processor()}
        fields = {"num_query_tokens": 3, "num_attention_heads": 2, "dtype": torch.float32}
        return build_from_pretrained(QFormerCaptioner, **{**parts, **fields, **options})

    def test_has_the_weights_of_both_parts(self, vision, text, tmp_path):
        model = self.build(tmp_path)
        assert type(model) is QFormerCaptioner
        assert not model.training
        assert model.config.num_query_tokens == 3
        backbone = model.model.vision_tower.backbone.state_dict()
        torch.testing.assert_close(backbone, {name: vision.state_dict()[name] for name in backbone}, rtol=0, atol=0)
        old, new = text.get_input_embeddings().weight, model.get_input_embeddings().weight
        torch.testing.assert_close(new[:VOCAB_SIZE], old, rtol=0, atol=0)
        assert len(new) == VOCAB_SIZE + 1

    def test_frozen_parts_are_frozen(self, vision, text, tmp_path):
        model = self.build(tmp_path)
        assert not any(parameter.requires_grad for parameter in model.model.vision_tower.parameters())
        assert all(parameter.requires_grad for parameter in model.model.language_model.parameters())

    def test_in_half_precision(self, vision, text, tmp_path):
        model = self.build(tmp_path, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}

    def test_a_processor_may_be_missing(self, vision, text, tmp_path):
        folders = {"vision": tmp_path / "vision", "text": tmp_path / "text"}
        model = build_from_pretrained(DualEncoderModel, **folders, processor=None, dtype=torch.float32, loss="sigmoid")
        assert model.config.loss == "sigmoid"
        assert model.config.text_config.vocab_size == VOCAB_SIZE

    def test_fields_that_contradict_the_processor_are_rejected(self, vision, text, tmp_path):
        tiny.image_processor().save_pretrained(tmp_path / "vision")
        tiny.chat_tokenizer().save_pretrained(tmp_path / "text")
        processor = VlmkitSmolVLMProcessor.from_vision_text_pretrained(
            tmp_path / "vision", tmp_path / "text", connector="mlp"
        )
        with pytest.raises(ValueError, match="`connector` must be 'mlp' as in the processor, but got 'qformer'"):
            build_from_pretrained(
                SmolVLM,
                vision=tmp_path / "vision",
                text=tmp_path / "text",
                processor=processor,
                dtype=torch.float32,
                connector="qformer",
            )
        with pytest.raises(ValueError, match="must be a QFormerCaptionerProcessor, but got a VlmkitSmolVLMProcessor"):
            self.build(tmp_path, processor=processor)

    def test_a_processor_of_another_text_model_is_rejected(self, vision, text, tmp_path):
        tiny.chat_tokenizer().save_pretrained(tmp_path / "text")
        with pytest.raises(ValueError, match=r"`processor` must have the tokens of .*text"):
            self.build(tmp_path)

    def test_an_unknown_field_is_rejected(self, vision, text, tmp_path):
        with pytest.raises(TypeError, match=r"has no field 'num_querys'. Did you mean 'num_query"):
            self.build(tmp_path, num_querys=3)
