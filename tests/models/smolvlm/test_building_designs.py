"""Designs made of pretrained parts, and those that cannot be built or used."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tests import tiny
from tests.models.smolvlm.large import TEXT
from tests.models.smolvlm.test_designs import CONNECTORS, DESIGNS, IMAGES, PHOTOS, as_tokens, design_model, lessons
from transformers import AutoModelForCausalLM, PreTrainedModel, ViTModel

from vlmkit import SmolVLM, VlmkitSmolVLMImageProcessor, VlmkitSmolVLMProcessor
from vlmkit.modules.gated_cross_attention import check_forwards_keywords


@pytest.fixture
def parts(tmp_path) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Saved models of images and of texts, with their preprocessing."""
    vision = ViTModel(tiny.vision_config(initializer_range=0.5), add_pooling_layer=False).eval()
    text = AutoModelForCausalLM.from_config(copy.deepcopy(TEXT["llama"])).eval()
    for model, preprocessing, name in (
        (vision, tiny.image_processor(), "vision"),
        (text, tiny.chat_tokenizer(), "text"),
    ):
        model.save_pretrained(tmp_path / name)
        preprocessing.save_pretrained(tmp_path / name)
    return vision, text


class TestFromVisionTextPretrained:
    @pytest.mark.parametrize(("connector", "fusion"), DESIGNS)
    def test_both_parts_are_as_they_were(self, connector, fusion, parts, tmp_path):
        folders, design = (tmp_path / "vision", tmp_path / "text"), {"connector": connector, "fusion": fusion}
        fields = {"qformer_config": tiny.distilbert_config(), "num_cross_attention_heads": 4, "num_query_tokens": 3}
        fields |= {"cross_layer_interval": 2}
        processor = VlmkitSmolVLMProcessor.from_vision_text_pretrained(*folders, **design, num_query_tokens=3)
        model = SmolVLM.from_vision_text_pretrained(*folders, processor=processor, **fields)
        vision, text = parts
        assert {name: getattr(model.config, name) for name in design} == design
        assert not model.training
        torch.testing.assert_close(model.model.vision_tower.backbone.state_dict(), vision.state_dict(), rtol=0, atol=0)
        decoder, head = model.model.language_model, model.lm_head
        torch.testing.assert_close(decoder.state_dict(), text.base_model.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(head.state_dict(), text.get_output_embeddings().state_dict(), rtol=0, atol=0)
        assert model.generation_config.suppress_tokens == [tiny.IMAGE_TOKEN_ID]
        batch = lessons(model, {})
        read = text(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        attended = batch["attention_mask"] == 1
        closed = torch.equal(model(**batch).logits[attended], read[attended])
        assert closed is (fusion == "cross_attention")

    def test_fields_that_do_not_fit_are_rejected(self, parts, tmp_path):
        def join(vision="vision", text="text", **fields) -> SmolVLM:
            processor = tiny.smolvlm_processor()
            return SmolVLM.from_vision_text_pretrained(
                tmp_path / vision, tmp_path / text, processor=processor, **fields
            )

        with pytest.raises(TypeError, match=r"has no field 'conector'. Did you mean 'connector'"):
            join(conector="mlp")
        with pytest.raises(
            ValueError,
            match=r"`cross_layer_interval` must be from 1 to 2, the number of layers of the language model, but",
        ):
            join(connector="mlp", fusion="cross_attention")
        for missing in ({"vision": "nowhere"}, {"text": "nowhere"}):
            with pytest.raises(OSError, match="nowhere"):
                join(**missing, connector="mlp")
        with pytest.raises(ValueError, match=r"takes `?input_ids"):
            join(vision="text", connector="mlp")

    def test_the_processor_takes_settings_of_images(self, parts, tmp_path):
        folders, settings = (tmp_path / "vision", tmp_path / "text"), {"size": {"longest_edge": 64}}
        processor = VlmkitSmolVLMProcessor.from_vision_text_pretrained(*folders, connector="mlp", **settings)
        assert type(processor.image_processor) is VlmkitSmolVLMImageProcessor
        assert list(processor.image_processor.image_mean) == list(tiny.image_processor().image_mean)
        batch = processor(PHOTOS[0], "<image> a", return_tensors="pt")
        assert batch["pixel_values"].shape == (1, 3, 32, 64)
        assert int((batch["input_ids"] == tiny.IMAGE_TOKEN_ID).sum()) == 8
        plain = VlmkitSmolVLMProcessor.from_vision_text_pretrained(*folders, num_query_tokens=3)
        assert type(plain.image_processor) is type(tiny.image_processor())
        assert plain.num_image_tokens == 3


class TestWrongDesigns:
    @pytest.mark.parametrize("field", ["perceiver_depth", "pixel_shuffle_factor", "cross_layer_interval"])
    @pytest.mark.parametrize("value", [0, -1])
    def test_a_number_below_1_is_rejected(self, field, value):
        with pytest.raises(ValueError, match=f"`{field}` must be at least 1, but got {value}"):
            tiny.smolvlm_config(**{field: value})

    def test_a_perceiver_without_latents_is_rejected(self):
        with pytest.raises(ValueError, match="`num_query_tokens` must be at least 1, but got 0"):
            tiny.smolvlm_config(connector="perceiver", num_query_tokens=0)

    def test_default_numbers_of_queries_are_those_of_the_papers(self):
        numbers = [tiny.smolvlm_config(connector=c, num_query_tokens=None).num_query_tokens for c in CONNECTORS[:2]]
        assert numbers == [32, 64]

    @pytest.mark.parametrize(("field", "value"), [("connector", "linear"), ("fusion", "cross-attention")])
    def test_an_unknown_design_is_rejected(self, field, value):
        with pytest.raises(StrictDataclassFieldValidationError, match=f"(?s)'{field}'.*{value}"):
            tiny.smolvlm_config(**{field: value})

    def test_an_interval_larger_than_the_depth_is_rejected_with_cross_attention(self):
        message = r"`cross_layer_interval` must be from 1 to 2, the number of layers of the language model, but"
        with pytest.raises(ValueError, match=message):
            tiny.smolvlm_config(fusion="cross_attention", cross_layer_interval=3)
        assert tiny.smolvlm_config(cross_layer_interval=3).fusion == "autoregressive"

    def test_heads_that_do_not_divide_the_width_are_rejected(self):
        with pytest.raises(ValueError, match="must divide the width 16, but got 3 heads"):
            SmolVLM(tiny.smolvlm_config(connector="perceiver", num_cross_attention_heads=3))

    def test_a_language_model_whose_layers_get_no_keywords_is_rejected_in_a_call(self):
        fields = {"fusion": "cross_attention", "cross_layer_interval": 1, "text_config": tiny.gpt_neo_config()}
        model = SmolVLM(tiny.smolvlm_config(**fields))
        batch = {"input_ids": torch.tensor([[tiny.IMAGE_TOKEN_ID, 5]]), "pixel_values": torch.rand(1, 3, 32, 32)}
        message = r"GPTNeo.* does not pass keyword arguments on to its layers"
        with pytest.raises(ValueError, match=message):
            model(**batch)
        with pytest.raises(ValueError, match=message):
            model.generate(**batch, max_new_tokens=1)
        with pytest.raises(ValueError, match=message):
            check_forwards_keywords(model.model.language_model)

    @pytest.mark.parametrize(("connector", "side"), [("mlp", 40), ("pixel_shuffle", 48)])
    def test_images_that_do_not_fill_the_grid_are_rejected(self, connector, side):
        model = design_model(connector, "autoregressive")
        pixels, mask = torch.rand(1, 3, side, side), torch.ones(1, side, side, dtype=torch.long)
        message = (
            "multiples of .* but got an image of 40 x 40"
            if side == 40
            else "A grid of 3 x 3 patches is not divisible by"
        )
        with pytest.raises(ValueError, match=message):
            model.get_image_features(pixels, pixel_attention_mask=mask)

    def test_masks_without_their_images_are_rejected(self):
        model = design_model("mlp", "autoregressive")
        batch = lessons(model, IMAGES["several sizes"])
        tokens = as_tokens(model, batch)
        for wrong in (
            {**tokens, "pixel_attention_mask": batch["pixel_attention_mask"]},
            {**batch, "patch_attention_mask": tokens["patch_attention_mask"]},
        ):
            with pytest.raises(
                ValueError,
                match="Pass `pixel_attention_mask` with `pixel_values`, and `patch_attention_mask` with `vision_feat",
            ):
                model(**wrong)
