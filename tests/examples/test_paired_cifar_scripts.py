"""The scripts run on folders, for a few steps: in this process, as each new one takes long to import everything."""

import csv
import itertools
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests import tiny
from tests.examples.scripts import EXAMPLES, importable, run_script, run_two_processes
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoProcessor, BertConfig, BertModel, PreTrainedTokenizerFast, TimmWrapperConfig

from vlmkit import PairedCifarAligner, PairedCifarAlignerConfig, PairedCifarAlignerProcessor
from vlmkit.cifar100_classes import CIFAR100_CLASSES
from vlmkit.models.paired_cifar.pair_captions import CAPTION_TEMPLATE, pair_captions

VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CNN = {"channels": [8, 8, 8, 8], "stem_width": 8}
EPOCH = ["--num_pairs", 32, "--per_device_train_batch_size", 16]  # two updates

Run = Callable[..., str]


def write_text_encoder(folder: Path) -> None:
    """A sentence encoder that knows all words of the captions."""
    words = sorted({word for caption in pair_captions(CAPTION_TEMPLATE, CIFAR100_CLASSES) for word in caption.split()})
    backend = Tokenizer(
        models.WordLevel({word: row for row, word in enumerate(["<pad>", "<unk>", *words])}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes)).save_pretrained(folder)


def write_cifar100(folder: Path) -> None:
    """Three images of each class to train on, and two to validate with."""
    folder.mkdir()
    for split, images in (("train", 300), ("validation", 200)):
        labels = [row % 100 for row in range(images)]
        columns = {"img": [tiny.photo(32, 32, seed=1000 * images + row) for row in range(images)], "fine_label": labels}
        types = {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=list(CIFAR100_CLASSES))}
        datasets.Dataset.from_dict(columns, datasets.Features(types)).to_parquet(folder / f"{split}.parquet")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("paired_cifar")
    write_text_encoder(folder / "text")
    write_cifar100(folder / "data")
    return folder


@pytest.fixture
def run(place) -> Run:
    """Run a script with flags and return its output."""
    return lambda script, *flags: run_script(f"paired_cifar/{script}", *flags, cwd=place)


def train_flags(place: Path, output: str, **changes: object) -> list[object]:
    models = ["--text", place / "text", "--data", place / "data", "--vision_args", json.dumps(VIT)]
    recipe = {"learning_rate": 0.01, "use_cpu": True, "disable_tqdm": True, "loss": "full_bank", **changes}
    flags = [word for name, value in recipe.items() for word in (f"--{name}", value)]
    return [*models, *EPOCH, *flags, "--output_dir", place / output]


def results(folder: Path) -> dict[str, float]:
    """Metrics of the validation split."""
    found = json.loads((folder / "validation_results.json").read_text())
    return {name.removeprefix("validation_"): value for name, value in found.items()}


RECIPE = {
    "vision_args": VIT,
    "loss": "full_bank",
    "caption_normalization": "center",
    "learn_temperature": True,
    "flip": 0.5,
    "mix": "mix_up",
    "ema_decay": 0.5,
    "early_stopping_patience": 5,
    "num_pairs": 32,
    "per_device_train_batch_size": 16,
    "num_train_epochs": 7,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 1,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "map",
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def recipe(place) -> Path:
    settings = {**RECIPE, "text": str(place / "text"), "data": str(place / "data")}
    (place / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return place / "recipe.yaml"


def test_train_from_a_file_then_evaluate(run, place, recipe):
    output = run("train.py", recipe, "--num_train_epochs", 2, "--output_dir", "run")  # flags win
    folder = place / "run"
    assert "parameters, 1 processes" in output
    assert "validation: 200 pairs, 10,000 captions" in output
    assert "same class first" in output
    metrics = results(folder)
    assert metrics["epoch"] == 2
    assert 0 <= metrics["top@1"] <= metrics["top@10"] <= metrics["top@100"] <= 1

    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert (model.config.loss, model.config.caption_normalization) == ("full_bank", "center")
    assert model.config.vision_config.hidden_size == 16
    assert model.caption_embeds.shape == (10_000, 12)
    assert type(processor) is PairedCifarAlignerProcessor
    state = json.loads((folder / "checkpoint-4/trainer_state.json").read_text())
    best = load_file(Path(place, state["best_model_checkpoint"]) / "model.safetensors")
    torch.testing.assert_close(load_file(folder / "model.safetensors"), best, rtol=0, atol=0)
    assert metrics["map"] == pytest.approx(state["best_metric"])
    assert {"unaveraged.safetensors", "processor_config.json"} <= {p.name for p in (folder / "checkpoint-2").iterdir()}
    card = (folder / "README.md").read_text()
    for text in ("pip install vlmkit", "top@100", "left_accuracy", "pairs of images of data", "'validation'"):
        assert text in card

    flags = ["--model", folder, "--data", place / "data", "--num_examples", 2]
    output = run("evaluate.py", *flags, "--output_dir", "evaluation")
    again = json.loads((place / "evaluation/metrics.json").read_text())
    assert again.keys() == {"half_of_one_class", "independent_classes"}
    for name, value in again["half_of_one_class"].items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name
    assert "validation, half of one class: 200 pairs" in output
    for name in ("confusion", "errors", "embeddings", "occlusion", "attention"):
        assert (place / f"evaluation/{name}.png").stat().st_size > 1000
    with open(place / "evaluation/classes.csv", newline="") as file:
        classes = list(csv.DictReader(file))
    assert [row["class"] for row in classes] == list(CIFAR100_CLASSES)
    assert sum(int(row["images"]) for row in classes) == 400
    independent = again["independent_classes"]
    right = sum(int(row["images"]) * float(row["accuracy"]) for row in classes) / 400
    assert right == pytest.approx((independent["left_accuracy"] + independent["right_accuracy"]) / 2, abs=1e-3)
    with open(place / "evaluation/confusions.csv", newline="") as file:
        assert all(row["true"] != row["predicted"] for row in csv.DictReader(file))
    with pytest.raises(SystemExit, match="`--split` must be one of train, validation, but got 'dev'"):
        run("evaluate.py", *flags, "--split", "dev")


def test_a_run_is_not_overwritten_and_goes_on_where_it_stopped(run, place, recipe):
    flags = ["--load_best_model_at_end", False, "--output_dir"]
    run("train.py", recipe, "--num_train_epochs", 3, *flags, "whole")
    run("train.py", recipe, "--num_train_epochs", 2, *flags, "parts")
    with pytest.raises(SystemExit, match=r"parts already contains a run. Pass `--resume_from_checkpoint parts/check"):
        run("train.py", recipe, "--num_train_epochs", 3, *flags, "parts")
    resume = ["--resume_from_checkpoint", "parts/checkpoint-4"]
    run("train.py", recipe, "--num_train_epochs", 3, *flags, "parts", *resume)
    for file in ("model.safetensors", "checkpoint-6/model.safetensors", "checkpoint-6/unaveraged.safetensors"):
        whole, parts = (load_file(place / folder / file) for folder in ("whole", "parts"))
        torch.testing.assert_close(parts, whole, rtol=0, atol=0, msg=lambda text, f=file: f"{f}: {text}")
    assert results(place / "parts")["map"] == results(place / "whole")["map"]


def test_early_stopping(run, place, recipe):
    flags = ["--learning_rate", 0, "--early_stopping_patience", 1, "--output_dir", "stopped"]
    run("train.py", recipe, *flags)
    assert results(place / "stopped")["epoch"] == 2  # the second evaluation is no better than the first


def test_images_that_are_mixed_need_the_whole_bank(run, place):
    with pytest.raises(ValueError, match=r"must have the shape .*, without `caption_weights`, for `loss='in_batch'`"):
        run("train.py", *train_flags(place, "mixed", loss="in_batch", mix="cut_mix", max_steps=1))


def test_flags_that_cannot_be_are_refused(run, place, capfd):
    for changes, message in (
        ({"loss": "triplet"}, "invalid choice: 'triplet'"),
        ({"tempreature": 1}, "--tempreature"),
        ({"label_smoothing": 0.1, "loss": "in_batch"}, "`label_smoothing` must be 0 with `loss='in_batch'`"),
        ({"data": place / "nowhere"}, "nowhere"),
    ):
        with pytest.raises((SystemExit, ValueError, FileNotFoundError)) as raised:
            run("train.py", *train_flags(place, "refused", **changes))
        assert message in str(raised.value) + capfd.readouterr().err
    assert not (place / "refused").exists()


def test_a_cnn_that_sees_each_image_alone_is_evaluated_without_attention(run, place):
    config = PairedCifarAlignerConfig(
        vision_config=TimmWrapperConfig(architecture="resnet10t", model_args=CNN),
        vision_input="halves",
        text_embed_dim=12,
    )
    model = PairedCifarAligner(config)
    encoder = AutoModel.from_pretrained(place / "text")
    model.build_caption_bank(encoder, PreTrainedTokenizerFast.from_pretrained(place / "text"))
    model.save_pretrained(place / "cnn")
    PairedCifarAlignerProcessor.for_cifar100(48).save_pretrained(place / "cnn")  # larger than the images
    flags = ["--data", place / "data", "--split", "train", "--num_examples", 2, "--output_dir", "cnn_evaluation"]
    assert "train, independent classes: 300 pairs" in run("evaluate.py", "--model", "cnn", *flags)
    pictures = {path.stem for path in (place / "cnn_evaluation").glob("*.png")}
    assert pictures == {"confusion", "errors", "embeddings", "occlusion"}


TINY_LADDERS = {
    "report": {"vision_args": VIT},
    "options": {"vision": "timm/resnet10t", "vision_args": CNN, "input_size": 32, "bf16": False},
}


@pytest.mark.parametrize("ladder", TINY_LADDERS)
def test_the_ablation_goes_on_where_it_stopped(run, place, ladder):
    flags = ["--ladder", ladder, "--text", place / "text", "--data", place / "data", "--max_steps", 2, *EPOCH]
    for name, value in TINY_LADDERS[ladder].items():
        flags += [f"--{name}", json.dumps(value) if isinstance(value, dict) else value]
    flags += ["--use_cpu", "--disable_tqdm", True, "--output_dir", "ablations"]
    output = run("ablation.py", *flags)
    rows = 7 if ladder == "report" else 8
    assert output.count(", seed 0\n") == rows
    folder = place / "ablations" / f"ablation_{ladder}"
    files = sorted(path for path in folder.glob("*-0-*.json"))
    assert len(files) == rows
    assert len({json.loads(path.read_text())["row"] for path in files}) == rows
    for name in ("results.json", "results.csv", "ladder.png", "summary.md"):
        assert (folder / name).stat().st_size > 100
    assert (folder / "summary.md").read_text().count("\n| ") == rows

    before = {path: path.stat().st_mtime_ns for path in files}
    lost = json.loads(files[2].read_text())
    files[2].unlink()
    assert run("ablation.py", *flags).count(", seed 0\n") == 1
    assert [path for path in files if path.stat().st_mtime_ns != before[path]] == [files[2]]
    again = json.loads(files[2].read_text())
    assert (again["row"], again["metrics"]["map"]) == (lost["row"], lost["metrics"]["map"])
    assert run("ablation.py", *flags).count(", seed 0\n") == 0


def test_the_rows_of_the_ablation_add_one_change_at_a_time(monkeypatch):
    def arguments_of(ladder: str, *flags: str) -> dict[str, dict[str, object]]:
        monkeypatch.setattr(sys, "argv", ["ablation.py", "--ladder", ladder, "--use_cpu", *flags])
        with importable("paired_cifar"):
            script = runpy.run_path(str(EXAMPLES / "paired_cifar" / "ablation.py"), run_name="ablation")
        found = {}
        for name, (_, model, data, augmentation, training) in script["rows"]():
            names = script["RECIPE"]
            found[name] = {
                **vars(model),
                **vars(data),
                **vars(augmentation),
                **{n: getattr(training, n) for n in names},
            }
            found[name] |= json.loads(found[name].pop("vision_args"))
        return found

    def changes(rows: dict[str, dict[str, object]]) -> list[set[str]]:
        values = list(rows.values())
        return [{name for name in new if new[name] != old.get(name)} for old, new in itertools.pairwise(values)]

    report = arguments_of("report")
    assert changes(report) == [
        {"num_hidden_layers"},
        {"num_attention_heads"},
        {"intermediate_size"},
        {"hidden_act"},
        {"flip", "color_jitter", "rotation"},
        {"weight_decay", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "num_train_epochs"},
    ]
    first, *_, last = report.values()
    assert (first["num_hidden_layers"], first["hidden_act"], first["num_train_epochs"]) == (1, "relu", 4)
    assert (last["num_hidden_layers"], last["hidden_act"], last["num_train_epochs"]) == (6, "gelu", 20)
    assert changes(arguments_of("options")) == [
        {"learn_temperature"},
        {"loss"},
        {"caption_normalization"},
        {"caption_normalization"},
        {"class_loss_weight"},
        {"swap_loss_weight"},
        {"label_smoothing"},
    ]
    assert {row["num_train_epochs"] for row in arguments_of("report", "--num_train_epochs", "1").values()} == {1}


def test_two_processes_train_what_one_trains(run, place):
    changes = {"max_steps": 2, "learning_rate": 0.01, "class_loss_weight": 0.5, "swap_loss_weight": 1.0}
    run("train.py", *train_flags(place, "one", **changes))
    flags = [*train_flags(place, "two", **changes), "--per_device_train_batch_size", 8]
    assert "parameters, 2 processes" in run_two_processes("paired_cifar/train.py", *flags, cwd=place)
    expected, weights = (load_file(place / folder / "model.safetensors") for folder in ("one", "two"))
    for name, tensor in expected.items():
        if name.endswith("key.bias"):  # attention does not depend on it: Adam makes steps of what is rounding
            continue
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    one, two = results(place / "one"), results(place / "two")
    assert two["map"] == pytest.approx(one["map"], rel=1e-3)
    assert two["top@100"] == pytest.approx(one["top@100"], abs=0.006)  # a rank may differ by rounding
