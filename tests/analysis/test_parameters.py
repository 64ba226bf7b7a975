import pytest
import torch
from tests import tiny
from transformers import GPT2Config, TimmWrapperConfig

from vlmkit import DualEncoderConfig, DualEncoderModel
from vlmkit.analysis.parameters import count_parameters, dual_encoder_parameters

VIT = {"base": "vit_base_patch16_224", "large": "vit_large_patch16_224"}
GPT2 = {"medium": (1024, 24, 16), "large": (1280, 36, 20)}


@pytest.mark.parametrize(
    ("vision", "text", "loaded", "computed", "trained"),
    [("large", "medium", 659.2, 356.9, 1.05), ("base", "large", 860.8, 152.4, 0.98)],
)
def test_the_papers_balanced_model_computes_with_half_of_what_it_loads(vision, text, loaded, computed, trained):
    width, layers, heads = GPT2[text]
    config = DualEncoderConfig(
        vision_config=TimmWrapperConfig(architecture=VIT[vision]),
        text_config=GPT2Config(n_embd=width, n_layer=layers, n_head=heads),
    )
    with torch.device("meta"):
        report = dual_encoder_parameters(DualEncoderModel(config))
    assert report.loaded / 1e6 == pytest.approx(loaded, abs=0.1)
    assert report.computed / 1e6 == pytest.approx(computed, abs=0.1)
    assert report.trained / 1e6 == pytest.approx(trained, abs=0.01)


def test_an_encoder_computes_with_all_that_it_loads():
    model = DualEncoderModel(tiny.dual_encoder_config(text_features="encoder"))
    report = dual_encoder_parameters(model)
    assert report.loaded == report.computed == count_parameters(model)
    assert report.trained == 16 * 16 + 16
