"""Training runs on folders, for a few steps."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests import tiny
from tests.data.sources import coco_folders, flickr8k_folders
from tests.examples.qformer_captioner_runs import (
    BLOCK,
    BLOCKS,
    PHASES,
    RECIPE,
    SPLITS,
    TABLE,
    TOKENS,
    run,
    write_models,
    write_photos,
    write_recipe,
)
from tests.examples.scripts import run_two_processes
from transformers import AutoModel, AutoProcessor, GPTNeoForCausalLM, TrainerCallback, pipeline

from vlmkit import QFormerCaptioner, QFormerCaptionerProcessor


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("qformer_captioner")
    write_models(folder)
    write_photos(folder / "flickr8k")
    write_recipe(folder / "two.yaml", phases=PHASES)
    write_recipe(folder / "one.yaml", max_steps=2, per_device_train_batch_size=4)
    return folder


@pytest.fixture(scope="module")
def trained(place) -> str:
    """What the uninterrupted run of two phases prints; it lies in `whole`."""
    return run(place, "train.py", "two.yaml", "--output_dir", "whole")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    expected = weights(one)
    found = weights(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_two_phases_train_what_they_free(place, trained):
    assert f"| language_model | {BLOCKS * BLOCK + TABLE + 64 * 16 + 32:,} | {2 * BLOCK + TABLE + 32:,} |" in trained
    assert f" | {3 * BLOCK + TABLE + 32:,} | " in trained
    assert (trained.index("phase 1 of 2"), trained.count("eval_loss")) < (trained.index("phase 2 of 2"), 6)
    before = GPTNeoForCausalLM.from_pretrained(place / "text").transformer.state_dict()
    first, second = (weights(place / "whole" / phase) for phase in ("phase_1", "phase_2"))

    def changed(old: dict, new: dict, block: int, prefix: str = "model.language_model.") -> bool:
        name = f"h.{block}.mlp.c_fc.weight"
        return not torch.equal(old[prefix + name], new[f"model.language_model.{name}"])

    assert [changed(before, first, block, prefix="") for block in range(BLOCKS)] == [False] * 3 + [True] * 2
    assert [changed(first, second, block) for block in range(BLOCKS)] == [False] * 2 + [True] * 3
    tower = "model.vision_tower.backbone."
    vision = [name for name in first if name.startswith(tower)]
    assert vision
    assert all(torch.equal(first[name], second[name]) for name in vision)
    assert torch.equal(second["model.language_model.wpe.weight"], before["wpe.weight"])


def test_each_phase_leaves_a_folder_that_loads(place, trained):
    for phase in ("phase_1", "phase_2"):
        folder = place / "whole" / phase
        model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        assert type(model) is QFormerCaptioner
        assert type(processor) is QFormerCaptionerProcessor
        assert processor.tokenizer.bos_token == "<START>"
        assert processor.tokenizer.eos_token == "<END>"
        ids = (len(TOKENS), len(TOKENS) + 1)
        assert (model.generation_config.bos_token_id, model.generation_config.eos_token_id) == ids
        assert (model.config.text_config.bos_token_id, model.config.text_config.eos_token_id) == ids
        assert model.get_input_embeddings().num_embeddings == len(TOKENS) + 2
    describe = pipeline("image-text-to-text", model=str(folder), device="cpu")
    [answer] = describe(tiny.photo(), text="", max_new_tokens=4)
    assert isinstance(answer["generated_text"], str)


def test_scores_and_card(place, trained):
    folder = place / "whole" / "phase_2"
    metrics = json.loads((folder / "test_metrics.json").read_text())
    assert metrics.keys() == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"}
    assert f"{len(SPLITS['test'])} held-out images" in trained
    assert f"{metrics['cider']:9.3f}" in trained
    card = (folder / "README.md").read_text()
    for text in ("pip install vlmkit", f"| cider | {metrics['cider']:.4g} |", "## Training data\n\nflickr8k\n"):
        assert text in card
    model = AutoModel.from_pretrained(folder)
    pretrained = ("model.language_model.", "model.vision_tower.")
    new = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(pretrained))
    assert f"| of these trained | {3 * BLOCK + TABLE + 32 + new:,} |" in card  # not all that could be trained
    assert str(place) not in card + (folder / "config.json").read_text()


class Killed(BaseException):
    """Not an error that anything handles."""


class Kill(TrainerCallback):
    """Stops a run at once after an update of a phase."""

    def __init__(self, phase: str, step: int):
        self.phase, self.step = phase, step

    def on_step_end(self, args, state, control, **kwargs):
        if Path(args.output_dir).name == self.phase and state.global_step == self.step:
            raise Killed


@pytest.mark.parametrize(
    ("phase", "step"),
    [("phase_1", 5), ("phase_2", 1), ("phase_2", 5)],
    ids=["first phase", "before a checkpoint of the second", "second phase"],
)
def test_a_killed_run_ends_like_one_that_was_not(place, trained, phase, step):
    flags = ["two.yaml", "--output_dir", f"killed_{phase}_{step}"]
    with pytest.raises(Killed):
        run(place, "train.py", *flags, callback=Kill(phase, step))
    folder = place / f"killed_{phase}_{step}"
    assert not (folder / phase / "model.safetensors").exists()
    begun = "phase_1" if step < RECIPE["save_steps"] else phase
    with pytest.raises(ValueError, match=f"{folder.name}/{begun} already contains a run. Pass `--resume`, or another"):
        run(place, "train.py", *flags)
    output = run(place, "train.py", *flags, "--resume")
    assert ("phase 1 is finished" in output) == (phase == "phase_2")
    for name in ("phase_1", "phase_2"):
        assert_same_weights(folder / name, place / "whole" / name)
    scores = [(place / run_name / "phase_2/test_metrics.json").read_text() for run_name in (folder.name, "whole")]
    assert scores[0] == scores[1]


def test_a_finished_run_is_only_scored_again(place, trained):
    before = weights(place / "whole/phase_2")
    file = place / "whole/phase_2/test_metrics.json"
    metrics = file.read_text()
    file.unlink()
    with pytest.raises(ValueError, match="whole/phase_2 already contains a run"):
        run(place, "train.py", "two.yaml", "--output_dir", "whole")
    output = run(place, "train.py", "two.yaml", "--output_dir", "whole", "--resume")
    assert "phase 1 is finished" in output
    assert "phase 2 is finished" in output
    assert "loss" not in output
    assert file.read_text() == metrics
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(place / "whole/phase_2").items())


class Look(TrainerCallback):
    """Keeps what the Trainer was about to run, and stops it before its first update."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.args, self.optimizer, self.model = args, kwargs["optimizer"], kwargs["model"]
        self.num_rows = len(kwargs["train_dataloader"].dataset)
        raise Killed


def look(place: Path, *flags: object) -> Look:
    seen = Look()
    with pytest.raises(Killed):
        run(place, "train.py", *flags, "--output_dir", "looked", callback=seen)
    return seen


def test_the_file_and_the_flags_reach_the_trainer(place):
    write_recipe(
        place / "rates.yaml",
        parameter_groups={"model.language_model": 2e-5, "model.connector": 3e-4},
        caption="all",
        max_steps=5,
    )
    seen = look(place, "rates.yaml", "--max_steps", 7)
    names = {parameter: name for name, parameter in seen.model.named_parameters()}
    rate_of = {names[p]: group["initial_lr"] for group in seen.optimizer.param_groups for p in group["params"]}
    assert rate_of["model.language_model.ln_f.weight"] == 2e-5
    assert rate_of["model.connector.query_tokens"] == 3e-4
    assert rate_of["model.cross_attention.scale"] == RECIPE["learning_rate"]
    assert not any(name.startswith("model.vision_tower") for name in rate_of)
    assert (seen.num_rows, seen.args.max_steps) == (32, 7)
    assert look(place, "rates.yaml", "--caption", "first").num_rows == 16


def test_tokens_are_computed_once_whatever_the_order_of_phases(place, trained):
    """The second run of the same tower on the same images reads the first one's file."""
    files = sorted((place / "cache/vlmkit").glob("*.arrow"))
    assert len(files) >= 3  # one of each split
    run(place, "train.py", "two.yaml", "--output_dir", "whole", "--resume")
    assert sorted((place / "cache/vlmkit").glob("*.arrow")) == files


@pytest.mark.parametrize("dataset", ["coco", "karpathy", "flickr8k", "scenes"])
def test_first_images_of_all_data(place, tmp_path, dataset):
    if dataset in ("coco", "karpathy"):
        year = "2014" if dataset == "karpathy" else "2017"
        coco_folders.write_published(tmp_path, year)
    if dataset == "karpathy":
        coco_folders.write_karpathy(tmp_path)
    write_recipe(
        place / "other.yaml",
        dataset=dataset.replace("karpathy", "coco"),
        data={"flickr8k": "flickr8k", "scenes": None}.get(dataset, str(tmp_path)),
        cache_vision_features=None,
        max_images=3,
        max_steps=1,
        eval_strategy="no",
        max_new_tokens=2,
        num_beams=1,
    )
    output = run(place, "train.py", "other.yaml", "--output_dir", tmp_path / "run")
    held_out = {"coco": 2, "karpathy": 1, "scenes": 3, "flickr8k": 3}[dataset]
    assert f"{held_out} held-out images" in output
    card = (tmp_path / "run/README.md").read_text()
    names = {"flickr8k": "flickr8k", "scenes": "synthetic scenes"}
    assert f"## Training data\n\n{names.get(dataset, tmp_path.name)}\n" in card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--cache_vision_features", "float16", "--freeze_vision", "False"],
            "`--cache_vision_features` requires a frozen vision tower",
        ),
        (["--caption", "last"], "invalid choice: 'last'"),
        (["--fraction", "0.5"], "--fraction"),
        (["--freeze_fraction", "1.5"], "`fraction` must be a number from 0 to 1, but got 1.5"),
        (["--parameter_groups", '{"model.languge_model": 1e-4}'], "Did you mean 'model.language_model'?"),
        (["--dataset", "coco", "--data", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_refused(place, flags, message):
    with pytest.raises((SystemExit, ValueError, OSError)) as raised:
        run(place, "train.py", "one.yaml", "--output_dir", "refused", *flags)
    assert message in str(raised.value)
    assert not list(place.glob("refused/checkpoint-*"))


def test_a_misspelt_setting_of_a_phase(place):
    write_recipe(place / "misspelt.yaml", phases=[{"freeze_fraction": 0.7}, {"freeze_fracton": 0.5}])
    with pytest.raises(ValueError, match=r"The setting 'freeze_fracton' is unknown. Did you mean 'freeze_fraction'"):
        run(place, "train.py", "misspelt.yaml")


@pytest.mark.parametrize("changes", [{"num_query_tokens": 5}, {"max_images": 3}])
def test_a_phase_keeps_model_and_data(place, changes):
    write_recipe(place / "changed.yaml", phases=[PHASES[0], {**PHASES[1], **changes}])
    with pytest.raises(SystemExit, match="All phases must have the same model and data arguments"):
        run(place, "train.py", "changed.yaml", "--output_dir", "refused")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "coco", "data": None}, "`--dataset coco` requires `--data`"),
        ({"dataset": "scenes"}, "`--data` cannot be used with `--dataset scenes`, but got flickr8k"),
        (
            {"dataset": "coco", "data": "annotations.json", "image_folder": "images"},
            "annotations.json must contain a training split and a validation or test split, but got train",
        ),
    ],
)
def test_data_that_cannot_be(place, changes, message):
    coco_folders.write_captions(place / "annotations.json", coco_folders.CAPTIONS["train"])
    if not (place / "images").exists():
        flickr8k_folders.write_images(place / "images", coco_folders.CAPTIONS["train"])
    write_recipe(place / "data.yaml", **changes)
    with pytest.raises(SystemExit, match=message):
        run(place, "train.py", "data.yaml", "--output_dir", "refused")


def test_two_processes_train_what_one_trains(place):
    flags = ["one.yaml", "--dropout", 0, "--eval_strategy", "no"]  # each process draws dropout of its own
    run(place, "train.py", *flags, "--output_dir", "one")
    flags += ["--per_device_train_batch_size", 2, "--output_dir", "two"]
    output = run_two_processes("qformer_captioner/train.py", *flags, cwd=place)
    assert output.count("phase 1 of 1") == 1
    assert output.count("held-out images") == 1
    expected, found = weights(place / "one"), weights(place / "two")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
