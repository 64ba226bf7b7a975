"""What the converter of MultiModel refuses, and that nothing is written then."""

import shutil
from copy import deepcopy

import pytest
import torch
from tests.conversion import multimodel_original
from transformers import AutoConfig

from vlmkit.conversion import convert_multimodel


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return multimodel_original.write(tmp_path_factory.mktemp("original"))


@pytest.fixture
def refused(source, tmp_path):
    """Checks that a conversion raises and writes nothing; a dictionary as `source` is saved first."""

    def refused(error, match, **changes):
        if isinstance(changes.get("source"), dict):
            torch.save(changes["source"], tmp_path / "other.pth")
            changes["source"] = tmp_path / "other.pth"
        destination = tmp_path / "converted"
        with pytest.raises(error, match=match):
            convert_multimodel(**{**source, "destination": destination, **changes})
        assert not destination.exists()

    return refused


def changed(part, **tensors):
    """The checkpoint with other weights in a part; `None` takes one out."""
    checkpoint = multimodel_original.checkpoint()
    state = {**checkpoint[part], **tensors}
    return {**checkpoint, part: {name: value for name, value in state.items() if value is not None}}


def test_missing_file(refused, tmp_path):
    refused(FileNotFoundError, r"absent\.pth does not exist\. Pass a checkpoint\.pth", source=tmp_path / "absent.pth")


def test_folder_without_the_files(refused, tmp_path):
    multimodel_original.write_hub_layout(tmp_path / "hub")
    (tmp_path / "hub/decoder.safetensors").unlink()
    refused(FileNotFoundError, r"hub/decoder\.safetensors does not exist", source=tmp_path / "hub")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(refused, source, tmp_path, kept):
    content = source["source"].read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(kept * len(content))])
    refused(ValueError, r"cut\.pth is truncated or damaged", source=tmp_path / "cut.pth")


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_truncated_safetensors(refused, tmp_path, kept):
    multimodel_original.write_hub_layout(tmp_path / "hub")
    file = tmp_path / "hub/gpt_decoder.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    refused(ValueError, r"gpt_decoder\.safetensors is truncated or damaged", source=tmp_path / "hub")


def test_other_objects_are_not_unpickled(refused):
    checkpoint = {**multimodel_original.checkpoint(), "config": shutil.copy}
    refused(ValueError, "contains objects other than tensors", source=checkpoint)


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"projection.weight": torch.ones(2)},
        {f"{part}_state_dict": {"epoch": 3} for part in ("encoder", "decoder", "gpt_decoder")},
    ],
)
def test_foreign_checkpoint(refused, checkpoint):
    refused(ValueError, r"must contain .*'encoder_state_dict'.*\. Pass a checkpoint\.pth", source=checkpoint)


def test_empty_parts_lack_everything(refused):
    checkpoint = {f"{part}_state_dict": {} for part in ("encoder", "decoder", "gpt_decoder")}
    refused(ValueError, r"lacks the weights \['clip\.vision_model\..*\] and \d+ more", source=checkpoint)


@pytest.mark.parametrize(
    ("part", "name", "match"),
    [
        ("decoder_state_dict", "query_tokens", r"lacks the weights \['query_tokens'\]"),
        ("decoder_state_dict", "layer_norms.5.bias", r"lacks the weights \['layer_norms\.5\.bias'\]"),
        (
            "decoder_state_dict",
            "self_attention_layers.1.in_proj_weight",
            r"lacks the weights \['self_attention_layers\.1",
        ),
        ("encoder_state_dict", "proj.bias", r"but lacks the weights \['proj\.bias'\]\. Pass"),
    ],
)
def test_missing_weights_are_named(refused, part, name, match):
    refused(ValueError, match, source=changed(part, **{name: None}))


def test_unexpected_weights_are_named(refused):
    """Such as those of the original's later line, which detects objects."""
    boxes = {f"bbox_head.{row}.weight": torch.ones(1) for row in range(8)}
    match = r"but has the unexpected weights \['bbox_head\.0\.weight', .* and 3 more"
    refused(ValueError, match, source=changed("decoder_state_dict", **boxes))


def test_second_copies_must_agree(refused):
    checkpoint = changed("gpt_decoder_state_dict", **{"transformer.ln_f.bias": torch.zeros(64)})
    refused(ValueError, r"two equal copies of gpt_decoder\.transformer\.ln_f\.bias, but they differ", source=checkpoint)


@pytest.mark.parametrize(
    ("name", "shape", "match"),
    [
        ("ffn_layers.0.0.weight", (128, 64), r"ffn_layers\.0\.0\.weight in .* \(256, 64\), but got \(128, 64\)"),
        ("decoder_cross_attn.in_proj_bias", (64,), r"in_proj_bias in .* \(192,\), but got \(64,\)"),
        ("query_tokens", (16, 64), r"query_tokens in .* \(1, 16, 64\), but got \(16, 64\)"),
    ],
)
def test_wrong_sizes_are_named(refused, name, shape, match):
    refused(ValueError, match, source=changed("decoder_state_dict", **{name: torch.ones(shape)}))


def test_configurations_of_other_backbones(refused, source):
    narrow = AutoConfig.from_pretrained(source["vision_config"])
    shallow = deepcopy(narrow)
    narrow.hidden_size = 24
    refused(ValueError, r"must have the shape .*, but got \(.*48.*\)\. Pass the vision_config", vision_config=narrow)
    shallow.num_hidden_layers = 2
    refused(ValueError, r"unexpected weights \['clip\.vision_model\.encoder\.layers\.2", vision_config=shallow)


def test_missing_configuration_or_tokenizer(refused, tmp_path):
    for name in ("vision_config", "text_config", "tokenizer"):
        refused(OSError, "absent", **{name: str(tmp_path / "absent")})


def test_tokenizer_of_another_size(refused):
    match = r"`tokenizer` must have 202 tokens, including <START> and <END>, but got 152"
    refused(ValueError, match, tokenizer=multimodel_original.tokenizer(num_words=149))


def test_nothing_is_overwritten(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="must be a new or empty folder"):
        convert_multimodel(destination=tmp_path, **source)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
