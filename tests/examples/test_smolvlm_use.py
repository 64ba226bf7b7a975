"""What is done with a model of either stage: scored, asked about files, talked to."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests import tiny
from tests.examples import smolvlm_runs
from tests.examples.smolvlm_runs import CAPTIONS_PER_IMAGE, SPLITS, run
from transformers import AutoModel, AutoProcessor

from vlmkit import SmolVLM, VlmkitSmolVLMProcessor
from vlmkit.data import load_easy_vqa, load_flickr8k, user_message
from vlmkit.inference import embed_table, reply_to_chats
from vlmkit.metrics import caption_metrics, retrieval_metrics, vqa_accuracy
from vlmkit.modules.vision_tower import VisionTower

DATA = ["--datasets", "flickr8k", "easy_vqa", "--data", "flickr8k", "--easy_vqa_folder", "easy_vqa"]
CONDITIONS = ["model", "shuffled images", "no image"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model of each stage, untrained, with weights so large that images matter; photographs; drawings."""
    folder = tmp_path_factory.mktemp("smolvlm")
    smolvlm_runs.write_photos(folder / "flickr8k")
    smolvlm_runs.write_easy_vqa(folder / "easy_vqa")
    smolvlm_runs.write_first_stage(folder)
    processor = VlmkitSmolVLMProcessor.from_aligner_text_pretrained(folder / "aligner", folder / "lm")
    processor.save_pretrained(folder / "model")
    torch.manual_seed(0)
    text = tiny.llama_config(**tiny.CHAT_TOKENS, initializer_range=0.7)
    config = tiny.smolvlm_config(text_config=text, vision_config=tiny.vision_config(initializer_range=0.5))
    SmolVLM(config).save_pretrained(folder / "model")
    (folder / "photos").mkdir()
    for seed in range(3):
        tiny.photo(seed=seed).save(folder / "photos" / f"{seed}.png")
    (folder / "photos" / "broken.png").write_bytes(b"no image")
    (folder / "photos" / "notes.txt").write_text("no image either")
    return folder


@pytest.fixture(scope="module")
def evaluated(place) -> str:
    flags = ["--model", "model", *DATA, "--max_new_tokens", 4, "--output_dir", "evaluation"]
    return run(place, "evaluate.py", *flags)


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_scores_of_stage_2_are_those_of_the_predictions(place, evaluated):
    metrics = json.loads((place / "evaluation/metrics.json").read_text())
    assert metrics.keys() == {"flickr8k/captions", "easy_vqa/questions"}
    captions, answers = (rows(place / f"evaluation/{name}.csv") for name in ("flickr8k_captions", "easy_vqa_answers"))
    table = load_flickr8k(place / "flickr8k")["test"]
    assert [row["image_id"] for row in captions] == table["image_id"][:]
    for name in CONDITIONS:
        expected = caption_metrics([row[name] for row in captions], table["captions"][:])
        assert metrics["flickr8k/captions"][name] == pytest.approx(expected)
    for name in [*CONDITIONS, "majority", "per_question"]:
        expected = vqa_accuracy([row[name] for row in answers], [row["answer"] for row in answers])
        assert metrics["easy_vqa/questions"][name] == pytest.approx(expected)
        assert f"{name:26}{expected['accuracy']:9.1%}" in evaluated


def test_each_condition_shows_what_it_says(place, evaluated):
    model, processor = AutoModel.from_pretrained(place / "model"), AutoProcessor.from_pretrained(place / "model")
    table = load_easy_vqa(place / "easy_vqa")["test"]
    images, options = table["image"][:], {"max_new_tokens": 4, "do_sample": False}
    asked = [(row, question) for row, questions in enumerate(table["questions"]) for question in questions]
    shown = {
        "model": [user_message(question, image=images[row]) for row, question in asked],
        "shuffled images": [user_message(question, image=images[1 - row]) for row, question in asked],
        "no image": [user_message(question, has_image=False) for _, question in asked],
    }
    written = rows(place / "evaluation/easy_vqa_answers.csv")
    for name, messages in shown.items():
        expected = reply_to_chats(model, processor, [{"messages": [message]} for message in messages], **options)
        assert [row[name] for row in written] == expected
    assert len({tuple(row[name] for row in written) for name in CONDITIONS}) == 3  # the images do matter


def test_some_questions_are_answered_as_among_all(place, evaluated):
    flags = ["--model", "model", *DATA, "--tasks", "questions", "--max_new_tokens", 4, "--max_questions", 4]
    run(place, "evaluate.py", *flags, "--output_dir", "some")
    some, every = (rows(place / f"{folder}/easy_vqa_answers.csv") for folder in ("some", "evaluation"))
    assert len(some) == 4
    assert len(every) == 6
    assert [row for row in every if row in some] == some


def test_scores_of_stage_1(place):
    printed = run(place, "evaluate.py", "--model", "aligner", *DATA, "--output_dir", "stage_1")
    metrics = json.loads((place / "stage_1/metrics.json").read_text())
    model, processor = AutoModel.from_pretrained(place / "aligner"), AutoProcessor.from_pretrained(place / "aligner")
    expected = retrieval_metrics(*embed_table(model, processor, load_flickr8k(place / "flickr8k")["test"]))
    assert metrics["flickr8k/retrieval"] == pytest.approx(
        {name: expected[name] for name in expected if "recall" in name}
    )
    images = len(SPLITS["test"])
    assert f"{images} held-out images, {images * CAPTIONS_PER_IMAGE} captions" in printed


def test_there_must_be_something_to_score(place):
    flags = ["--datasets", "flickr8k", "--data", "flickr8k", "--tasks", "questions", "--output_dir", "nothing"]
    with pytest.raises(SystemExit, match="At least one dataset must contain questions, but got flickr8k"):
        run(place, "evaluate.py", "--model", "model", *flags)


def test_captions_of_files(place):
    flags = ["--images", "photos", "--max_new_tokens", 5, "--output_dir", "captions", "--batch_size", 2]
    printed = run(place, "generate.py", "--model", "model", *flags)
    assert "skipped photos/broken.png: UnidentifiedImageError" in printed
    assert "3 captioned, 1 skipped: captions" in printed
    written = rows(place / "captions/captions.csv")
    assert [row["image"] for row in written] == [f"photos/{seed}.png" for seed in range(3)]
    assert len({row["caption"] for row in written}) > 1
    with Image.open(place / "captions/collage.png") as image:
        image.load()
        assert min(image.size) > 200


def test_a_question_about_files(place):
    flags = ["--images", "photos/0.png", "photos/1.png", "--max_new_tokens", 5, "--prompt", "is this a dog"]
    run(place, "generate.py", "--model", "model", *flags, "--num_beams", 2, "--output_dir", "asked")
    model, processor = AutoModel.from_pretrained(place / "model"), AutoProcessor.from_pretrained(place / "model")
    chats = [
        {"messages": [user_message("is this a dog", image=str(place / f"photos/{seed}.png"))]} for seed in range(2)
    ]
    expected = reply_to_chats(model, processor, chats, num_beams=2, do_sample=False, max_new_tokens=5)
    assert [row["caption"] for row in rows(place / "asked/captions.csv")] == expected


def test_images_that_are_not_there_are_refused(place):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist. Pass image files or folders."):
        run(place, "generate.py", "--model", "model", "--images", "nowhere")


def talk(place: Path, monkeypatch: pytest.MonkeyPatch, text: str, *flags: object) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return run(place, "chat.py", "--model", "model", "--max_new_tokens", 6, *flags)


def test_a_chat_remembers_and_encodes_every_image_once(place, monkeypatch):
    encoded, forward = [], VisionTower.forward

    def counted(tower, pixel_values, **kwargs):
        encoded.append(len(pixel_values))
        return forward(tower, pixel_values, **kwargs)

    monkeypatch.setattr(VisionTower, "forward", counted)
    lines = "is this a dog\n/image photos/1.png\nand this\nthe tree\n"
    printed = talk(place, monkeypatch, lines, "--images", "photos/0.png")
    assert encoded == [1, 1]
    answers = [line.rpartition("SmolVLM: ")[2].strip() for line in printed.splitlines() if "SmolVLM: " in line]

    model, processor = AutoModel.from_pretrained(place / "model"), AutoProcessor.from_pretrained(place / "model")
    messages: list[dict] = []
    asked = [("is this a dog", "photos/0.png"), ("and this", "photos/1.png"), ("the tree", None)]
    for (question, image), answer in zip(asked, answers, strict=True):
        messages.append(user_message(question, image=image and str(place / image), has_image=image is not None))
        chats = [{"messages": messages}]
        assert [answer] == reply_to_chats(model, processor, chats, do_sample=False, max_new_tokens=6)
        messages.append({"role": "assistant", "content": answer or "..."})


def test_an_empty_line_ends_the_chat(place, monkeypatch):
    assert "SmolVLM" not in talk(place, monkeypatch, "\nis this a dog\n")
