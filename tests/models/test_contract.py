"""What every model of vlmkit keeps to; a new one, or a new way to configure one, is a row of `contract_cases.py`."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tests import tiny
from tests.models.contract_cases import CASES, Case
from tests.subprocesses import ROOT, run_python
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel

from vlmkit.modules.freezing import Freezable
from vlmkit.registration import MODELS


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.fixture
def folder(case, tmp_path):
    """The case's model and processor, saved."""
    case.model().save_pretrained(tmp_path)
    case.processor().save_pretrained(tmp_path)
    return tmp_path


def compute(model: torch.nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        outputs = model(**inputs)
    return {name: value for name, value in outputs.items() if isinstance(value, Tensor)}


def loss_and_gradients(model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """In training mode, with the same dropout each time."""
    model.train().zero_grad()
    torch.manual_seed(0)
    loss = model(**inputs).loss
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad for name, p in model.named_parameters() if p.requires_grad}}


def trainable(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_every_model_has_a_case():
    assert {case.row.model for case in CASES} == {row.model for row in MODELS}


def test_loads_through_every_auto_class_as_it_was_saved(case, folder):
    model = case.model()
    expected = compute(model, case.inputs())
    assert "AutoModel" in case.row.auto_models
    for auto_model in case.row.auto_models:
        loaded, report = getattr(transformers, auto_model).from_pretrained(folder, output_loading_info=True)
        assert type(loaded) is case.row.model
        assert not any(report.values()), report
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(compute(loaded, case.inputs()), expected, rtol=1e-6, atol=1e-6)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_what_is_saved_can_be_loaded_as_a_state_dict(case, folder):
    """As Trainer does it, to resume and to load the best checkpoint."""
    model, other = case.model(), case.model()
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    assert other.load_state_dict(load_file(folder / "model.safetensors"), strict=True).missing_keys == []
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)

    reloaded = AutoModel.from_pretrained(folder)
    reloaded.save_pretrained(folder / "again")
    other.load_state_dict(load_file(folder / "again/model.safetensors"), strict=True)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"nonsense"'):
        other.load_state_dict({**model.state_dict(), "nonsense": torch.zeros(1)})


def test_config_and_processor_load_through_the_auto_classes(case, folder):
    config, processor = AutoConfig.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(config) is case.row.config
    assert type(processor) is case.row.processor
    assert processor.to_dict() == case.processor().to_dict()
    config.save_pretrained(folder / "again")
    assert (
        json.loads((folder / "again/config.json").read_text()).items()
        <= json.loads((folder / "config.json").read_text()).items()
    )

    inputs = [candidate(**case.call(), return_tensors="pt") for candidate in (processor, case.processor())]
    assert inputs[0].keys() == inputs[1].keys()
    assert all(torch.equal(inputs[0][name], inputs[1][name]) for name in inputs[0])


def test_frozen_parts_stay_frozen_after_loading(case, folder):
    loaded = AutoModel.from_pretrained(folder).train()
    assert trainable(loaded) == trainable(case.model())
    for part in loaded.modules():
        if isinstance(part, Freezable) and part.frozen:
            assert not trainable(part)
            assert not any(module.training for module in part.modules())


def test_eager_attention_equals_sdpa(case, folder):
    results = {}
    parts = ("", *case.config().sub_configs)
    for attention in ("eager", "sdpa"):
        asked_for = {part: "eager" if part in case.eager_only else attention for part in parts}
        loaded = AutoModel.from_pretrained(folder, attn_implementation=asked_for)
        backbones = [part for part in loaded.modules() if isinstance(part, PreTrainedModel) and part._supports_sdpa]
        assert {part.config._attn_implementation for part in backbones} == {attention}
        results[attention] = compute(loaded, case.inputs())
    torch.testing.assert_close(results["eager"], results["sdpa"], rtol=1e-4, atol=1e-4)  # oldest torch: 6e-5


def test_gradient_checkpointing_changes_nothing(case):
    model = case.model()
    if not any(hasattr(module, "gradient_checkpointing") for module in model.modules()):
        pytest.skip("no layer of this backbone can be checkpointed")
    plain = loss_and_gradients(model, case.inputs())
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing
    torch.testing.assert_close(loss_and_gradients(model, case.inputs()), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "case", [case for case in CASES if "attention_mask" in case.inputs()], ids=lambda case: case.name
)
def test_padding_side_does_not_matter(case):
    model, right = case.model(), case.inputs()
    left = dict(right)
    for name in {"input_ids", "attention_mask", "labels"} & right.keys():
        shifts = (right["attention_mask"] == 0).sum(1).tolist()
        left[name] = torch.stack([row.roll(shift) for row, shift in zip(right[name], shifts, strict=True)])
    unmasked = {**left, "attention_mask": torch.ones_like(right["attention_mask"])}
    loss = compute(model, right)["loss"]
    torch.testing.assert_close(compute(model, left)["loss"], loss, rtol=1e-5, atol=1e-5)
    assert (compute(model, unmasked)["loss"] - loss).abs() > 1e-3  # or the padding would not matter anyway


def test_every_trainable_parameter_gets_a_gradient(case):
    gradients = loss_and_gradients(case.model(), case.inputs())
    assert len(gradients) > 1
    assert not [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()]


def test_bfloat16(case):
    model = case.model().to(torch.bfloat16)
    inputs = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in case.inputs().items()}
    outputs = compute(model, inputs)
    assert all(value.isfinite().all() for value in outputs.values())
    assert outputs["loss"].dtype == torch.float32


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("case", [case for case in CASES if case.lora], ids=lambda case: case.name)
def test_lora_brings_the_adapter_and_the_whole_saved_modules_back(case, tmp_path):
    case.model().save_pretrained(tmp_path / "base")
    adapted = get_peft_model(case.model(), LoraConfig(r=2, **case.lora))
    assert not [name for name in trainable(adapted) if "vision_tower" in name]
    optimizer = torch.optim.SGD(adapted.parameters(), lr=1.0)
    for _ in range(2):  # one for lora_B, which starts at zero, one for lora_A behind it
        optimizer.zero_grad()
        adapted(**case.inputs()).loss.backward()
        optimizer.step()
    adapted.eval().save_pretrained(tmp_path / "adapter")

    base = AutoModel.from_pretrained(tmp_path / "base")
    before = compute(base, case.inputs())["loss"]
    restored = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    expected = compute(adapted, case.inputs())
    assert (expected["loss"] - before).abs() > 1e-3
    torch.testing.assert_close(compute(restored, case.inputs()), expected, rtol=1e-4, atol=1e-5)


def test_truncated_weights_are_reported_with_their_folder(case, folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match=f"{folder}.*truncated or damaged"):
        AutoModel.from_pretrained(folder)


def test_the_folder_of_another_model_is_refused(case, tmp_path):
    AutoModel.from_config(tiny.vision_config()).save_pretrained(tmp_path)
    for loading in (case.row.model, case.row.config):
        with pytest.raises(ValueError, match=f"must be '{case.row.config.model_type}', but got 'vit'"):
            loading.from_pretrained(tmp_path)


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.config.model_type)
def test_a_misspelt_field_is_refused_with_the_nearest_one(row, tmp_path):
    row.config().save_pretrained(tmp_path)
    inherited = {field.name for field in fields(PreTrainedConfig)}
    for field in {field.name for field in fields(row.config)} - inherited:
        misspelt = {f"{field}x": 1}
        message = rf"{row.config.__name__} has no field '{field}x'. Did you mean '{field}'\?"
        with pytest.raises(TypeError, match=message):
            row.config(**misspelt)
        with pytest.raises(TypeError, match=message):
            row.config.from_dict({**row.config().to_dict(), **misspelt})
        with pytest.raises(TypeError, match=message):
            row.config.from_dict({}, **misspelt)
        with pytest.raises(TypeError, match=message):
            row.config.from_pretrained(tmp_path, **misspelt)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> dict[str, tuple[Path, list[dict]]]:
    """Folder and results of loading each kind of model in a process that has not imported vlmkit."""
    root, jobs = tmp_path_factory.mktemp("strangers"), []
    for row in MODELS:
        case, folder = next(case for case in CASES if case.row is row), root / row.config.model_type
        case.model().save_pretrained(folder / "saved")
        case.processor().save_pretrained(folder / "saved")
        torch.save(case.inputs(), folder / "inputs.pt")
        for source, target in (("saved", "again"), ("again", "third")):  # a folder that was saved again loads as well
            paths = {"source": folder / source, "target": folder / target, "inputs": folder / "inputs.pt"}
            jobs.append({name: str(path) for name, path in paths.items()})
        jobs.append({"source": str(folder / "saved"), "without": "vlmkit"})
    printed = run_python(ROOT / "tests/stranger.py", json.dumps(jobs), HF_HOME=str(root / "cache"))
    results = iter(json.loads(printed))
    return {row.config.model_type: (root / row.config.model_type, [next(results) for _ in range(3)]) for row in MODELS}


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.config.model_type)
def test_loads_and_saves_without_importing_vlmkit(row, strangers):
    case = next(case for case in CASES if case.row is row)
    folder, (*results, missing) = strangers[row.config.model_type]
    names = {"config": row.config.__name__, "model": row.model.__name__, "processor": row.processor.__name__}
    assert results == [names, names]
    torch.manual_seed(0)
    expected = compute(case.model(), case.inputs())["loss"]
    for target in ("again", "third"):
        torch.testing.assert_close(torch.load(folder / target / "loss.pt"), expected, rtol=0, atol=0)
    assert "pip install vlmkit" in missing["error"]
