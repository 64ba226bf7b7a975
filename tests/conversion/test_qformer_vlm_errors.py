"""What the converter of vlm-training refuses, and that nothing is written then."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import tiny
from tests.conversion import qformer_vlm_original
from transformers import BertConfig, BertModel, LlamaForCausalLM

from vlmkit.conversion import convert_qformer_vlm

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft asks
    pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"),  # so does vlmkit, with an error
]

FILES = (
    "qformer/config.json",
    "qformer/pytorch_model.bin",
    "adapter.pt",
    "lora_adapter/adapter_config.json",
    "lora_adapter/adapter_model.safetensors",
)
LAYER = "base_model.model.model.layers"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return qformer_vlm_original.write(tmp_path_factory.mktemp("original"))


@pytest.fixture
def source(original, tmp_path):
    """A copy of the checkpoint, for a test to damage."""
    return shutil.copytree(original["source"], tmp_path / "damaged")


@pytest.fixture
def refused(original, source, tmp_path):
    """Checks that a conversion raises and writes nothing."""

    def refused(error, match, **changes):
        destination = tmp_path / "converted"
        with pytest.raises(error, match=match):
            convert_qformer_vlm(**{**original, "source": source, "destination": destination, **changes})
        assert not destination.exists()

    return refused


def change(file, **tensors):
    """Put weights into a file; `None` takes one out."""
    is_torch = file.suffix != ".safetensors"
    state = {**(torch.load(file) if is_torch else load_file(file)), **tensors}
    state = {name: value for name, value in state.items() if value is not None}
    if is_torch:
        torch.save(state, file)
    else:
        save_file(state, file)


def change_json(file, **values):
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


# Files


def test_missing_folder(refused, tmp_path):
    refused(
        FileNotFoundError, r"absent/qformer/config\.json does not exist\. Pass a folder", source=tmp_path / "absent"
    )


@pytest.mark.parametrize("file", FILES)
def test_missing_file(refused, source, file):
    (source / file).unlink()
    refused(FileNotFoundError, rf"{file} does not exist\. Pass a folder with qformer/config\.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_truncated_file(refused, source, file, kept):
    content = (source / file).read_bytes()
    (source / file).write_bytes(content[: int(kept * len(content))])
    refused(ValueError, rf"{file} is truncated or damaged")


@pytest.mark.parametrize("file", ["qformer/pytorch_model.bin", "adapter.pt"])
def test_other_objects_are_not_unpickled(refused, source, file):
    change(source / file, extra=shutil.copy)
    refused(ValueError, rf"{file} .*contains objects other than tensors")


@pytest.mark.parametrize("file", ["qformer/pytorch_model.bin", "adapter.pt"])
@pytest.mark.parametrize("content", [[torch.ones(1)], {"epoch": 3}])
def test_no_dictionary_of_tensors(refused, source, file, content):
    torch.save(content, source / file)
    refused(ValueError, rf"{file} must contain a dictionary of tensors\. Pass a folder")


@pytest.mark.parametrize("file", ["qformer/config.json", "lora_adapter/adapter_config.json"])
def test_json_without_a_dictionary(refused, source, file):
    (source / file).write_text("[1, 2]")
    refused(ValueError, rf"{file} must contain a dictionary, but got list")


def test_nothing_is_overwritten(original, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="must be a new or empty folder"):
        convert_qformer_vlm(destination=tmp_path, **original)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# The Q-Former and the layers behind it


@pytest.mark.parametrize("changes", [{"num_heads": None}, {"n_queries": "6"}, {"bert_config": None}])
def test_configuration_that_does_not_tell_enough(refused, source, changes):
    change_json(source / "qformer/config.json", **changes)
    refused(ValueError, "the integers n_queries, cross_every, num_heads and the dictionary bert_config")


def test_other_layers_that_look_at_the_image(refused, source):
    change_json(source / "qformer/config.json", cross_every=3)
    refused(ValueError, r"`cross_every` in .*config\.json must be 1 or 2, but got 3")


def test_configuration_of_another_training(refused, source):
    change_json(source / "qformer/config.json", n_queries=8)
    refused(
        ValueError,
        r"query_embeddings in .* the shape \(1, 8, 48\), but got \(1, 6, 48\)\. Pass qformer/config\.json and",
    )


@pytest.mark.parametrize(
    "name", ["query_embeddings", "cross_blocks.1.cross_attn.in_proj_weight", "encoder_layers.2.ffn.lin1.bias"]
)
def test_missing_weights_are_named(refused, source, name):
    change(source / "qformer/pytorch_model.bin", **{name: None})
    refused(
        ValueError, rf"must contain the Q-Former of qformer/config\.json, but lacks the weights \['{name}'\]\. Pass"
    )


def test_unexpected_weights_are_named(refused, source):
    further = {f"itm_head.{row}.weight": torch.ones(1) for row in range(8)}
    change(source / "qformer/pytorch_model.bin", **further)
    refused(ValueError, r"but has the unexpected weights \['itm_head\.0\.weight', .* and 3 more")


@pytest.mark.parametrize(
    ("name", "shape", "match"),
    [
        ("cross_blocks.3.cross_attn.in_proj_bias", (48,), r"in_proj_bias in .* the shape \(144,\), but got \(48,\)"),
        ("embeddings.word_embeddings.weight", (9, 48), r"word_embeddings\.weight in .* \(120, 48\), but got \(9, 48\)"),
    ],
)
def test_wrong_sizes_are_named(refused, source, name, shape, match):
    change(source / "qformer/pytorch_model.bin", **{name: torch.ones(shape)})
    refused(ValueError, match)


def test_foreign_layers_behind_the_qformer(refused, source):
    torch.save({"projection.weight": torch.ones(2)}, source / "adapter.pt")
    refused(
        ValueError,
        r"adapter\.pt must contain the two layers .* \['0\.bias', .* unexpected weights \['projection\.weight'\]",
    )


# The language model


def other_base(folder):
    LlamaForCausalLM(tiny.llama_config()).save_pretrained(folder)
    return folder


def test_adapter_for_a_base_of_another_name(refused, source):
    change_json(source / "lora_adapter/adapter_config.json", base_model_name_or_path="them/SmolLM-135M-Instruct")
    match = r"must be them/SmolLM-135M-Instruct, .*, but got them/SmolLM2-135M-Instruct\. Pass that model"
    refused(ValueError, match, base_model="them/SmolLM2-135M-Instruct")


def test_adapter_for_a_base_of_other_sizes(refused, source, tmp_path):
    change_json(source / "lora_adapter/adapter_config.json", base_model_name_or_path="them/SmolLM-135M-Instruct")
    match = r"was trained on them/SmolLM-135M-Instruct and does not fit .*other"
    refused(ValueError, match, base_model=other_base(tmp_path / "other"))


@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")  # peft looks for the base's vocabulary
def test_adapter_for_a_deeper_base(refused, source, tmp_path):
    change_json(source / "lora_adapter/adapter_config.json", base_model_name_or_path="them/deep")
    weights = load_file(source / "lora_adapter/adapter_model.safetensors")
    deeper = {name.replace("layers.1", "layers.2"): value for name, value in weights.items() if "layers.1" in name}
    change(source / "lora_adapter/adapter_model.safetensors", **deeper)
    refused(ValueError, "was trained on them/deep and does not fit .*base")


def test_without_an_adapter_the_layers_must_fit(refused, source, tmp_path):
    shutil.rmtree(source / "lora_adapter")
    match = r"0\.weight in .*adapter\.pt .* \(16, 48\), but got \(32, 48\)\. Pass the base_model"
    refused(ValueError, match, base_model=other_base(tmp_path / "other"))


def test_adapter_of_another_kind(refused, source):
    save_file({"prompt_embeddings": torch.ones(2, 32)}, source / "lora_adapter/adapter_model.safetensors")
    refused(ValueError, r"lora_adapter must contain a LoRA adapter, .* unexpected weights \['prompt_embeddings'\]")


def test_missing_base(refused, tmp_path):
    refused(OSError, "absent", base_model=str(tmp_path / "absent"))


def test_without_peft(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "vlmkit.training.adapters", None)
    refused(ImportError, "Merging a LoRA adapter requires peft. Install it with `pip install")


# The image model and the tokenizers


def test_image_model_of_another_width(refused, tmp_path):
    vision_model = qformer_vlm_original.write_vision_model(tmp_path / "vit", width=16)
    match = r"the width 48 for the Q-Former in .*, but the width of .*vit is 16\. Pass the image model"
    refused(ValueError, match, vision_model=vision_model)


def test_image_model_without_an_image_processor(refused, tmp_path):
    vision_model = qformer_vlm_original.write_vision_model(tmp_path / "vit")
    (vision_model / "preprocessor_config.json").unlink()
    refused(OSError, "image processor", vision_model=vision_model)


def test_a_text_model_in_place_of_the_image_model(refused, tmp_path):
    config = BertConfig(vocab_size=9, hidden_size=48, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path / "bert")
    refused(ValueError, "must take `pixel_values`, but bert takes", vision_model=tmp_path / "bert")


def test_text_tokenizer_that_is_too_large(refused, tmp_path):
    qformer_vlm_original.tokenizer(num_words=200).save_pretrained(tmp_path / "large")
    match = r"must have at most 120 tokens .*, but .*large has 200\. Pass the tokenizer"
    refused(ValueError, match, text_tokenizer=tmp_path / "large")


def test_damaged_tokenizer(refused, original, tmp_path):
    """It is not taken for a base without one."""
    base = shutil.copytree(original["base_model"], tmp_path / "base")
    (base / "tokenizer_config.json").write_text("{")
    refused((OSError, ValueError), "tokenizer_config|Expecting property name", base_model=base)
