"""The data of both stages' scripts: a stream from the web, a captions file, and what does not go together."""

import importlib
import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from datasets import IterableDataset
from tests import tiny
from tests.data.sources import coco_folders, web_shard_folders
from tests.data.sources.web_shard_folders import IDS, sample_files, write_tar
from tests.examples.scripts import importable, run_two_processes
from tests.examples.smolvlm_runs import run, write_easy_vqa, write_models
from torch.utils.data import DataLoader
from transformers import AutoModel

from vlmkit.data import CAPTION_PROMPTS, ChatCollator, build_chat_dataset, evaluation_split

NUM_HELD_OUT = 10  # as many as Recall@10 needs; two of the twelve images are left to train on
WEB = ["--dataset", "web", "--data", "cc3m", "--num_held_out", NUM_HELD_OUT]
STAGE_1 = ["--vision", "vision", "--text", "text", "--use_cpu", "--max_steps", 2, "--per_device_train_batch_size", 2]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_models(folder)
    web_shard_folders.write_tars(folder / "cc3m")
    (folder / "coco").mkdir()
    coco_folders.write_published(folder / "coco")
    write_easy_vqa(folder / "easy_vqa")
    return folder


@pytest.fixture
def chat_data(place, monkeypatch):
    """The module of that name, in the folder of the data."""
    monkeypatch.chdir(place)
    with importable("smolvlm"):
        yield importlib.import_module("chat_data")


def web(chat_data, **options: object) -> dict:
    arguments = chat_data.ChatDataArguments(datasets=["web"], data="cc3m", **{"num_held_out": NUM_HELD_OUT, **options})
    return chat_data.load_chat_tables(arguments)["web"]


def test_the_first_images_of_a_stream_are_held_out(chat_data):
    tables = web(chat_data)
    assert tables["validation"]["image_id"][:] == IDS[:NUM_HELD_OUT]
    assert isinstance(tables["train"], IterableDataset)
    rows = list(tables["train"].take(60))
    assert {row["image_id"] for row in rows} == set(IDS[NUM_HELD_OUT:])
    assert rows[0]["image"].size == tables["validation"][0]["image"].size == (8, 8)
    assert evaluation_split(tables) is tables["validation"]


def test_no_worker_trains_on_them(chat_data):
    stream = web(chat_data, num_held_out=2)["train"]
    batches = islice(DataLoader(stream, batch_size=4, num_workers=2, collate_fn=list), 40)
    assert {row["image_id"] for rows in batches for row in rows} == set(IDS[2:])


def test_a_stream_is_shuffled(chat_data):
    first, second = ([row["image_id"] for row in web(chat_data, num_held_out=1)["train"].take(40)] for _ in range(2))
    assert first == second
    assert first != sorted(first)
    assert first[:20] != first[20:]


def test_a_stream_becomes_one_of_conversations(chat_data):
    chats = list(build_chat_dataset([web(chat_data)["train"]], ["captions"], max_turns=5).take(2))
    request, answer = (message["content"][-1]["text"] for message in chats[0]["messages"])
    assert request in CAPTION_PROMPTS
    assert answer.startswith("shard 2 says")
    batch = ChatCollator(tiny.smolvlm_processor())(chats)
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert (batch["labels"] != -100).any(dim=1).all()
    assert build_chat_dataset([web(chat_data)["train"]], ["questions"], max_turns=5) is None


def test_stage_1_learns_from_a_stream(place):
    printed = run(place, "train_qformer.py", *STAGE_1, *WEB, "--output_dir", "web")
    assert f"{NUM_HELD_OUT} held-out images, {NUM_HELD_OUT} captions" in printed
    assert "'eval_loss'" in printed
    assert "## Training data\n\ncc3m\n" in (place / "web/README.md").read_text()
    state = json.loads((place / "web/checkpoint-2/trainer_state.json").read_text())
    assert state["global_step"] == 2
    assert all(tensor.isfinite().all() for tensor in AutoModel.from_pretrained(place / "web").state_dict().values())


def test_a_resumed_run_goes_on_where_the_stream_was(place):
    flags = [*STAGE_1, *WEB, "--max_steps", 4, "--learning_rate", 1e-3, "--save_total_limit", 3]
    flags += ["--caption", "first", "--eval_strategy", "no", "--save_strategy", "steps", "--save_steps", 2]
    run(place, "train_qformer.py", *flags, "--output_dir", "whole")
    shutil.copytree(place / "whole/checkpoint-2", place / "resumed/checkpoint-2")
    run(place, "train_qformer.py", *flags, "--output_dir", "resumed", "--resume")
    whole, resumed = (AutoModel.from_pretrained(place / name).state_dict() for name in ("whole", "resumed"))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_processes_share_a_stream(place):
    """Of their shards, 2 and 8 images are left to train on: if each was read once, one would wait for the other."""
    for shard, rows in enumerate((12, 8)):
        files = {name: content for row in range(rows) for name, content in sample_files(shard, row).items()}
        write_tar(place / f"uneven/{shard:05}.tar", files)
    flags = [*STAGE_1, *WEB, "--data", "uneven", "--max_steps", 6, "--ddp_timeout", "60", "--output_dir", "two"]
    output = run_two_processes("smolvlm/train_qformer.py", *flags, cwd=place)
    assert output.count("held-out images") == 1
    assert (place / "two/similarity.png").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_steps", -1], "`--max_steps` must be positive for web"),
        (
            ["--cache_vision_features", "float16"],
            "`--cache_vision_features` must be no for web, which is streamed, but got float16",
        ),
        (["--max_images", 3], "`--max_images` is not supported for web, which is streamed, but got 3"),
    ],
)
def test_what_a_stream_cannot_do_is_refused_before_anything_is_loaded(place, flags, message):
    with pytest.raises(SystemExit, match=message):
        run(place, "train_qformer.py", *STAGE_1, *WEB, "--vision", "nowhere", "--output_dir", "refused", *flags)


def test_model_cards_name_the_data(chat_data):
    data_name = importlib.import_module("caption_sources").data_name
    names = [data_name(name, "data/photos") for name in ("coco", "web", "easy_vqa", "scenes")]
    assert names == ["photos", "photos", "easy_vqa", "synthetic scenes"]
    assert data_name("flickr8k", None) == "flickr8k"


def test_a_stream_must_have_more_images_than_are_held_out(chat_data):
    with pytest.raises(SystemExit, match="must be less than the number of valid images in cc3m, 12, but got 12"):
        web(chat_data, num_held_out=12)
    assert len(web(chat_data, num_held_out=11)["validation"]) == 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datasets": ["web", "scenes"], "data": "cc3m"}, "without repetitions, or web alone, but got 'web scenes'"),
        ({"datasets": ["web"]}, "The dataset web requires `--data`. Pass a folder of shards"),
        ({"datasets": ["coco"]}, "The dataset coco requires `--data`. Pass a folder, a hub id or a captions file"),
        (
            {"datasets": ["flickr8k"], "data": "x", "image_folder": "y"},
            "`--image_folder` requires a captions file of coco, but got y for flickr8k",
        ),
        ({"datasets": []}, "must be one or more of coco, flickr8k, easy_vqa, scenes without repetitions"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(chat_data, options, message):
    with pytest.raises(SystemExit, match=message):
        chat_data.load_chat_tables(chat_data.ChatDataArguments(**options))


def captions_file(chat_data):
    file = "coco/annotations/captions_val2017.json"
    return chat_data.ChatDataArguments(datasets=["coco"], data=file, image_folder="coco/val2017")


def test_a_captions_file_is_scored_on(chat_data):
    tables = chat_data.load_chat_tables(captions_file(chat_data), training=False)["coco"]
    whole = chat_data.ChatDataArguments(datasets=["coco"], data="coco")
    published = chat_data.load_chat_tables(whole)["coco"]["validation"]
    scored = evaluation_split(tables)
    assert scored["image_id"][:] == published["image_id"][:]
    assert scored["captions"][:] == published["captions"][:]


def test_a_training_needs_two_splits(chat_data):
    message = "captions_val2017.json must contain a training split and a validation or test split, but got train"
    with pytest.raises(SystemExit, match=message):
        chat_data.load_chat_tables(captions_file(chat_data))


def test_data_sets_are_mixed(chat_data):
    arguments = chat_data.ChatDataArguments(
        datasets=["coco", "easy_vqa"], data="coco", easy_vqa_folder="easy_vqa", max_images=2
    )
    tables = chat_data.load_chat_tables(arguments)
    assert list(tables) == ["coco", "easy_vqa"]
    assert [len(splits["train"]) for splits in tables.values()] == [2, 2]
    chats = build_chat_dataset([splits["train"] for splits in tables.values()], ["captions", "questions"], max_turns=2)
    assert len(chats) == 2 * 2 + 2 * 2  # two captions each; three questions each, at most two in a conversation
