"""What every model of vlmkit keeps to. A new model, or a new way to configure one, is a new row of `CASES`."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tests import tiny
from tests.subprocesses import ROOT, run_python
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoProcessor,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    TimmWrapperConfig,
)

from vlmkit.modules.freezing import Freezable
from vlmkit.modules.given_tokens import GivenTokensConfig
from vlmkit.registration import MODELS, Row


@dataclass(frozen=True)
class Case:
    """A configured model.

    Args:
        name: of the case, in pytest's output.
        config: makes the configuration.
        processor: makes the processor.
        inputs: makes a training batch, texts padded on the right.
        call: makes the arguments of a call of the processor.
        prepare: what a new model needs before it can be used.
        lora: what peft adapts and what it saves whole; `None` where there is no text model to adapt.
        eager_only: sub-configurations of backbones that have no other attention, and refuse to be asked for one.
    """

    name: str
    config: Callable[[], PreTrainedConfig]
    processor: Callable[[], ProcessorMixin]
    inputs: Callable[[], dict[str, Tensor]]
    call: Callable[[], dict[str, Any]]
    prepare: Callable[[Any], None] = lambda model: None
    lora: dict[str, Any] | None = None
    eager_only: tuple[str, ...] = ()

    @property
    def row(self) -> Row:
        return next(row for row in MODELS if row.config is type(self.config()))

    def model(self) -> PreTrainedModel:
        torch.manual_seed(0)
        model = self.row.model(self.config()).eval()
        self.prepare(model)
        return model


TRAINED = {"freeze_vision": False, "freeze_text": False}
CONTEXTUAL = {"text_features": "encoder", "projection": "shared", "projection_dim": 12}
# With weights this large, attention is far from uniform, and a mistake in it shows.
LARGE_WEIGHTS = {
    "vision_config": tiny.vision_config(initializer_range=0.5),
    "text_config": tiny.text_config(initializer_range=0.5),
}
BERT_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL_BERT = BertConfig(**BERT_SIZES, vocab_size=99, initializer_range=0.5)
SMALL_RESNET = TimmWrapperConfig(
    architecture="resnet10t", model_args={"channels": (8, 8, 16, 16), "stem_width": 8, "zero_init_last": False}
)
# Its buffers (shifted-window masks, relative positions) are not saved.
SMALL_SWIN = TimmWrapperConfig(
    architecture="swin_tiny_patch4_window7_224",
    model_args={"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (2, 1), "num_heads": (2, 2)},
)


def dual_encoder(name: str, lora: dict[str, Any] | None = None, **fields: Any) -> Case:
    def config() -> PreTrainedConfig:
        return tiny.dual_encoder_config(**copy.deepcopy({**LARGE_WEIGHTS, **fields}))

    def call() -> dict[str, Any]:
        return {"images": [tiny.photo()], "text": tiny.SENTENCES[:1]}

    return Case(name, config, tiny.dual_encoder_processor, tiny.dual_encoder_inputs, call, lora=lora)


def paired_cifar(name: str, **fields: Any) -> Case:
    def config() -> PreTrainedConfig:
        large = tiny.vision_config(image_size=(16, 32), patch_size=8, initializer_range=0.5)
        return tiny.paired_cifar_config(**copy.deepcopy({"vision_config": large, **fields}))

    def call() -> dict[str, Any]:
        return {"images": [[tiny.photo(), tiny.photo(seed=1)]]}

    return Case(
        name, config, tiny.paired_cifar_processor, tiny.paired_cifar_inputs, call, prepare=tiny.build_caption_bank
    )


def qformer_captioner(name: str, lora: dict[str, Any] | None = None, **fields: Any) -> Case:
    def config() -> PreTrainedConfig:
        large = {
            "vision_config": tiny.vision_config(initializer_range=0.5),
            "text_config": tiny.gpt_neo_config(initializer_range=0.2),
        }
        return tiny.qformer_captioner_config(**copy.deepcopy({**large, **fields}))

    def call() -> dict[str, Any]:
        return {"images": [tiny.photo()], "text": tiny.SENTENCES[:1]}

    eager_only = ("text_config",) if config().text_config.model_type == "gpt_neo" else ()
    parts = (tiny.qformer_captioner_processor, tiny.qformer_captioner_inputs, call)
    return Case(name, config, *parts, lora=lora, eager_only=eager_only)


def qformer_aligner(name: str, lora: dict[str, Any] | None = None, **fields: Any) -> Case:
    def config() -> PreTrainedConfig:
        large = {
            "vision_config": tiny.vision_config(initializer_range=0.5),
            "text_config": tiny.distilbert_config(initializer_range=0.3),
        }
        return tiny.qformer_aligner_config(**copy.deepcopy({**large, **fields}))

    def call() -> dict[str, Any]:
        return {"images": [tiny.photo()], "text": tiny.SENTENCES[:1]}

    return Case(name, config, tiny.qformer_aligner_processor, tiny.qformer_aligner_inputs, call, lora=lora)


def smolvlm(name: str, lora: dict[str, Any] | None = None, images: dict[str, Any] | None = None, **fields: Any) -> Case:
    """With `images`, settings of its own image processor."""

    def config() -> PreTrainedConfig:
        large = {
            "vision_config": tiny.vision_config(initializer_range=0.5),
            "qformer_config": tiny.distilbert_config(initializer_range=0.3),
            "text_config": tiny.llama_config(**tiny.CHAT_TOKENS, initializer_range=0.3, tie_word_embeddings=True),
        }
        return tiny.smolvlm_config(**copy.deepcopy({**large, **fields}))

    def processor() -> ProcessorMixin:
        return tiny.smolvlm_processor() if images is None else tiny.views_processor(config(), **images)

    def inputs() -> dict[str, Tensor]:
        batch = dict(processor().apply_chat_template(tiny.conversations(), return_labels=True))
        if isinstance(fields.get("vision_config"), GivenTokensConfig):
            pixels = batch.pop("pixel_values")
            batch["image_tokens"] = pixels.mean(dim=1).view(len(pixels), 64, 16)  # of another model
        return batch

    def call() -> dict[str, Any]:
        return {"images": [tiny.photo()], "text": ["is this a <image>"]}

    def open_gates(model: Any) -> None:
        for block in () if model.cross_attention is None else model.cross_attention.blocks:
            torch.nn.init.constant_(block.attention_gate, 0.7)
            torch.nn.init.constant_(block.feed_forward_gate, 0.7)

    return Case(name, config, processor, inputs, call, prepare=open_gates, lora=lora)


LORA_GPT2 = {
    "target_modules": r"text_tower\..*\.c_attn",
    "fan_in_fan_out": True,
    "modules_to_save": ["vision_projection"],
}
LORA_BERT = {"target_modules": r"text_tower\..*\.query", "modules_to_save": ["vision_projection"]}
LORA_BOTH = {**LORA_GPT2, "modules_to_save": ["vision_projection", "text_projection"]}
LORA_LLAMA = {"target_modules": r"language_model\..*\.q_proj", "modules_to_save": ["image_projection", "qformer"]}
LORA_QFORMER = {"target_modules": r"qformer\..*\.self_attention\..*\.q_proj", "modules_to_save": ["text_embeddings"]}
LORA_CHAT = {"target_modules": r"language_model\..*\.(q_proj|c_attn)", "modules_to_save": ["connector"]}
LORA_CROSS_ATTENTION = {**LORA_CHAT, "modules_to_save": ["connector", "cross_attention.blocks.0"]}
CASES = [
    dual_encoder("dual_encoder-paper"),
    dual_encoder("dual_encoder-trained", LORA_BOTH, **TRAINED, **CONTEXTUAL, learn_temperature=True),
    dual_encoder("dual_encoder-sigmoid", LORA_BOTH, **CONTEXTUAL, loss="sigmoid", freeze_text=False),
    dual_encoder(
        "dual_encoder-cnn-bert",
        LORA_BERT,
        **TRAINED,
        vision_config=SMALL_RESNET,
        text_config=SMALL_BERT,
        text_features="encoder",
    ),
    dual_encoder("dual_encoder-swin", LORA_GPT2, **TRAINED, vision_config=SMALL_SWIN, text_features="encoder"),
    paired_cifar("paired_cifar-report"),
    paired_cifar(
        "paired_cifar-extras",
        loss="full_bank",
        caption_normalization="whiten",
        learn_temperature=True,
        label_smoothing=0.1,
        swap_loss_weight=0.5,
        class_loss_weight=0.5,
    ),
    paired_cifar(
        "paired_cifar-halves", vision_input="halves", vision_config=SMALL_RESNET, caption_normalization="center"
    ),
    qformer_captioner("qformer_captioner-gpt_neo", LORA_LLAMA),
    qformer_captioner(
        "qformer_captioner-llama-cnn",
        LORA_LLAMA,
        vision_config=SMALL_RESNET,
        text_config=tiny.llama_config(initializer_range=0.2, tie_word_embeddings=True),
        freeze_vision=False,
    ),
    qformer_captioner(
        "qformer_captioner-gpt2-layers", vision_layers=[1, -1], text_config=tiny.text_config(initializer_range=0.2)
    ),
    qformer_aligner("qformer_aligner-distilbert", LORA_QFORMER),
    qformer_aligner(
        "qformer_aligner-losses",
        learn_temperature=True,
        matching_loss_weight=0.5,
        captioning_loss_weight=2,
        freeze_vision=False,
    ),
    qformer_aligner(
        "qformer_aligner-cnn-bert",
        {**LORA_QFORMER, "modules_to_save": ["image_projection", "matching_head"]},
        vision_config=SMALL_RESNET,
        text_config=BertConfig(**{**BERT_SIZES, "hidden_size": 24}, vocab_size=99, initializer_range=0.3),
        cross_attention_frequency=1,
        matching_loss_weight=1.0,
        freeze_vision=False,
    ),
    smolvlm("smolvlm-llama", LORA_CHAT),
    smolvlm(
        "smolvlm-cnn-bert-gpt2",
        {**LORA_CHAT, "fan_in_fan_out": True},
        vision_config=SMALL_RESNET,
        qformer_config=BertConfig(**{**BERT_SIZES, "hidden_size": 24}, vocab_size=99, initializer_range=0.3),
        text_config=tiny.text_config(**tiny.CHAT_TOKENS, initializer_range=0.3),
        cross_attention_frequency=1,
        freeze_vision=False,
    ),
    smolvlm("smolvlm-given-tokens", LORA_CHAT, vision_config=GivenTokensConfig(hidden_size=16)),
    smolvlm("smolvlm-perceiver", LORA_CHAT, connector="perceiver", perceiver_depth=2),
    smolvlm("smolvlm-mlp-aspect", LORA_CHAT, {"size": {"longest_edge": 64}}, connector="mlp"),
    smolvlm(
        "smolvlm-pixel_shuffle-cross_attention",
        LORA_CROSS_ATTENTION,
        {"do_image_splitting": True},
        connector="pixel_shuffle",
        fusion="cross_attention",
        cross_layer_interval=2,
    ),
    smolvlm(
        "smolvlm-perceiver-cross_attention-gpt2",
        {**LORA_CROSS_ATTENTION, "fan_in_fan_out": True},
        {"size": {"longest_edge": 64}},
        connector="perceiver",
        fusion="cross_attention",
        cross_layer_interval=1,
        text_config=tiny.text_config(**tiny.CHAT_TOKENS, initializer_range=0.3),
        freeze_vision=False,
    ),
]


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
    torch.testing.assert_close(results["eager"], results["sdpa"], rtol=1e-4, atol=1e-5)


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
        with pytest.raises(ValueError, match=f"'vit' model, not of '{case.row.config.model_type}'"):
            loading.from_pretrained(tmp_path)


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.config.model_type)
def test_a_misspelt_field_is_refused_with_the_nearest_one(row, tmp_path):
    row.config().save_pretrained(tmp_path)
    inherited = {field.name for field in fields(PreTrainedConfig)}
    for field in {field.name for field in fields(row.config)} - inherited:
        misspelt = {f"{field}x": 1}
        message = rf"{row.config.__name__} has no field '{field}x', did you mean '{field}'\?"
        with pytest.raises(TypeError, match=message):
            row.config(**misspelt)
        with pytest.raises(TypeError, match=message):
            row.config.from_dict({**row.config().to_dict(), **misspelt})
        with pytest.raises(TypeError, match=message):
            row.config.from_dict({}, **misspelt)
        with pytest.raises(TypeError, match=message):
            row.config.from_pretrained(tmp_path, **misspelt)


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.config.model_type)
def test_loads_and_saves_without_importing_vlmkit(row, tmp_path):
    case = next(case for case in CASES if case.row is row)
    saved, again, third = tmp_path / "saved", tmp_path / "again", tmp_path / "third"
    case.model().save_pretrained(saved)
    case.processor().save_pretrained(saved)
    torch.save(case.inputs(), tmp_path / "inputs.pt")
    inputs = str(tmp_path / "inputs.pt")
    jobs = [
        {"source": str(saved), "inputs": inputs, "target": str(again)},
        {"source": str(again), "inputs": inputs, "target": str(third)},  # a re-saved folder is as good
        {"source": str(saved), "without": "vlmkit"},
    ]
    *results, missing = json.loads(
        run_python(ROOT / "tests/stranger.py", json.dumps(jobs), HF_HOME=str(tmp_path / "cache"))
    )
    names = {"config": row.config.__name__, "model": row.model.__name__, "processor": row.processor.__name__}
    assert results == [names, names]
    expected = compute(case.model(), case.inputs())["loss"]
    for folder in (again, third):
        torch.testing.assert_close(torch.load(folder / "loss.pt"), expected, rtol=0, atol=0)
    assert "pip install vlmkit" in missing["error"]
