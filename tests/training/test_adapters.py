import copy

import pytest
import torch
from peft import PeftModel
from tests import tiny
from transformers import AutoModel

from vlmkit import QFormerCaptioner, SmolVLM
from vlmkit.training import add_lora, load_lora

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's


def new_model(**text) -> SmolVLM:
    torch.manual_seed(0)
    sizes = {"initializer_range": 0.2, "tie_word_embeddings": True, **tiny.CHAT_TOKENS, **text}
    return SmolVLM(tiny.smolvlm_config(text_config=tiny.llama_config(**sizes))).eval()


def trained(model: SmolVLM, **lora) -> PeftModel:
    adapted = add_lora(model, **{"rank": 2, "alpha": 4, **lora})
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # one for lora_B, which starts at zero, one for lora_A behind it
        optimizer.zero_grad()
        adapted(**tiny.smolvlm_inputs()).loss.backward()
        optimizer.step()
    return adapted.eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(**tiny.smolvlm_inputs()).logits


def test_all_linear_layers_of_the_language_model_but_the_head_are_adapted():
    model = new_model(tie_word_embeddings=False)
    adapted = add_lora(model)
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    connector = {name for name in names if name.startswith("base_model.model.connector.modules_to_save.default.")}
    assert len(connector) == len(list(new_model().connector.parameters()))
    prefix = "base_model.model.language_model."
    layers = {name.removeprefix(prefix).partition(".lora_")[0] for name in names - connector}
    projections = ["self_attn." + name for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    projections += ["mlp." + name for name in ("gate_proj", "up_proj", "down_proj")]
    assert layers == {f"model.layers.{layer}.{name}" for layer in range(2) for name in projections}
    [config] = adapted.peft_config.values()
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_dora) == (64, 128, 0.1, False)


def test_gpt2_is_adapted_as_well():
    model = SmolVLM(tiny.smolvlm_config(text_config=tiny.text_config()))
    adapted = add_lora(model, rank=2)
    assert sum("lora_A" in name for name, _ in adapted.named_parameters()) == 2 * 4


@pytest.mark.parametrize("use_dora", [False, True])
def test_adapter_and_merged_model_come_back_with_connector_and_all(use_dora, tmp_path):
    model = new_model()
    model.save_pretrained(tmp_path / "base")
    before = logits(model)
    adapted = trained(SmolVLM.from_pretrained(tmp_path / "base"), use_dora=use_dora)
    expected = logits(adapted)
    assert (expected - before).abs().max() > 1e-2
    adapted.save_pretrained(tmp_path / "adapter")

    restored = load_lora(SmolVLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits(restored), expected, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in restored.parameters())
    merged = restored.merge_and_unload()
    assert type(merged) is SmolVLM
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    loaded, report = AutoModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(report.values()), report
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-5)


def test_the_adapters_folder_alone_finds_its_base(tmp_path):
    new_model().save_pretrained(tmp_path / "base")
    adapted = trained(SmolVLM.from_pretrained(tmp_path / "base"))
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = AutoModel.from_pretrained(tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), logits(adapted), rtol=1e-4, atol=1e-5)


def test_transformers_alone_must_not_load_dora(tmp_path):
    new_model().save_pretrained(tmp_path / "base")
    trained(SmolVLM.from_pretrained(tmp_path / "base"), use_dora=True).save_pretrained(tmp_path / "adapter")
    for loading in (AutoModel, SmolVLM):
        with pytest.raises(ValueError, match="transformers loses the magnitudes of a DoRA adapter"):
            loading.from_pretrained(tmp_path / "adapter")


def test_training_can_go_on(tmp_path):
    model = new_model()
    trained(copy.deepcopy(model)).save_pretrained(tmp_path)
    adapted = load_lora(model, tmp_path, is_trainable=True)
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert names == {name for name, p in add_lora(new_model(), rank=2).named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "sizes", [{"hidden_size": 24}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"intermediate_size": 40}]
)
def test_an_adapter_for_another_base_is_refused(sizes, tmp_path):
    new_model().save_pretrained(tmp_path / "its_base")
    trained(SmolVLM.from_pretrained(tmp_path / "its_base")).save_pretrained(tmp_path / "adapter")
    other = new_model(**sizes)
    with pytest.raises(ValueError, match=r"adapter was trained on .*its_base, and does not fit") as error:
        load_lora(other, tmp_path / "adapter")
    assert "load it onto its own base" in str(error.value)


def test_what_is_no_adapter_or_has_no_connector_is_refused(tmp_path):
    with pytest.raises(OSError, match=f"there is no adapter in {tmp_path}"):
        load_lora(new_model(), tmp_path)
    with pytest.raises(ValueError, match="the rank is 0"):
        add_lora(new_model(), rank=0)
    with pytest.raises(ValueError, match="QFormerCaptioner has no connector"):
        add_lora(QFormerCaptioner(tiny.qformer_captioner_config()))
