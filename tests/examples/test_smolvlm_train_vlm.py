"""The second stage runs on folders, for a few steps."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.examples import smolvlm_runs
from tests.examples.smolvlm_runs import SCRIPTS, Kill, Killed, run
from tests.local_hub import LocalHub
from tests.subprocesses import run_python
from transformers import AutoModel, AutoProcessor, TrainerCallback

from vlmkit import QFormerAligner, SmolVLM, VlmkitSmolVLMProcessor
from vlmkit.training import load_lora

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's

TINY = ["--aligner", "aligner", "--text", "lm", "--use_cpu", "--disable_tqdm", True, "--lora_rank", 2]
DATA = ["--datasets", "flickr8k", "easy_vqa", "--data", "flickr8k", "--easy_vqa_folder", "easy_vqa"]
# 24 captions, and 8 conversations of at most two questions: 16 updates in two epochs, a checkpoint within each.
STEPS = ["--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2, "--num_train_epochs", 2]
WHOLE = [*TINY, *DATA, *STEPS, "--max_turns", 2, "--save_steps", 3, "--warmup_steps", 2, "--eval_strategy", "epoch"]
SHORT = ["--max_steps", 2, "--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 1]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smolvlm")
    smolvlm_runs.write_photos(folder / "flickr8k")
    smolvlm_runs.write_easy_vqa(folder / "easy_vqa")
    smolvlm_runs.write_first_stage(folder)
    return folder


@pytest.fixture(scope="module")
def trained(place) -> str:
    """What an uninterrupted run of two epochs prints; it lies in `whole`."""
    return run(place, "train_vlm.py", *WHOLE, "--output_dir", "whole")


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def assert_same_adapter(one: Path, other: Path) -> None:
    expected, found = adapter(one), adapter(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_base_adapter_and_merged_model_load(place, trained):
    base = SmolVLM.from_pretrained(place / "whole/base")
    merged, report = AutoModel.from_pretrained(place / "whole/merged", output_loading_info=True)
    assert not any(report.values()), report
    assert type(AutoProcessor.from_pretrained(place / "whole/merged")) is VlmkitSmolVLMProcessor
    adapted = load_lora(base, place / "whole").merge_and_unload()
    torch.testing.assert_close(merged.state_dict(), adapted.state_dict(), rtol=1e-6, atol=1e-6)


def test_the_base_is_stage_1_before_the_language_model(place, trained):
    base, aligner = SmolVLM.from_pretrained(place / "whole/base"), AutoModel.from_pretrained(place / "aligner")
    torch.testing.assert_close(base.model.connector.qformer.state_dict(), aligner.qformer.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(base.model.vision_tower.state_dict(), aligner.vision_tower.state_dict(), rtol=0, atol=0)


def test_what_is_trained(place, trained):
    """Q-Former, adapter, and LoRA of every layer; nothing else."""
    base = SmolVLM.from_pretrained(place / "whole/base").state_dict()
    merged = SmolVLM.from_pretrained(place / "whole/merged").state_dict()
    changed = {name for name, weight in merged.items() if not torch.equal(weight, base[name])}
    assert {name for name in merged if name.startswith("model.connector.")} <= changed
    layers = {name for name in merged if name.startswith("model.language_model.layers.") and "_proj" in name}
    assert {name for name in changed if not name.startswith("model.connector.")} == layers


def test_what_is_printed_and_written(place, trained):
    assert trained.count("'eval_loss'") == 2  # on the captions: easy-VQA has no validation split
    assert trained.count("flickr8k: ") == 4
    assert trained.count("easy_vqa: ") == 4
    card = (place / "whole/merged/README.md").read_text()
    assert "## Training data\n\nflickr8k, easy_vqa\n" in card
    assert 'pipeline("image-text-to-text"' in card
    assert str(place) not in card + (place / "whole/merged/config.json").read_text()


@pytest.mark.parametrize("step", [2, 4, 14], ids=["before the first checkpoint", "within an epoch", "near the end"])
def test_a_killed_run_ends_like_one_that_was_not(place, trained, step):
    flags, folder = [*WHOLE, "--output_dir", f"killed_{step}"], place / f"killed_{step}"
    with pytest.raises(Killed):
        run(place, "train_vlm.py", *flags, callback=Kill(step))
    assert not (folder / "merged").exists()
    if step > 3:
        with pytest.raises(ValueError, match=f"killed_{step} already contains a run. Pass `--resume`, or another"):
            run(place, "train_vlm.py", *flags)
    run(place, "train_vlm.py", *flags, "--resume")
    assert_same_adapter(folder, place / "whole")


def test_a_killed_run_with_dora_and_images_instead_of_tokens(place):
    flags = [*TINY, "--datasets", "flickr8k", "--data", "flickr8k", *STEPS, "--save_steps", 3, "--use_dora"]
    flags += ["--cache_vision_features", "no"]
    run(place, "train_vlm.py", *flags, "--output_dir", "dora")
    assert any("magnitude" in name for name in adapter(place / "dora"))
    with pytest.raises(Killed):
        run(place, "train_vlm.py", *flags, "--output_dir", "dora_killed", callback=Kill(5))
    run(place, "train_vlm.py", *flags, "--output_dir", "dora_killed", "--resume")
    assert_same_adapter(place / "dora_killed", place / "dora")


def test_a_finished_run_is_only_merged_again(place, trained):
    weights = place / "whole/merged/model.safetensors"
    before = load_file(weights)
    output = run(place, "train_vlm.py", *WHOLE, "--output_dir", "whole", "--resume")
    assert "training is already finished" in output
    assert "'loss'" not in output
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(weights).items())


class Look(TrainerCallback):
    """Keeps what the Trainer was about to run, and stops it before its first update."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.args, self.optimizer, self.model = args, kwargs["optimizer"], kwargs["model"]
        self.rows = len(kwargs["train_dataloader"].dataset)
        raise Killed


def look(place: Path, *flags: object) -> Look:
    seen = Look()
    with pytest.raises(Killed):
        run(place, "train_vlm.py", *flags, "--output_dir", "looked", callback=seen)
    return seen


def test_the_originals_recipe(place):
    own = ["--aligner", "aligner", "--text", "lm", "--use_cpu", "--bf16", False]
    seen = look(place, SCRIPTS / "vlm.yaml", *own, "--datasets", "flickr8k", "--data", "flickr8k")
    args = seen.args
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (8, 4)
    assert (args.lr_scheduler_type, args.warmup_steps, args.max_grad_norm) == ("cosine", 100, 1.0)
    assert (args.num_train_epochs, args.weight_decay) == (5, 0.01)
    [lora] = seen.model.peft_config.values()
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (64, 128, 0.1)
    names = {parameter: name for name, parameter in seen.model.named_parameters()}
    rates = {names[p]: group["initial_lr"] for group in seen.optimizer.param_groups for p in group["params"]}
    qformer = {name for name in rates if ".qformer." in name or ".vision_projection." in name}
    assert {rates[name] for name in qformer} == {1e-4}
    assert {rates[name] for name in rates.keys() - qformer} == {5e-4}
    assert any(".mlp." in name for name in rates.keys() - qformer)


@pytest.mark.parametrize("recipe", sorted(file.name for file in SCRIPTS.glob("vlm*.yaml")))
def test_every_recipe_runs(place, recipe):
    flags = [*TINY, *DATA, *SHORT, "--bf16", False, "--max_images", 3, "--tasks", "captions", "questions"]
    run(place, "train_vlm.py", SCRIPTS / recipe, *flags, "--output_dir", f"run_{recipe}")
    assert (place / f"run_{recipe}/merged/model.safetensors").is_file()


@pytest.mark.parametrize(("tasks", "rows"), [(["captions"], 24), (["questions"], 8), (["captions", "questions"], 32)])
def test_tasks(place, tasks, rows):
    assert look(place, *TINY, *DATA, "--max_turns", 2, "--tasks", *tasks).rows == rows


def test_drawn_scenes(place):
    printed = run(place, "train_vlm.py", *TINY, *SHORT, "--datasets", "scenes", "--max_images", 4, "--output_dir", "s")
    assert printed.count("scenes: ") == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--datasets", "flickr8k", "imagenet"],
            "must be one or more of coco, flickr8k, easy_vqa, scenes without repetitions",
        ),
        (["--datasets", "scenes", "scenes"], "without repetitions"),
        (["--datasets", "coco", "flickr8k"], "`--data` can contain only one dataset, but got coco and flickr8k"),
        (["--datasets", "scenes"], "`--data` must not be set for scenes, but got flickr8k"),
        (["--datasets", "easy_vqa"], "`--data` must not be set for easy_vqa, but got flickr8k"),
        (["--tasks", "chess"], "`--tasks` must be captions, questions or both, but got 'chess'"),
        (
            ["--datasets", "flickr8k", "--tasks", "questions"],
            "At least one dataset must contain questions, but got flickr8k",
        ),
        (["--aligner", "lm"], "`model_type` must be 'vlmkit_qformer_aligner', but got 'llama'"),
        (["--aligner", "nowhere"], "couldn't find them"),
        (["--text", "vision"], "tokenizer"),
        (["--lora_rank", 0], "`rank` must be at least 1, but got 0"),
        (["--qformer_learning_rate", 0], "The learning rate of"),
        (["--cache_vision_features", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_what_cannot_be_is_refused(place, flags, message):
    with pytest.raises((SystemExit, ValueError, OSError)) as raised:
        run(place, "train_vlm.py", *TINY, *SHORT, *DATA, "--output_dir", f"refused_{len(message)}", *flags)
    assert message in str(raised.value)


def test_a_validation_loss_without_a_validation_split_is_refused(place):
    flags = ["--datasets", "easy_vqa", "--easy_vqa_folder", "easy_vqa", "--eval_strategy", "epoch"]
    with pytest.raises(SystemExit, match="`--eval_strategy` requires a validation split, but got easy_vqa without one"):
        run(place, "train_vlm.py", *TINY, *SHORT, *flags, "--output_dir", "no_validation")


def test_two_machines_train_and_merge_once(place):
    """Both processes are the first of their machine, and only one of them writes the base, which the other reads."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = {**os.environ, **world, "HF_DATASETS_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    flags = [*TINY, *DATA, *SHORT, "--ddp_backend", "gloo", "--output_dir", "two"]
    command = [sys.executable, str(SCRIPTS / "train_vlm.py"), *map(str, flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    machines = [subprocess.Popen(command, cwd=place, env={**environment, "RANK": rank}, **pipes) for rank in ("0", "1")]
    printed = [machine.communicate()[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(text[-4000:] for text in printed)
    assert [text.count("merged model: two/merged") for text in printed] == [1, 0]
    assert (place / "two/merged/model.safetensors").is_file()


def test_another_run_does_not_start_from_the_base_of_a_killed_one(place, tmp_path):
    flags = [*TINY, *SHORT, "--datasets", "flickr8k", "--data", "flickr8k", "--output_dir", "other"]
    with pytest.raises(Killed):
        run(place, "train_vlm.py", *flags, callback=Kill(1))
    aligner = QFormerAligner.from_pretrained(place / "aligner")
    torch.nn.init.ones_(aligner.qformer.query_tokens)
    aligner.save_pretrained(tmp_path)
    VlmkitSmolVLMProcessor.from_pretrained(place / "other/base").image_processor.save_pretrained(tmp_path)
    run(place, "train_vlm.py", *flags, "--aligner", tmp_path)
    assert (SmolVLM.from_pretrained(place / "other/base").model.connector.qformer.query_tokens == 1).all()
    assert not (place / "other/base.part").exists()


def test_what_is_pushed_is_the_merged_model_alone(place, tmp_path):
    models = ["--aligner", place / "aligner", "--text", place / "lm", "--lora_rank", 2, "--use_cpu", "--max_images", 3]
    data = ["--datasets", "easy_vqa", "--easy_vqa_folder", place / "easy_vqa"]
    with LocalHub() as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_dummy", "HF_HOME": str(tmp_path / "home")}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        flags = [*models, *data, *SHORT, "--push_to_hub", "--hub_model_id", "me/vlm", "--output_dir", tmp_path / "run"]
        run_python(SCRIPTS / "train_vlm.py", *flags, **environment)
    assert hub.repositories.keys() == {"me/vlm"}
    pushed = tmp_path / "pushed"
    pushed.mkdir()
    for name, content in hub.repositories["me/vlm"].items():
        (pushed / name).write_bytes(content)
    assert not list(pushed.glob("adapter*"))
    assert 'pipeline("image-text-to-text", model="me/vlm")' in (pushed / "README.md").read_text()
    loaded, merged = AutoModel.from_pretrained(pushed), AutoModel.from_pretrained(tmp_path / "run/merged")
    torch.testing.assert_close(loaded.state_dict(), merged.state_dict(), rtol=0, atol=0)
    assert type(AutoProcessor.from_pretrained(pushed)) is VlmkitSmolVLMProcessor
