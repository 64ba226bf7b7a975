import pytest
import torch
from safetensors.torch import load_file
from tests import tiny
from transformers import AutoModel, PreTrainedModel

from vlmkit import DualEncoderModel
from vlmkit.compat.weight_names import with_module_names

MODELS = {
    "vit": lambda: AutoModel.from_config(tiny.vision_config()),
    "gpt2": lambda: AutoModel.from_config(tiny.text_config()),
    "dual_encoder": lambda: DualEncoderModel(tiny.dual_encoder_config()),
}


@pytest.fixture(params=MODELS)
def model(request) -> PreTrainedModel:
    return MODELS[request.param]()


def test_names_in_a_checkpoint_become_those_of_the_model(model, tmp_path):
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(with_module_names(model, saved), dict(model.state_dict()), rtol=0, atol=0)


def test_the_checkpoint_of_a_vit_has_other_names(tmp_path):
    """Or the renaming would not be tested."""
    model = MODELS["vit"]()
    model.save_pretrained(tmp_path)
    assert not load_file(tmp_path / "model.safetensors").keys() <= model.state_dict().keys()


def test_names_of_the_model_are_kept(model):
    own = model.state_dict()
    named = with_module_names(model, own)
    assert named == dict(own)
    assert named is not own


def test_unknown_names_are_kept_for_the_error_message(model):
    weight = torch.zeros(1)
    named = with_module_names(model, {**model.state_dict(), "nonsense": weight})
    assert named["nonsense"] is weight
    assert named.keys() - model.state_dict().keys() == {"nonsense"}
