import torch
from tests import tiny
from torch import nn
from transformers import ViTModel

from vlmkit.compat.initialized_weights import mark_as_initialized


def test_marked_weights_are_kept_when_the_model_around_them_is_initialized():
    model = ViTModel(tiny.vision_config(), add_pooling_layer=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    # transformers marks what it has initialized.
    for part in (*model.modules(), *model.parameters()):
        part._is_hf_initialized = False
    mark_as_initialized(model.layers[0])
    model.init_weights()
    assert all((parameter == 7.0).all() for parameter in model.layers[0].parameters())
    assert not any((parameter == 7.0).all() for parameter in model.layers[1].parameters())


def test_modules_parameters_and_buffers_are_marked():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    mark_as_initialized(module)
    parts = [*module.modules(), *module.parameters(), *module.buffers()]
    assert len(parts) == 3 + 4 + 3
    assert all(part._is_hf_initialized for part in parts)
