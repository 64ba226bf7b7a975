"""What is particular to DualEncoderModel; what all models share is in test_contract.py."""

import json
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests import tiny
from transformers import AutoModel, BartConfig

from vlmkit import DualEncoderModel
from vlmkit.modules import TextTower


def make_model(**config) -> DualEncoderModel:
    return DualEncoderModel(tiny.dual_encoder_config(**config)).eval()


def make_batch(size: int = 3) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.rand(size, 3, 32, 32), "input_ids": torch.randint(2, 99, (size, 5))}


def logit_scale(model: DualEncoderModel) -> float:
    outputs = model(**make_batch())
    return (outputs.logits_per_image / (outputs.image_embeds @ outputs.text_embeds.T)).mean().item()


@pytest.mark.parametrize("temperature", [0.07, 0.5, 0.005])
def test_a_fixed_temperature_is_the_configurations(temperature, tmp_path):
    make_model().save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, temperature=temperature)
    assert logit_scale(model) == pytest.approx(1 / temperature, rel=1e-3)
    assert logit_scale(model.to(torch.bfloat16).float()) == pytest.approx(1 / temperature, rel=1e-3)


def test_a_learned_temperature_is_limited_and_can_come_back():
    model = make_model(learn_temperature=True)
    assert model.logit_scale.shape == (1,)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    assert logit_scale(model) == pytest.approx(100, rel=1e-3)
    model(**make_batch()).loss.backward()
    assert model.logit_scale.grad.item() != 0


def test_unit_vectors_are_float32_in_a_half_precision_model():
    model = make_model().to(torch.bfloat16)
    outputs = model(**{k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in make_batch().items()})
    assert outputs.image_embeds.dtype == outputs.text_embeds.dtype == torch.float32
    torch.testing.assert_close(outputs.image_embeds.norm(dim=-1), torch.ones(3))
    cached = model(image_pooled=torch.randn(3, 16), text_pooled=torch.randn(3, 16))  # cached features are float32
    assert cached.loss.isfinite()


def test_similarities_are_float32_under_autocast():
    model, features = make_model(), {"image_pooled": torch.randn(3, 16), "text_pooled": torch.randn(3, 16)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**features)
    assert outputs.logits_per_image.dtype == torch.float32
    expected = outputs.image_embeds @ outputs.text_embeds.T / model.config.temperature
    torch.testing.assert_close(outputs.logits_per_image, expected)


@pytest.mark.parametrize(("typo", "right"), [("group_id", "group_ids"), ("pixel_value", "pixel_values")])
def test_a_misspelt_argument_is_refused(typo, right):
    with pytest.raises(TypeError, match=f"no argument '{typo}'. Did you mean '{right}'"):
        make_model()(**make_batch(), **{typo: torch.zeros(3)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_pooled": torch.rand(3, 16)}, "either as `pixel_values` or as `image_pooled`"),
        ({"pixel_values": None}, "either as `pixel_values` or as `image_pooled`"),
        ({"text_pooled": torch.rand(3, 16)}, "either as `input_ids` or as `text_pooled`"),
        ({"input_ids": None}, "either as `input_ids` or as `text_pooled`"),
    ],
)
def test_each_side_is_given_once(change, message):
    with pytest.raises(ValueError, match=message):
        make_model()(**{**make_batch(), **change})


@pytest.mark.parametrize("shape", [(3, 15), (16,), (3, 1, 16)])
@pytest.mark.parametrize(("side", "own"), [("image", "vision"), ("text", "text")])
def test_features_of_another_shape_are_refused(side, own, shape):
    features = {"image_pooled": torch.rand(3, 16), "text_pooled": torch.rand(3, 16)}
    message = re.escape(f"`{side}_pooled` must have the shape ({side}s, 16), but got {shape}. ")
    with pytest.raises(ValueError, match=f"{message}Pass the `pooler_output` of the {own} tower of this model"):
        make_model()(**{**features, f"{side}_pooled": torch.rand(shape)})


def test_images_and_texts_may_differ_in_number_outside_training_only():
    model = make_model()
    batch = {**make_batch(), "input_ids": torch.randint(2, 99, (5, 4))}
    outputs = model(**batch)
    assert outputs.loss is None
    assert outputs.logits_per_image.shape == (3, 5)
    assert outputs.logits_per_text.shape == (5, 3)
    with pytest.raises(ValueError, match=r"in training, but got 3 images and 5 texts\. Pass one text for each image"):
        model.train()(**batch)


def test_captions_of_one_image_are_no_negatives():
    model, batch = make_model(), make_batch(2)
    alone = model(**batch).loss
    assert model(**batch, group_ids=torch.tensor([1, 2])).loss == alone
    assert model(**batch, group_ids=torch.tensor([1, 1])).loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_features_would_bypass_an_adapter():
    model = make_model(text_features="encoder")
    adapted = get_peft_model(model, LoraConfig(target_modules=r".*text_tower.*c_attn"))
    with pytest.raises(ValueError, match="`text_pooled` cannot be used while the text tower is trained"):
        adapted.train()(pixel_values=torch.rand(2, 3, 32, 32), text_pooled=torch.rand(2, 16))


def test_hidden_states_keep_the_order_of_the_tokens():
    model = make_model(text_features="encoder", text_config=tiny.text_config(attn_implementation="eager"))
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    ids = torch.tensor([[1, 1, 7, 8, 9]])
    left = model.get_text_features(ids, mask, output_hidden_states=True, output_attentions=True)
    alone = model.get_text_features(ids[:, 2:], output_hidden_states=True, output_attentions=True)
    for padded, short in zip(left.hidden_states, alone.hidden_states, strict=True):
        torch.testing.assert_close(padded[:, 2:], short)
    for padded, short in zip(left.attentions, alone.attentions, strict=True):
        torch.testing.assert_close(padded[:, :, 2:, 2:], short)
    assert torch.equal(left.hidden_states[-1], left.last_hidden_state)


def test_what_transformers_writes_into_a_configuration_is_accepted(tmp_path):
    make_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    assert tiny.dual_encoder_config().from_dict(config).quantization_config["load_in_8bit"]


def test_an_unknown_field_is_refused_by_from_pretrained(tmp_path):
    make_model().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"no field 'freeze_visio'. Did you mean 'freeze_vision'"):
        AutoModel.from_pretrained(tmp_path, freeze_visio=False)


def test_backbones_that_are_no_text_encoders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'vit' has no token embeddings. Use a text model"):
        TextTower(tiny.vision_config(), features="encoder")
    with pytest.raises(ValueError, match="'bart' cannot be built without its decoder"):
        TextTower(BartConfig(d_model=16, encoder_layers=1, decoder_layers=1), features="encoder")


def test_the_vision_tower_is_the_image_encoder():
    model = make_model()
    assert model.get_encoder("image") is model.vision_tower
