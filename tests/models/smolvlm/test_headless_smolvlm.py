"""The headless base model of SmolVLM: its weights, its parts, its tied head, and calls of inference servers."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from tests import tiny
from tests.models.smolvlm.large import chat_model, language_model
from tests.models.smolvlm.test_designs import CONNECTORS, DESIGNS, IMAGES, design_model, lessons
from transformers import GPTNeoXConfig, OPTConfig, PreTrainedConfig

from vlmkit import SmolVLM
from vlmkit.compat.cache import CACHE_NAME
from vlmkit.models.smolvlm import VlmkitSmolVLMModel
from vlmkit.modules.language_models import decoder_layers
from vlmkit.modules.vision_tower import VisionTower

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 99, **tiny.CHAT_TOKENS}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
TEXTS: dict[str, PreTrainedConfig] = {
    "llama": tiny.llama_config(**tiny.CHAT_TOKENS, initializer_range=0.3),
    "gpt2": tiny.text_config(
        **tiny.CHAT_TOKENS, initializer_range=0.3, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    ),
    # Its embeddings and its head are narrower than its layers.
    "opt": OPTConfig(
        **SIZES, **NO_DROPOUT, ffn_dim=32, word_embed_proj_dim=8, max_position_embeddings=64, init_std=0.3
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=32, max_position_embeddings=64, initializer_range=0.3),
}
EMBEDDINGS = {"llama": "embed_tokens", "gpt2": "wte", "opt": "embed_tokens", "gpt_neox": "embed_in"}
PREFIXES = ("model.vision_tower.", "model.connector.", "model.language_model.", "lm_head.")
every_text = pytest.mark.parametrize("text", TEXTS)


def build(text: str, tied: bool = True, **fields) -> SmolVLM:
    text_config = copy.deepcopy(TEXTS[text])
    text_config.tie_word_embeddings = tied
    return chat_model(text_config=text_config, **fields)


def inputs() -> dict[str, torch.Tensor]:
    batch = tiny.smolvlm_inputs()
    del batch["labels"]
    return batch


class TestLoading:
    @every_text
    @pytest.mark.parametrize("tied", [True, False])
    def test_from_the_folder_of_a_smolvlm(self, text, tied, tmp_path):
        model = build(text, tied)
        model.save_pretrained(tmp_path)
        headless, report = VlmkitSmolVLMModel.from_pretrained(tmp_path, output_loading_info=True)
        assert type(headless) is VlmkitSmolVLMModel
        # An untied head has its own weight, which a headless model ignores.
        assert set(report.pop("unexpected_keys")) == (set() if tied else {"lm_head.weight"})
        assert not any(report.values()), report
        torch.testing.assert_close(headless.state_dict(), model.model.state_dict(), rtol=0, atol=0)
        assert not any(parameter.requires_grad for parameter in headless.vision_tower.parameters())

        outputs, expected = headless(**inputs()), model.model(**inputs())
        assert expected.last_hidden_state.std() > 0.1
        torch.testing.assert_close(outputs.last_hidden_state, expected.last_hidden_state, rtol=0, atol=0)
        torch.testing.assert_close(outputs.image_hidden_states, expected.image_hidden_states, rtol=0, atol=0)
        torch.testing.assert_close(model.lm_head(outputs.last_hidden_state), model(**inputs()).logits)

    @pytest.mark.parametrize(("connector", "fusion"), DESIGNS)
    def test_in_every_design(self, connector, fusion, tmp_path):
        model = design_model(connector, fusion)
        model.save_pretrained(tmp_path)
        headless = VlmkitSmolVLMModel.from_pretrained(tmp_path)
        batch = lessons(model, IMAGES["several sizes"])
        del batch["labels"]
        expected = model.model(**batch).last_hidden_state
        torch.testing.assert_close(headless(**batch).last_hidden_state, expected, rtol=0, atol=0)
        torch.testing.assert_close(model.lm_head(expected), model(**batch).logits)

    @every_text
    def test_a_smolvlm_from_the_folder_of_a_headless_model(self, text, tmp_path):
        model = build(text)
        model.model.save_pretrained(tmp_path)
        loaded, report = SmolVLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values()), report
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


class TestParts:
    @every_text
    def test_base_model_prefix_names_the_headless_model(self, text):
        """As peft and trl expect it."""
        model = build(text)
        assert (model.base_model_prefix, model.model.base_model_prefix) == ("model", "model")
        assert model.base_model is model.model
        assert model.model.base_model is model.model
        assert type(model.base_model) is VlmkitSmolVLMModel

    @every_text
    def test_parts_are_found(self, text):
        model = build(text)
        for each in (model, model.model):
            assert each.get_encoder("image") is model.model.vision_tower
            assert isinstance(each.get_encoder("image"), VisionTower)
            assert each.get_decoder() is model.model.language_model
            assert each.get_input_embeddings() is each.get_decoder().get_input_embeddings()
        assert model.get_output_embeddings() is model.lm_head
        assert model.model.get_output_embeddings() is None
        assert model.get_decoder().get_output_embeddings() is None
        assert type(model.get_decoder()) is type(language_model(model).get_decoder())

    @every_text
    @pytest.mark.parametrize("tied", [True, False])
    def test_weight_names_start_with_the_part(self, text, tied):
        model = build(text, tied)
        names = {*model.state_dict(), *(name for name, _ in model.named_parameters())}
        assert all(name.startswith(PREFIXES) for name in names)
        assert all(any(name.startswith(prefix) for name in names) for prefix in PREFIXES)
        assert {name for name in names if name.startswith("lm_head.")} == {"lm_head.weight"}

    def test_blocks_between_the_layers_have_their_own_prefix(self):
        names = set(design_model("mlp", "cross_attention").state_dict())
        assert all(name.startswith((*PREFIXES, "model.cross_attention.")) for name in names)
        assert any(name.startswith("model.cross_attention.blocks.0.") for name in names)


class TestHead:
    @every_text
    def test_a_tied_one_is_declared_under_the_language_models_own_name(self, text):
        source, model = f"model.language_model.{EMBEDDINGS[text]}.weight", build(text)
        assert model._tied_weights_keys == model.all_tied_weights_keys == {"lm_head.weight": source}
        assert model.lm_head.weight is model.get_parameter(source)

    @every_text
    def test_an_untied_one_is_not_tied(self, text):
        source, model = f"model.language_model.{EMBEDDINGS[text]}.weight", build(text, tied=False)
        assert model._tied_weights_keys == {"lm_head.weight": source}
        assert model.all_tied_weights_keys == {}
        assert model.lm_head.weight is not model.get_parameter(source)
        assert not torch.equal(model.lm_head.weight, model.get_parameter(source))

    @every_text
    @pytest.mark.parametrize("tied", [True, False])
    def test_stays_tied_or_apart_in_training_and_in_a_folder(self, text, tied, tmp_path):
        model = build(text, tied).train()
        embeddings, before = model.get_input_embeddings(), model.get_input_embeddings().weight.detach().clone()
        optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
        model(**tiny.smolvlm_inputs()).loss.backward()
        never_read = [3 + tiny.IMAGE_TOKEN_ID]  # a gradient comes from the head only
        assert embeddings.weight.grad[never_read].any() == tied
        optimizer.step()
        assert not torch.equal(embeddings.weight, before)

        model.eval().save_pretrained(tmp_path)
        saved = load_file(tmp_path / "model.safetensors")
        assert f"model.language_model.{EMBEDDINGS[text]}.weight" in saved
        assert ("lm_head.weight" in saved) is not tied
        loaded, report = SmolVLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values()), report
        for each in (model, loaded, copy.deepcopy(model)):
            assert (each.lm_head.weight is each.get_input_embeddings().weight) is tied
            torch.testing.assert_close(each.state_dict(), model.state_dict(), rtol=0, atol=0)
            torch.testing.assert_close(each(**inputs()).logits, model(**inputs()).logits)

    @every_text
    @pytest.mark.parametrize("tied", [True, False])
    def test_follows_new_embeddings(self, text, tied):
        model, width = build(text, tied), 8 if text == "opt" else 16
        before = model(**inputs()).logits
        model.resize_token_embeddings(105, mean_resizing=False)
        assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
        assert model.lm_head.weight.shape == (105, width)
        torch.testing.assert_close(model(**inputs()).logits[..., :99], before)
        model.set_input_embeddings(torch.nn.Embedding(105, width))
        model.tie_weights()
        assert (model.lm_head.weight is model.get_decoder().get_input_embeddings().weight) is tied


class TestServerCalls:
    """An inference server merges the images itself, and calls the headless model with embeddings and positions."""

    @every_text
    def test_without_a_mask_returns_a_tuple_with_hidden_states_first(self, text):
        model = build(text).model
        batch = {name: inputs()[name][1:2] for name in ("input_ids", "attention_mask")}  # the longest
        assert batch["attention_mask"].all()
        expected = model(**batch, pixel_values=inputs()["pixel_values"][1:]).last_hidden_state

        images = model.get_image_features(inputs()["pixel_values"][1:], return_dict=True).pooler_output
        is_image = batch["input_ids"] == tiny.IMAGE_TOKEN_ID
        embeds = model.get_input_embeddings()(batch["input_ids"])
        embeds[is_image] = images.flatten(0, 1)
        positions = torch.arange(embeds.shape[1])[None]
        outputs = model(inputs_embeds=embeds, position_ids=positions, use_cache=False, return_dict=False)
        assert isinstance(outputs, tuple)
        torch.testing.assert_close(outputs[0], expected, rtol=1e-5, atol=1e-5)
        assert model(inputs_embeds=embeds, use_cache=False).get(CACHE_NAME) is None

    @every_text
    def test_further_keywords_reach_the_layers_of_the_decoder(self, text):
        """A server's attention reads its own keywords there."""
        model, seen = build(text).model, []
        for layer in decoder_layers(model.language_model):
            layer.register_forward_pre_hook(
                lambda module, args, kwargs: seen.append(kwargs.get("attention_instances")), with_kwargs=True
            )
        model(inputs_embeds=torch.rand(1, 4, model.get_input_embeddings().embedding_dim), attention_instances="own")
        assert seen == ["own", "own"]

    @pytest.mark.parametrize("connector", CONNECTORS)
    def test_connectors_follow_the_attention_of_the_whole_model(self, connector):
        """A server replaces the attention of the language model with its own, which the connector cannot run."""
        model, pixels = chat_model(connector=connector), inputs()["pixel_values"]
        expected = model.get_image_features(pixels).pooler_output
        model.config.text_config._attn_implementation = "paged_attention_of_a_server"
        features = model.get_image_features(pixels).pooler_output
        torch.testing.assert_close(features, expected, rtol=0, atol=0)
        with pytest.raises((KeyError, ValueError), match="paged_attention_of_a_server"):
            model(input_ids=torch.tensor([[1, 5, 7]]))  # the language model does follow it


def test_a_compiled_forward_pass_attends_to_images():
    """As in generation, where the keys and values of the images are computed once."""
    model = design_model("perceiver", "cross_attention")
    batch = lessons(model, {})
    features = model.get_image_features(batch.pop("pixel_values"), num_crops=batch.pop("num_crops"))
    mask = model.model.get_image_token_mask(batch["input_ids"], None)
    states, positions = model.model.compute_cross_attention_states(mask, features.pooler_output)
    batch |= {"cross_attention_states": states, "cross_attention_positions": positions, "use_cache": False}
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    expected, outputs = model(**batch), compiled(**batch)
    torch.testing.assert_close(outputs.loss, expected.loss)
    torch.testing.assert_close(outputs.logits, expected.logits)
