"""What generative models share: their embeddings, their head, and calls of the language model."""

import pytest
import torch
from tests import tiny
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, StaticCache

from vlmkit import QFormerCaptioner, SmolVLM
from vlmkit.compat.cache import CACHE_NAME

IDS = torch.tensor([[5, 7, 8, 9]])


def captioner(text: str = "llama") -> QFormerCaptioner:
    tied = tiny.llama_config(tie_word_embeddings=True, initializer_range=0.5)
    configs = {"llama": tied, "gpt_neo": tiny.gpt_neo_config(initializer_range=0.5)}
    return QFormerCaptioner(tiny.qformer_captioner_config(text_config=configs[text])).eval()


class TestEmbeddingsAndHead:
    @pytest.mark.parametrize("part", ["whole", "headless"])
    def test_embeddings_are_the_language_models(self, part):
        model = captioner()
        target = model if part == "whole" else model.model
        new = nn.Embedding(99, 16)
        target.set_input_embeddings(new)
        assert target.get_input_embeddings() is model.model.language_model.get_input_embeddings() is new

    def test_a_head_can_be_replaced(self):
        model, head = captioner(), nn.Linear(16, 7, bias=False)
        model.set_output_embeddings(head)
        assert model.lm_head is model.get_output_embeddings() is head
        logits = model(input_ids=IDS, pixel_values=torch.rand(1, 3, 32, 32)).logits
        assert logits.shape == (1, 4, 7)

    @pytest.mark.parametrize("model", [captioner(), SmolVLM(tiny.smolvlm_config())], ids=lambda m: type(m).__name__)
    def test_a_tied_head_is_sharded_as_that_of_the_language_model(self, model):
        plan = AutoModelForCausalLM.from_config(model.config.text_config)._tp_plan
        assert model._tp_plan["lm_head"] == plan["lm_head"]

    def test_a_language_model_without_a_plan_adds_none(self):
        assert "lm_head" not in captioner("gpt_neo")._tp_plan

    def test_static_caches_are_compiled_where_the_language_model_can_be(self):
        assert captioner("llama")._can_compile_fullgraph is True
        assert captioner("gpt_neo")._can_compile_fullgraph is False

    def test_plans_of_one_model_do_not_reach_another(self):
        captioner("llama")
        assert "lm_head" not in (QFormerCaptioner._tp_plan or {})


class TestLoadTextBackbone:
    @pytest.mark.parametrize("tied", [True, False])
    def test_loads_weights_and_generation_settings(self, tied, tmp_path):
        text = AutoModelForCausalLM.from_config(tiny.llama_config(vocab_size=90, tie_word_embeddings=tied))
        text.save_pretrained(tmp_path)
        GenerationConfig(repetition_penalty=1.3, no_repeat_ngram_size=7).save_pretrained(tmp_path)
        config = tiny.llama_config(tie_word_embeddings=tied)  # with a vocabulary of 99
        model = QFormerCaptioner(tiny.qformer_captioner_config(text_config=config))
        model.load_text_backbone(tmp_path, torch.float32)
        assert (model.generation_config.repetition_penalty, model.generation_config.no_repeat_ngram_size) == (1.3, 7)
        for new, old in (
            (model.get_input_embeddings().weight, text.get_input_embeddings().weight),
            (model.lm_head.weight, text.get_output_embeddings().weight),
        ):
            assert len(new) == 99
            torch.testing.assert_close(new[:90], old, rtol=0, atol=0)
        assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
        layers = model.get_decoder().layers.state_dict()
        torch.testing.assert_close(layers, text.get_decoder().layers.state_dict(), rtol=0, atol=0)

    def test_a_subclass_may_reject_a_language_model(self, tmp_path):
        class Picky(QFormerCaptioner):
            def check_language_model(self, language_model):
                raise ValueError(f"Use another model than {language_model.config.model_type}.")

        AutoModelForCausalLM.from_config(tiny.llama_config()).save_pretrained(tmp_path)
        model = Picky(tiny.qformer_captioner_config(text_config=tiny.llama_config()))
        with pytest.raises(ValueError, match="another model than llama"):
            model.load_text_backbone(tmp_path, torch.float32)


class TestDecoding:
    def decode(self, model: QFormerCaptioner, **inputs):
        return model.model(pixel_values=torch.rand(1, 3, 32, 32), **inputs)

    def positions(self, model: QFormerCaptioner, **inputs) -> list[int] | None:
        """Those that reach the language model."""
        received = []
        handle = model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: received.append(kwargs["position_ids"]), with_kwargs=True
        )
        self.decode(model, **inputs)
        handle.remove()
        return None if received[0] is None else received[0].tolist()

    def test_positions_count_attended_tokens(self):
        mask = torch.tensor([[0, 0, 1, 1]])
        assert self.positions(captioner(), input_ids=IDS, attention_mask=mask) == [[0, 0, 0, 1]]

    def test_positions_continue_behind_a_cache(self):
        model, cache = captioner(), DynamicCache()
        self.decode(model, input_ids=IDS, cache=cache, use_cache=True)
        mask = torch.tensor([[0, 1, 1, 1, 1, 1]])
        assert self.positions(model, input_ids=IDS[:, :2], attention_mask=mask, cache=cache) == [[3, 4]]

    def test_positions_may_be_given_or_left_to_the_language_model(self):
        mask = torch.ones(1, 4, dtype=torch.long)
        given = torch.tensor([[4, 5, 6, 7]])
        assert self.positions(captioner(), input_ids=IDS, attention_mask=mask, position_ids=given) == given.tolist()
        assert self.positions(captioner(), input_ids=IDS) is None

    def test_the_cache_follows_the_outer_configuration_unless_given(self):
        model = captioner()
        for use_cache in (True, False):
            model.config.use_cache = use_cache
            assert (self.decode(model, input_ids=IDS).get(CACHE_NAME) is not None) is use_cache
            outputs = self.decode(model, input_ids=IDS, use_cache=not use_cache)
            assert (outputs.get(CACHE_NAME) is not None) is not use_cache

    def test_a_static_cache_is_rejected_for_a_language_model_without_support(self):
        model = captioner("gpt_neo")
        cache = StaticCache(model.config.text_config, max_cache_len=8)
        with pytest.raises(ValueError, match="GPTNeoModel does not support static caches"):
            self.decode(model, input_ids=IDS, cache=cache)
