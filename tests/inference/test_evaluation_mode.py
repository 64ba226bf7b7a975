import pytest
from tests import tiny

from vlmkit import DualEncoderModel
from vlmkit.inference.evaluation_mode import evaluation_mode


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_in_evaluation_mode_and_then_in_its_own(training):
    model = DualEncoderModel(tiny.dual_encoder_config(freeze_text=False)).train(training)
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert model.training == model.text_tower.training == training
    assert not model.vision_tower.training  # frozen


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_the_mode_as_it_was(interruption):
    model = DualEncoderModel(tiny.dual_encoder_config(freeze_text=False)).train()
    with pytest.raises(interruption), evaluation_mode(model):
        raise interruption
    assert model.training
    assert model.text_tower.training
