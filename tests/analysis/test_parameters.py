import pytest
import torch
from tests import tiny
from torch import nn
from transformers import GPT2Config, TimmWrapperConfig

from vlmkit import DualEncoderConfig, DualEncoderModel, SmolVLM
from vlmkit.analysis.parameters import (
    component_parameters,
    count_parameters,
    dual_encoder_parameters,
    parameter_table,
)
from vlmkit.training import adapt_backbones

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


class Captioner(nn.Module):
    """A parameter of its own, a frozen part, a part without parameters and tied embeddings."""

    def __init__(self):
        super().__init__()
        self.vision = nn.Linear(4, 3).requires_grad_(False)  # 15
        self.dropout = nn.Dropout()
        self.decoder = nn.ModuleDict({"embed": nn.Embedding(10, 3), "norm": nn.LayerNorm(3)})  # 30 + 6
        self.decoder["norm"].requires_grad_(False)
        self.head = nn.Linear(3, 10)  # 30 tied + 10
        self.head.weight = self.decoder["embed"].weight
        self.unembed = nn.Linear(3, 10, bias=False)
        self.unembed.weight = self.head.weight
        self.scale = nn.Parameter(torch.zeros(1))


class TestComponentParameters:
    ROWS = (
        ("scale", 1, 1),
        ("vision", 15, 0),
        ("decoder", 36, 30),
        ("head", 10, 10),
        ("unembed", 0, 0),  # all of it counted before
        ("total", 62, 41),
    )

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_each_part_once(self, device):
        with torch.device(device):
            rows = component_parameters(Captioner())
        assert tuple((row.name, row.total, row.trainable) for row in rows) == self.ROWS
        assert [row.share for row in rows] == pytest.approx([row[1] / 62 for row in self.ROWS])

    def test_parts_add_up_to_the_model(self):
        model = DualEncoderModel(tiny.dual_encoder_config())
        *parts, total = component_parameters(model)
        assert sum(part.total for part in parts) == total.total == count_parameters(model)
        assert sum(part.trainable for part in parts) == total.trainable == count_parameters(model, trainable_only=True)
        assert sum(part.share for part in parts) == pytest.approx(total.share) == 1
        assert {"vision_tower", "text_tower"} <= {part.name for part in parts}

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
    def test_what_an_adapter_trains_whole_counts_once(self):
        model = SmolVLM(tiny.smolvlm_config())
        before = {row.name: row.total for row in component_parameters(model)}
        adapt_backbones(model, rank=2, alpha=4)
        after = {row.name: row for row in component_parameters(model)}
        assert after["connector"].total == after["connector"].trainable == before["connector"]
        assert after["vision_tower"].total == before["vision_tower"]
        added = after["language_model"].total - before["language_model"]
        assert added == after["language_model"].trainable == after["total"].total - before["total"] > 0

    def test_no_parameters(self):
        (total,) = component_parameters(nn.Sequential(nn.ReLU()))
        assert (total.name, total.total, total.trainable) == ("total", 0, 0)

    def test_table(self):
        lines = parameter_table(component_parameters(Captioner())).splitlines()
        assert lines[:2] == ["| Component | Parameters | Trainable | Share |", "|---|---:|---:|---:|"]
        assert lines[3] == "| vision | 15 | 0 | 24.2 % |"
        assert lines[-1] == "| total | 62 | 41 | 100.0 % |"
        assert len(lines) == 8
