from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import TrainingArguments

from vlmkit.training import ContrastiveTrainingArguments, TableTrainingArguments, parse_arguments


@dataclass
class Model:
    name: str = "small"
    width: int = 8
    rate: float = 0.1
    loss: Literal["a", "b"] = "a"
    frozen: bool = False
    sizes: list[int] = field(default_factory=lambda: [1])
    options: str = "{}"
    limit: int | None = None


@dataclass
class Data:
    folder: str = "here"


def write(folder: Path, text: str, name: str = "recipe.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def parse(*arguments: object, **defaults: object) -> Model:
    return parse_arguments(Model, arguments=list(map(str, arguments)), defaults=defaults)[0]


def test_flags_go_to_the_dataclass_that_has_them():
    model, data = parse_arguments(Model, Data, arguments=["--width", "3", "--folder", "there"])
    assert model == Model(width=3)
    assert data == Data(folder="there")


def test_the_words_are_those_of_the_process_unless_given(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--width", "5"])
    assert parse_arguments(Model) == (Model(width=5),)
    assert parse_arguments(Model, arguments=[]) == (Model(),)


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.yml"])
def test_a_file_holds_values_of_every_type(tmp_path, name):
    lines = ["name: large", "width: 16", "rate: 1.0e-3", "loss: b", "frozen: true", "sizes: [2, 3]", "limit: 7"]
    assert parse(write(tmp_path, "\n".join(lines), name)) == Model("large", 16, 1e-3, "b", True, [2, 3], "{}", 7)


def test_mappings_become_json(tmp_path):
    path = write(tmp_path, "options: {depth: 2, kind: x, flag: true, sizes: [1, 2]}\nname: 'a b'")
    model = parse(path)
    assert model.options == '{"depth": 2, "kind": "x", "flag": true, "sizes": [1, 2]}'
    assert model.name == "a b"


def test_null_is_the_dataclasss_own_default(tmp_path):
    assert parse(write(tmp_path, "width: null\nlimit:\nname: large")) == Model(name="large")


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = write(tmp_path, "width: 16\nsizes: [2, 3]\nrate: 0.5")
    model = parse(path, "--width", 32, "--sizes", 4, width=1, rate=0.25, limit=9, sizes=[7], frozen=True)
    assert model == Model(width=32, rate=0.5, sizes=[4], limit=9, frozen=True)
    assert parse(path, "--frozen", "False", frozen=True).frozen is False


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing.yaml"):
        parse(tmp_path / "missing.yaml")


@pytest.mark.parametrize("text", ["", "- width\n- 3\n", "width 3\n"])
def test_a_file_without_settings_is_refused(tmp_path, text):
    with pytest.raises(
        ValueError, match=r"recipe.yaml must be a mapping, but got .*\. Write one `name: value` per line"
    ):
        parse(write(tmp_path, text))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--wdith", "3"], "wdith"),
        (["--width", "wide"], "invalid int value: 'wide'"),
        (["--loss", "c"], "invalid choice: 'c'"),
    ],
)
def test_an_unknown_flag_or_wrong_value_ends_the_script(tmp_path, words, message, capsys):
    path = write(tmp_path, f"{words[0].strip('-')}: {words[1]}", "faulty.yaml")
    for arguments in (words, [path]):
        with pytest.raises((SystemExit, ValueError)) as raised:
            parse(*arguments)
        assert message in str(raised.value) + capsys.readouterr().err


def test_a_file_spells_names_out(tmp_path):
    """Of flags, argparse takes abbreviations."""
    assert parse("--widt", 3) == Model(width=3)
    with pytest.raises(ValueError, match=r"The setting 'widt' is unknown. Did you mean 'width'\?"):
        parse(write(tmp_path, "widt: 3"))


def test_what_trainer_must_know_of_contrastive_batches(tmp_path):
    arguments = ContrastiveTrainingArguments(output_dir=tmp_path)
    assert arguments.report_to == []
    assert arguments.remove_unused_columns is False
    assert arguments.dataloader_pin_memory == torch.cuda.is_available()
    [parsed] = parse_arguments(
        ContrastiveTrainingArguments, arguments=["--output_dir", str(tmp_path), "--remove_unused_columns", "True"]
    )
    assert parsed.remove_unused_columns is True


def test_training_arguments_take_mappings(tmp_path):
    path = write(tmp_path, f"output_dir: {tmp_path}\nlr_scheduler_kwargs: {{min_lr: 1.0e-5}}\nlearning_rate: 2.0e-3")
    [parsed] = parse_arguments(ContrastiveTrainingArguments, arguments=[path])
    assert parsed.lr_scheduler_kwargs == {"min_lr": 1e-5}
    assert parsed.learning_rate == 2e-3


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(ValueError, match=r"at most one GPU, but got 2. Start one process per GPU with `torchrun"):
        ContrastiveTrainingArguments(output_dir=tmp_path)


@pytest.mark.parametrize(
    ("capabilities", "emulated"),
    [
        ({"avx512_bf16": False, "amx_bf16": False}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, False),
        ({"avx512_bf16": False, "amx_bf16": True}, False),
        ({"architecture": "arm"}, False),
    ],
)
def test_a_cpu_that_emulates_bfloat16_is_warned_of(capabilities, emulated, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    TableTrainingArguments(output_dir=tmp_path, use_cpu=True)
    assert not recwarn
    TableTrainingArguments(output_dir=tmp_path, use_cpu=True, bf16=True)
    assert ["Pass `--bf16 False`" in str(warning.message) for warning in recwarn] == [True] * emulated
