"""The headless base model of a captioner: its weights, its parts, and its folders."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from tests import tiny
from tests.models.qformer_captioner.large import captioner
from transformers import AutoModel

from vlmkit import QFormerCaptioner
from vlmkit.models.qformer_captioner import QFormerCaptionerModel
from vlmkit.modules.vision_tower import VisionTower

EMBEDDINGS = {"gpt_neo": "wte", "gpt2": "wte", "llama": "embed_tokens"}
PREFIXES = ("model.vision_tower.", "model.connector.", "model.language_model.", "model.cross_attention.", "lm_head.")


def untied() -> QFormerCaptioner:
    return captioner(text_config=tiny.llama_config(initializer_range=0.2))


@pytest.fixture(params=[*EMBEDDINGS, "untied"])
def model(request) -> QFormerCaptioner:
    return untied() if request.param == "untied" else captioner(request.param)


def inputs() -> dict[str, torch.Tensor]:
    batch = tiny.qformer_captioner_inputs()
    del batch["labels"]
    return batch


class TestLoading:
    def test_from_the_folder_of_a_captioner(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        headless, report = QFormerCaptionerModel.from_pretrained(tmp_path, output_loading_info=True)
        assert type(headless) is QFormerCaptionerModel
        # An untied head has its own weight, which a headless model ignores.
        unexpected = set() if model.config.tie_word_embeddings else {"lm_head.weight"}
        assert set(report.pop("unexpected_keys")) == unexpected
        assert not any(report.values()), report
        torch.testing.assert_close(headless.state_dict(), model.model.state_dict(), rtol=0, atol=0)
        assert not any(parameter.requires_grad for parameter in headless.vision_tower.parameters())

        outputs, expected = headless(**inputs()), model(**inputs())
        torch.testing.assert_close(model.lm_head(outputs.last_hidden_state), expected.logits)
        for name in ("query_embeds", "image_hidden_states"):
            torch.testing.assert_close(outputs[name], expected[name])

    def test_a_captioner_from_the_folder_of_a_headless_model(self, tmp_path):
        model = captioner()
        model.model.save_pretrained(tmp_path)
        loaded = QFormerCaptioner.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_base_model_prefix_names_the_headless_model(self, model):
        """As peft and trl expect it."""
        assert model.base_model is model.model
        assert type(model.base_model) is QFormerCaptionerModel


class TestWeights:
    def test_their_names_start_with_the_part(self, model):
        names = {*model.state_dict(), *(name for name, _ in model.named_parameters())}
        assert all(name.startswith(PREFIXES) for name in names)
        assert all(any(name.startswith(prefix) for name in names) for prefix in PREFIXES[:-1])
        assert {name for name in names if name.startswith("lm_head.")} == {"lm_head.weight"}

    def test_the_connector_projects_vision_features(self, model):
        names = {name for name, _ in model.model.connector.named_parameters()}
        parts = {"vision_projection", "global_token", "query_tokens", "key_proj", "value_proj", "layers"}
        assert {name.partition(".")[0] for name in names} == parts

    def test_parts_are_found(self, model):
        assert model.get_encoder("image") is model.model.vision_tower
        assert isinstance(model.get_encoder("image"), VisionTower)
        assert model.get_decoder() is model.model.language_model
        assert model.model.get_encoder("image") is model.model.vision_tower
        assert model.model.get_decoder() is model.model.language_model
        assert model.get_input_embeddings() is model.get_decoder().get_input_embeddings()
        assert model.get_output_embeddings() is model.lm_head
        assert model.model.get_output_embeddings() is None


class TestTiedHead:
    @pytest.mark.parametrize("text", EMBEDDINGS)
    def test_is_declared_under_the_language_models_own_name(self, text):
        source = f"model.language_model.{EMBEDDINGS[text]}.weight"
        model = captioner(text)
        assert model._tied_weights_keys == model.all_tied_weights_keys == {"lm_head.weight": source}
        assert model.lm_head.weight is model.get_parameter(source)

    def test_is_saved_once_and_tied_again(self, tmp_path):
        model = captioner("gpt2")
        model.save_pretrained(tmp_path)
        saved = load_file(tmp_path / "model.safetensors")
        assert "lm_head.weight" not in saved
        assert "model.language_model.wte.weight" in saved
        for loaded in (AutoModel.from_pretrained(tmp_path), copy.deepcopy(model)):
            assert loaded.lm_head.weight is loaded.get_input_embeddings().weight

    def test_follows_new_embeddings(self):
        model = captioner("llama")
        model.set_input_embeddings(torch.nn.Embedding(99, 16))
        model.tie_weights()
        assert model.lm_head.weight is model.get_decoder().embed_tokens.weight

    def test_an_untied_one_is_not(self, tmp_path):
        model = untied()
        assert model._tied_weights_keys == {"lm_head.weight": "model.language_model.embed_tokens.weight"}
        assert model.all_tied_weights_keys == {}
        assert model.lm_head.weight is not model.get_input_embeddings().weight
        assert not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
        model.save_pretrained(tmp_path)
        assert {"lm_head.weight", "model.language_model.embed_tokens.weight"} <= load_file(
            tmp_path / "model.safetensors"
        ).keys()


@pytest.mark.parametrize(
    ("argument", "hint"),
    [("labels", ""), ("logits_to_keep", ""), ("pixel_value", " Did you mean 'pixel_values'")],
)
def test_unknown_arguments_and_those_of_the_head_are_refused(argument, hint):
    message = f"QFormerCaptionerModel.forward has no argument '{argument}'.{hint}"
    with pytest.raises(TypeError, match=message):
        captioner().model(**inputs(), **{argument: torch.zeros(3)})
