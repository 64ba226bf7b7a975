"""The schedule of three phases runs on folders, for a step or two each."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests import tiny
from tests.examples import smolvlm_runs, what_matters_runs
from tests.examples.smolvlm_runs import Killed
from tests.examples.what_matters_runs import SCRIPTS
from tests.local_hub import LocalHub
from tests.subprocesses import run_python
from transformers import AutoModel, AutoProcessor, LlamaForCausalLM, TrainerCallback, ViTModel

from vlmkit import SmolVLM, VlmkitSmolVLMProcessor, data
from vlmkit.data import CAPTION_PROMPTS, load_flickr8k, user_message
from vlmkit.inference import reply_to_chats

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's

RECIPE = {
    "vision": "vision",
    "text": "lm",
    "num_query_tokens": 3,
    "perceiver_depth": 1,
    "cross_layer_interval": 1,
    "lora_rank": 2,
    "datasets": ["flickr8k", "easy_vqa"],
    "data": "flickr8k",
    "easy_vqa_folder": "easy_vqa",
    "per_device_train_batch_size": 2,
    "max_steps": 2,
    "save_steps": 1,
    "learning_rate": 1.0e-2,
    "use_cpu": True,
    "disable_tqdm": True,
}
LOW = {"size": {"height": 32, "width": 32}, "tasks": ["captions"], "per_device_train_batch_size": 4, "max_steps": 1}
HIGH = {"size": {"longest_edge": 48}, "do_image_splitting": True}
PHASES = [LOW, {**HIGH, "tasks": ["captions"]}, {**HIGH, "vision_mode": "dora", "text_mode": "dora", "max_turns": 2}]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("what_matters")
    smolvlm_runs.write_photos(folder / "flickr8k")
    smolvlm_runs.write_easy_vqa(folder / "easy_vqa")
    torch.manual_seed(0)
    ViTModel(tiny.vision_config(), add_pooling_layer=False).save_pretrained(folder / "vision")
    tiny.image_processor().save_pretrained(folder / "vision")
    LlamaForCausalLM(
        tiny.llama_config(**tiny.CHAT_TOKENS, tie_word_embeddings=True, max_position_embeddings=512)
    ).save_pretrained(folder / "lm")
    tiny.chat_tokenizer().save_pretrained(folder / "lm")
    write_recipe(folder / "three.yaml", phases=PHASES)
    return folder


@pytest.fixture(scope="module")
def trained(place) -> str:
    """What an uninterrupted run of three phases prints; it lies in `whole`."""
    return run(place, "three.yaml", "--output_dir", "whole")


def write_recipe(path: Path, **changes: object) -> None:
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))


def run(place: Path, *flags: object, callback: TrainerCallback | None = None) -> str:
    return what_matters_runs.run(place, "train.py", *flags, callback=callback)


class Kill(TrainerCallback):
    """Stops a run at once, after an update of a phase or before its first one, and keeps what it saw."""

    def __init__(self, phase: str, step: int):
        self.phase, self.step, self.begun = phase, step, []

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun.append(Path(args.output_dir).name)
        self.args, self.model = args, kwargs["model"]

    def on_step_begin(self, args, state, control, **kwargs):
        if (Path(args.output_dir).name, state.global_step) == (self.phase, self.step):
            raise Killed


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def changed_parts(one: Path, other: Path) -> set[str]:
    before, after = weights(one), weights(other)
    assert before.keys() == after.keys()
    return {name.split(".")[1] for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def test_every_phase_leaves_an_ordinary_model_with_its_images_processor(place, trained):
    assert [f"phase {number} of 3" in trained for number in (1, 2, 3)] == [True] * 3
    for number, split in ((1, False), (2, True), (3, True)):
        folder = place / f"whole/phase_{number}"
        model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert type(model) is SmolVLM
        assert not any(report.values()), report
        processor = AutoProcessor.from_pretrained(folder)
        assert type(processor) is VlmkitSmolVLMProcessor
        assert processor.image_processor.do_image_splitting is split
        assert processor.image_processor.size_divisor == 16
    assert dict(processor.image_processor.size) == {"longest_edge": 48}
    assert not list(folder.glob("adapter*"))


def test_each_phase_trains_both_backbones_from_where_the_one_before_ended(place, trained):
    first, second, third = (place / f"whole/phase_{number}" for number in (1, 2, 3))
    all_parts = {"connector", "language_model", "vision_tower"}
    assert changed_parts(first, second) == changed_parts(second, third) == all_parts
    original = LlamaForCausalLM.from_pretrained(place / "lm").state_dict()
    embeddings = "embed_tokens.weight"
    table = weights(third)[f"model.language_model.{embeddings}"]
    torch.testing.assert_close(table, original[f"model.{embeddings}"], rtol=0, atol=0)
    kinds = [
        json.loads(next(folder.glob("checkpoint-*/adapter_config.json")).read_text())["use_dora"]
        for folder in (first, second, third)
    ]
    assert kinds == [False, False, True]


def test_the_last_model_answers_about_split_images(place, trained):
    folder = place / "whole/phase_3"
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    [reply] = reply_to_chats(
        model, processor, [{"messages": [tiny.turn("user", "is this a dog", tiny.photo())]}], max_new_tokens=4
    )
    assert isinstance(reply, str)
    prompt = processor(images=[tiny.photo()], text=["<image> a dog"], return_tensors="pt")
    assert prompt["pixel_values"].shape[0] == 5
    assert (prompt["input_ids"] == processor.image_token_id).sum() == 5 * 3


def test_a_model_of_images_of_many_sizes_and_views_can_be_scored(place, trained):
    flags = ["--datasets", "flickr8k", "--data", "flickr8k", "--max_images", 4, "--max_new_tokens", 4]
    printed = smolvlm_runs.run(place, "evaluate.py", "--model", "whole/phase_3", *flags, "--output_dir", "scores")
    assert "4 images " in printed
    with open(place / "scores/flickr8k_captions.csv", encoding="utf-8", newline="") as stream:
        written = list(csv.DictReader(stream))
    images = load_flickr8k(place / "flickr8k")["test"]["image"][:4]
    model, processor = (kind.from_pretrained(place / "whole/phase_3") for kind in (AutoModel, AutoProcessor))
    for name, shown in (("model", images), ("shuffled images", [*images[1:], images[0]])):
        asked = [{"messages": [user_message(CAPTION_PROMPTS[0], image=image)]} for image in shown]
        replies = reply_to_chats(model, processor, asked, max_new_tokens=4, do_sample=False)
        assert [row[name] for row in written] == replies


def test_photographs_are_loaded_once_for_all_phases(place, monkeypatch):
    loaded, load = [], load_flickr8k
    monkeypatch.setattr(data, "load_flickr8k", lambda *args, **kwargs: loaded.append(args) or load(*args, **kwargs))
    short = {"datasets": ["flickr8k"], "max_steps": 1, "tasks": ["captions"], "vision_mode": "frozen"}
    write_recipe(place / "once.yaml", **short, phases=[LOW, LOW])
    printed = run(place, "once.yaml", "--output_dir", "once")
    assert printed.count("flickr8k: ") == 4
    assert loaded == [("flickr8k",)]


def test_what_is_printed_and_written(place, trained):
    assert trained.count("flickr8k: ") == trained.count("easy_vqa: ") == 4
    assert trained.count("final model: ") == 1
    assert "final model: whole/phase_3" in trained
    card = (place / "whole/phase_3/README.md").read_text()
    assert "## Training data\n\nflickr8k, easy_vqa\n" in card
    assert str(place) not in card + (place / "whole/phase_3/config.json").read_text()


@pytest.mark.parametrize(("phase", "step", "again"), [("phase_2", 0, [2, 3]), ("phase_3", 1, [3])])
def test_a_killed_run_ends_like_one_that_was_not(place, trained, phase, step, again):
    flags, folder = ["three.yaml", "--output_dir", f"killed_{phase}"], place / f"killed_{phase}"
    with pytest.raises(Killed):
        run(place, *flags, callback=Kill(phase, step))
    assert not (folder / phase / "model.safetensors").exists()
    with pytest.raises(
        ValueError, match=rf"killed_{phase}/phase_. already contains a run. Pass `--resume`, or another"
    ):
        run(place, *flags)
    seen = Kill("none", 0)
    printed = run(place, *flags, "--resume", callback=seen)
    assert seen.begun == [f"phase_{number}" for number in again]
    assert "phase 1 is finished" in printed
    expected, found = weights(place / "whole/phase_3"), weights(folder / "phase_3")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_phase_that_diverges_ends_the_run_and_keeps_the_one_before(place):
    diverging = {**HIGH, "learning_rate": 1.0e30, "max_steps": 20, "save_steps": 100, "logging_steps": 1}
    write_recipe(place / "diverging.yaml", phases=[LOW, {**diverging, "tasks": ["captions"]}, PHASES[2]])
    message = r"Phase 2 diverged at step \d+ \(.*\)\. The model of the previous phase is in diverging/phase_1\. Delete"
    with pytest.raises(SystemExit, match=message):
        run(place, "diverging.yaml", "--output_dir", "diverging")
    record = json.loads((place / "diverging/phase_2/divergence.json").read_text())
    assert 1 <= record["step"] < 20
    assert "loss" in record["reason"] or "grad_norm" in record["reason"]
    assert AutoModel.from_pretrained(place / "diverging/phase_1").dtype == torch.float32
    assert not (place / "diverging/phase_2/model.safetensors").exists()
    assert not (place / "diverging/phase_3").exists()
    with pytest.raises(SystemExit, match=message):
        run(place, "diverging.yaml", "--output_dir", "diverging", "--resume")


@pytest.mark.parametrize(
    ("design", "num_image_tokens"),
    [
        ({"connector": "mlp", "fusion": "cross_attention", "size": {"longest_edge": 48}}, 1),
        (
            {"connector": "pixel_shuffle", "size": {"longest_edge": 64}, "text_mode": "full", "vision_mode": "frozen"},
            None,
        ),
    ],
    ids=["cross_attention", "pixel_shuffle"],
)
def test_other_designs(place, design, num_image_tokens):
    name = design["connector"]
    write_recipe(place / f"{name}.yaml", **design, datasets=["detailed_scenes"], data=None, max_images=2, max_steps=1)
    printed = run(place, f"{name}.yaml", "--output_dir", name)  # one phase, in the folder itself
    assert printed.count("detailed_scenes: ") == 4
    config, processor = SmolVLM.from_pretrained(place / name).config, AutoProcessor.from_pretrained(place / name)
    assert (config.connector, config.fusion) == (name, design.get("fusion", "autoregressive"))
    assert processor.num_image_tokens == num_image_tokens
    assert processor.image_processor.size_divisor == (32 if name == "pixel_shuffle" else 16)


@pytest.mark.parametrize("recipe", ["schedule.yaml", "schedule_cpu.yaml"])
def test_every_recipe_begins_low_and_ends_split_with_dora(place, recipe):
    """Its phases are what they say, and the first one gets to its first step on small models with patches of 14."""
    settings = yaml.safe_load((SCRIPTS / recipe).read_text())
    low, high, instructions = settings["phases"]
    assert max(low["size"].values()) < max(high["size"].values())
    batches = [phase["per_device_train_batch_size"] * phase.get("gradient_accumulation_steps", 1)
               for phase in (low, high)]  # fmt: skip
    assert batches[0] > batches[1]
    assert [phase["do_image_splitting"] for phase in settings["phases"]] == [False, True, True]
    assert [phase["text_mode"] for phase in settings["phases"]] == ["lora", "lora", "dora"]
    assert "questions" in instructions["tasks"]
    patch = 14 if recipe == "schedule.yaml" else 32
    vision = place / f"patch_{patch}"
    ViTModel(tiny.vision_config(patch_size=patch, image_size=378), add_pooling_layer=False).save_pretrained(vision)
    tiny.image_processor().save_pretrained(vision)
    own = ["--vision", vision, "--text", "lm", "--num_query_tokens", 2, "--lora_rank", 2, "--use_cpu", "--bf16", False]
    data = ["--datasets", "flickr8k", "--data", "flickr8k", "--tasks", "captions", "--dataloader_num_workers", 0]
    small = ["--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 1, "--output_dir", f"of_{recipe}"]
    seen = Kill("phase_1", 0)
    with pytest.raises(Killed):
        run(place, SCRIPTS / recipe, *own, *data, *small, callback=seen)
    assert seen.begun == ["phase_1"]
    assert seen.model.config.connector == "perceiver"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"phases": [LOW, {"size": {"longest_edge": 50}}]},
            "`longest_edge` of `size` must be a multiple of `size_divisor` 16, but got 50",
        ),
        ({"phases": [LOW, {"size": {"shortest": 48}}]}, "`size` must have the keys longest_edge, "),
        ({"size": "large"}, "`--size` must be JSON such as"),
        ({"phases": [LOW, {"connector": "mlp"}]}, "All phases must have the same model arguments"),
        ({"phases": [LOW, {"tasks": ["chess"]}]}, "`--tasks` must be captions, questions or both, but got 'chess'"),
        (
            {"phases": [LOW, {"datasets": ["imagenet"]}]},
            "must be one or more of coco, flickr8k, easy_vqa, scenes, detailed_scenes without repetitions",
        ),
        ({"datasets": ["scenes", "scenes"]}, "without repetitions"),
        ({"datasets": ["coco", "flickr8k"]}, "`--data` can contain only one dataset, but got coco and flickr8k"),
        ({"datasets": ["easy_vqa"]}, "`--data` must not be set for easy_vqa, but got flickr8k"),
        ({"datasets": ["coco"], "data": None}, "The dataset coco requires `--data`"),
        ({"image_folder": "images"}, "`--image_folder` requires a captions file of coco, but got images"),
        (
            {"datasets": ["flickr8k"], "tasks": ["questions"]},
            "At least one dataset must contain questions, but got flickr8k",
        ),
        ({"push_to_hub": True}, "`--push_to_hub` requires `--hub_model_id`"),
        ({"num_query_tokens": 0}, "`num_query_tokens` must be at least 1, but got 0"),
        ({"text_mode": "dora"}, "must use the same kind of adapter"),
        ({"text_mode": "half"}, "invalid choice: 'half'"),
        ({"resolution": 384}, "The setting 'resolution' is unknown"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(place, changes, message):
    write_recipe(place / "refused.yaml", **changes)
    seen = Kill("none", 0)
    with pytest.raises((SystemExit, ValueError)) as raised:
        run(place, "refused.yaml", "--output_dir", "refused", callback=seen)
    assert message in str(raised.value)
    assert not seen.begun


def test_what_is_pushed_is_the_last_model_alone(place, tmp_path):
    paths = {name: str(place / RECIPE[name]) for name in ("vision", "text", "data", "easy_vqa_folder")}
    write_recipe(tmp_path / "push.yaml", **paths, phases=[LOW, {**HIGH, "max_steps": 1}])
    flags = ["--push_to_hub", "--hub_model_id", "me/vlm", "--output_dir", tmp_path / "run"]
    with LocalHub() as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_dummy", "HF_HOME": str(tmp_path / "home")}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        run_python(SCRIPTS / "train.py", tmp_path / "push.yaml", *flags, **environment)
    assert hub.repositories.keys() == {"me/vlm"}
    files = hub.repositories["me/vlm"]
    assert files["model.safetensors"] == (tmp_path / "run/phase_2/model.safetensors").read_bytes()
    assert json.loads(files["processor_config.json"])["image_processor"]["do_image_splitting"] is True
    assert not [name for name in files if name.startswith(("adapter", "checkpoint"))]
    assert 'pipeline("image-text-to-text", model="me/vlm")' in files["README.md"].decode()
