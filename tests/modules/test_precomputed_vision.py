import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, AutoModel

from vlmkit.modules.precomputed_vision import PrecomputedVisionConfig, PrecomputedVisionModel
from vlmkit.modules.vision_tower import VisionTower

CONFIG = PrecomputedVisionConfig(hidden_size=24)


def test_has_a_width_and_no_parameters():
    tower = VisionTower(CONFIG, pooling="mean", frozen=True)
    assert tower.hidden_size == 24
    assert list(tower.parameters()) == []


def test_takes_tokens_of_its_width():
    tower, tokens = VisionTower(CONFIG, pooling="mean", frozen=True), torch.randn(2, 5, 24)
    assert tower.get_vision_features(None, vision_features=tokens, training=False).last_hidden_state is tokens
    assert tower.get_vision_features(None, vision_features=tokens, training=True).last_hidden_state is tokens
    with pytest.raises(ValueError, match=r"must have the shape \(images, tokens, 24\), but got \(2, 5, 20\)"):
        tower.get_vision_features(None, vision_features=tokens[..., :20], training=False)


def test_encodes_no_images():
    tower = VisionTower(CONFIG, pooling="mean", frozen=True)
    message = r"no vision tower .* Pass `vision_features` of the shape \(images, tokens, 24\) instead"
    with pytest.raises(ValueError, match=message):
        tower(torch.rand(1, 3, 32, 32))


def test_loads_through_the_auto_classes(tmp_path):
    model = AutoModel.from_config(CONFIG)
    assert type(model) is PrecomputedVisionModel
    CONFIG.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).hidden_size == 24
    assert type(AutoConfig.from_pretrained(tmp_path)) is PrecomputedVisionConfig


def test_a_wrong_type_is_rejected():
    with pytest.raises(StrictDataclassFieldValidationError, match="hidden_size"):
        PrecomputedVisionConfig(hidden_size="24")
