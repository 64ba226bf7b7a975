"""The first stage runs on folders, for a few steps."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tests.data.sources import coco_folders
from tests.examples.smolvlm_runs import (
    CAPTIONS_PER_IMAGE,
    SCRIPTS,
    SPLITS,
    Kill,
    Killed,
    run,
    write_models,
    write_photos,
)
from transformers import AutoModel, AutoProcessor, DistilBertModel, TrainerCallback

from vlmkit import QFormerAligner, QFormerAlignerProcessor
from vlmkit.data import load_flickr8k
from vlmkit.inference import embed_table
from vlmkit.metrics import retrieval_metrics

DATA = ["--dataset", "flickr8k", "--data", "flickr8k"]
TINY = ["--vision", "vision", "--text", "text", *DATA, "--use_cpu", "--disable_tqdm", True]
RATES = ["--learning_rate", 1e-3, "--new_learning_rate", 1e-2]
THREE_EPOCHS = [*TINY, *RATES, "--per_device_train_batch_size", 4, "--num_train_epochs", 3]
WHOLE = [*THREE_EPOCHS, "--cache_vision_features", "float16"]
SHORT = ["--max_steps", 2, "--eval_strategy", "no"]
STEPS_PER_EPOCH = 3
RECALLS = {f"{direction}/recall@{k}" for direction in ("image_to_text", "text_to_image") for k in (1, 5, 10)}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smolvlm")
    write_models(folder)
    write_photos(folder / "flickr8k")
    return folder


@pytest.fixture(scope="module")
def trained(place) -> str:
    """What an uninterrupted run of three epochs prints; it lies in `whole`."""
    return run(place, "train_qformer.py", *WHOLE, "--output_dir", "whole")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_folder_loads_and_holds_what_was_trained(place, trained):
    model, processor = AutoModel.from_pretrained(place / "whole"), AutoProcessor.from_pretrained(place / "whole")
    assert type(model) is QFormerAligner
    assert type(processor) is QFormerAlignerProcessor
    name = "ffn.lin1.weight"
    before = DistilBertModel.from_pretrained(place / "text").transformer.layer[0].get_parameter(name)
    assert not torch.equal(model.qformer.layers[0].feed_forward.mlp.fc1.weight, before)
    assert trained.count("'eval_text_to_image/recall@10'") == 3  # once in each epoch
    assert "'eval_loss'" in trained


def test_scores_and_card(place, trained):
    folder = place / "whole"
    metrics = json.loads((folder / "test_metrics.json").read_text())
    assert metrics.keys() == RECALLS
    images = len(SPLITS["test"])
    assert f"{images} held-out images, {images * CAPTIONS_PER_IMAGE} captions" in trained
    assert f"{'text_to_image/recall@5':40}{metrics['text_to_image/recall@5']:9.1%}{5 / images:9.1%}" in trained
    card = (folder / "README.md").read_text()
    recall = metrics["image_to_text/recall@10"]
    for text in ("pip install vlmkit", f"| image_to_text/recall@10 | {recall:.4g} |", "## Training data\n\nflickr8k\n"):
        assert text in card
    assert str(place) not in card + (folder / "config.json").read_text()


def test_the_scores_are_those_of_the_model_on_the_photographs(place, trained):
    model, processor = AutoModel.from_pretrained(place / "whole"), AutoProcessor.from_pretrained(place / "whole")
    expected = retrieval_metrics(*embed_table(model, processor, load_flickr8k(place / "flickr8k")["test"]))
    metrics = json.loads((place / "whole" / "test_metrics.json").read_text())
    assert metrics == pytest.approx({name: expected[name] for name in RECALLS})


def test_the_similarity_grid_is_an_image(place, trained):
    with Image.open(place / "whole/similarity.png") as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 500
        assert len(image.convert("RGB").getcolors(2**20)) > 100


def kill_and_resume(place: Path, step: int, whole: str, *flags: object) -> Path:
    """The folder of a run that was killed and went on; it ends like the run in the folder `whole`."""
    flags = (*flags, "--output_dir", f"killed_{step}_{whole}")
    with pytest.raises(Killed):
        run(place, "train_qformer.py", *flags, callback=Kill(step))
    folder = place / f"killed_{step}_{whole}"
    assert not (folder / "model.safetensors").exists()
    if step > STEPS_PER_EPOCH:
        with pytest.raises(ValueError, match=f"{folder.name} already contains a run. Pass `--resume`, or another"):
            run(place, "train_qformer.py", *flags)
    run(place, "train_qformer.py", *flags, "--resume")
    return folder


@pytest.mark.parametrize("step", [2, 5], ids=["before the first checkpoint", "in the second epoch"])
def test_a_killed_run_ends_like_one_that_was_not(place, trained, step):
    folder = kill_and_resume(place, step, "whole", *WHOLE)
    assert_same_weights(folder, place / "whole")
    scores = [(path / "test_metrics.json").read_text() for path in (folder, place / "whole")]
    assert scores[0] == scores[1]


def test_a_killed_run_on_augmented_images_too(place):
    flags = [*THREE_EPOCHS, "--augmentation", "--eval_strategy", "no"]
    run(place, "train_qformer.py", *flags, "--output_dir", "augmented")
    assert_same_weights(kill_and_resume(place, 5, "augmented", *flags), place / "augmented")


def test_a_finished_run_is_only_scored_again(place, trained):
    before = weights(place / "whole")
    file = place / "whole/test_metrics.json"
    metrics = file.read_text()
    file.unlink()
    output = run(place, "train_qformer.py", *WHOLE, "--output_dir", "whole", "--resume")
    assert "training is already finished" in output
    assert "loss" not in output
    assert file.read_text() == metrics
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(place / "whole").items())


class Look(TrainerCallback):
    """Keeps what the Trainer was about to run, and stops it before its first update."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.args, self.optimizer, self.model = args, kwargs["optimizer"], kwargs["model"]
        raise Killed


def look(place: Path, *flags: object) -> Look:
    seen = Look()
    with pytest.raises(Killed):
        run(place, "train_qformer.py", *flags, "--output_dir", "looked", callback=seen)
    return seen


def rates(seen: Look) -> dict[str, float]:
    names = {parameter: name for name, parameter in seen.model.named_parameters()}
    return {names[p]: group["initial_lr"] for group in seen.optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize(("recipe", "inherited", "new"), [("code", 1e-5, 1e-4), ("documented", 1e-4, 1e-3)])
def test_the_originals_recipes(place, recipe, inherited, new):
    seen = look(place, SCRIPTS / f"qformer_{recipe}.yaml", *TINY)
    rate_of = rates(seen)
    assert not any(name.startswith("vision_tower") for name in rate_of)
    is_new = {name for name in rate_of if ".image_attention." in name or name == "qformer.query_tokens"}
    assert {name for name, rate in rate_of.items() if rate == new} == is_new
    assert {rate_of[name] for name in rate_of.keys() - is_new} == {inherited}
    assert {group["weight_decay"] for group in seen.optimizer.param_groups} == {0.0}
    assert (seen.args.per_device_train_batch_size, seen.args.num_train_epochs, seen.args.max_grad_norm) == (8, 10, 0)
    assert (seen.args.lr_scheduler_type, seen.args.warmup_steps) == ("constant", 0)
    config = seen.model.config
    assert (config.num_query_tokens, config.temperature, config.learn_temperature) == (32, 0.07, False)


def test_stage_2_goes_on_with_what_the_recipe_of_stage_1_writes():
    stage_1, stage_2 = (yaml.safe_load((SCRIPTS / name).read_text()) for name in ("qformer_code.yaml", "vlm.yaml"))
    assert stage_2["aligner"] == stage_1["output_dir"]
    assert (stage_2["datasets"], stage_2["data"]) == ([stage_1["dataset"]], stage_1["data"])
    assert stage_1["vision"] == "google/vit-base-patch16-224"


def test_all_that_is_new_learns_at_the_rate_of_what_is_new(place):
    flags = ["--matching_loss_weight", 1, "--captioning_loss_weight", 0.5, "--learn_temperature"]
    rate_of = rates(look(place, *TINY, *RATES, *flags))
    for name in ("matching_head.score.weight", "captioning_head.dense.bias", "logit_scale", "qformer.query_tokens"):
        assert rate_of[name] == 1e-2
    assert rate_of["text_embeddings.word_embeddings.weight"] == 1e-3


@pytest.mark.parametrize("recipe", sorted(file.name for file in SCRIPTS.glob("qformer_*.yaml")))
def test_every_recipe_runs(place, recipe):
    flags = [*TINY, *SHORT, "--per_device_train_batch_size", 4, "--output_dir", f"run_{recipe}"]
    run(place, "train_qformer.py", SCRIPTS / recipe, *flags)
    assert json.loads((place / f"run_{recipe}/test_metrics.json").read_text()).keys() == RECALLS


def test_all_losses_and_options_on_augmented_images(place):
    flags = ["--matching_loss_weight", 1, "--captioning_loss_weight", 1, "--learn_temperature", "--augmentation"]
    sizes = ["--num_query_tokens", 5, "--num_cross_attention_heads", 4, "--cross_attention_frequency", 1]
    run(place, "train_qformer.py", *TINY, *SHORT, *flags, *sizes, "--caption", "first", "--output_dir", "options")
    model = AutoModel.from_pretrained(place / "options")
    config = model.config
    assert (config.num_query_tokens, config.num_cross_attention_heads, config.cross_attention_frequency) == (5, 4, 1)
    assert model.matching_head is not None
    assert model.captioning_head is not None
    assert model.logit_scale is not None


def test_drawn_scenes(place):
    flags = ["--vision", "vision", "--text", "text", "--dataset", "scenes", "--max_images", 12, "--use_cpu", *SHORT]
    assert "12 held-out images" in run(place, "train_qformer.py", *flags, "--output_dir", "scenes")
    assert "## Training data\n\nsynthetic scenes\n" in (place / "scenes/README.md").read_text()


def test_coco(place, tmp_path):
    flags = ["--vision", "vision", "--text", "text", "--dataset", "coco", "--use_cpu", *SHORT, "--output_dir", "coco"]
    with pytest.raises(SystemExit, match=r"The dataset coco requires `--data`\. Pass a folder"):
        run(place, "train_qformer.py", *flags)
    coco_folders.write_published(tmp_path, "2017")
    with pytest.raises(
        SystemExit, match="The validation split must contain at least 10 images for Recall@10, but got 2"
    ):
        run(place, "train_qformer.py", *flags, "--data", tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--augmentation", "--cache_vision_features", "float16", "--vision", "nowhere"],
            "`--augmentation` and `--cache_vision_features` cannot be combined",
        ),
        (["--num_cross_attention_heads", 3], "must divide the width 16, but got 3 heads"),
        (["--cross_attention_frequency", 0], "`cross_attention_frequency` must be at least 1, but got 0"),
        (["--temperature", 0], "`temperature` must be positive, but got 0"),
        (["--new_learning_rate", 0], "of 'qformer.query_tokens' must be a positive number, but got 0.0"),
        (["--caption", "last"], "invalid choice: 'last'"),
        (["--data", "nowhere"], "nowhere"),
        (["--dataset", "scenes"], "`--data` must not be set for scenes, but got flickr8k"),
        (["--max_images", 4], "The validation split must contain at least 10 images for Recall@10, but got 4"),
        (["--text", "vision"], "`text` must be a model with a tokenizer, but got"),
    ],
)
def test_what_cannot_be_is_refused(place, flags, message):
    with pytest.raises((SystemExit, ValueError, OSError)) as raised:
        run(place, "train_qformer.py", *TINY, *SHORT, "--output_dir", "refused", *flags)
    assert message in str(raised.value)
    assert not list(place.glob("refused/checkpoint-*"))
