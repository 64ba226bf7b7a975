"""Tiny models and photographs for the scripts of examples/smolvlm."""

import json
from pathlib import Path

import torch
from tests import tiny
from tests.data.sources import flickr8k_folders
from tests.examples.scripts import EXAMPLES, run_script
from transformers import DistilBertModel, LlamaForCausalLM, TrainerCallback, ViTModel

from vlmkit import QFormerAligner, QFormerAlignerProcessor

SCRIPTS = EXAMPLES / "smolvlm"
SPLITS = {"train": range(12), "validation": range(12, 22), "test": range(22, 33)}
CAPTIONS_PER_IMAGE = 2
ASKED = [("dog", "a dog"), ("cat", "the cat"), ("tree", "green")]


def write_models(folder: Path) -> None:
    """An image model, and a text encoder with its tokenizer."""
    torch.manual_seed(0)
    ViTModel(tiny.vision_config(), add_pooling_layer=False).save_pretrained(folder / "vision")
    tiny.image_processor().save_pretrained(folder / "vision")
    DistilBertModel(tiny.distilbert_config()).save_pretrained(folder / "text")
    tiny.tokenizer(pad_token="<pad>").save_pretrained(folder / "text")


def write_photos(folder: Path) -> None:
    """Photographs with two captions each, in Flickr8k's layout."""
    words = tiny.WORDS
    captions = {f"{i}.jpg": [f"a {words[i % 7]} {words[i % 11]}", f"the {words[i % 5]} on grass"] for i in range(33)}
    (folder / "Images").mkdir(parents=True)
    for seed, name in enumerate(captions):
        tiny.photo(seed=seed).save(folder / "Images" / name)
    flickr8k_folders.write_csv(folder / "captions.txt", captions)
    flickr8k_folders.write_lists(folder, {split: [f"{i}.jpg" for i in rows] for split, rows in SPLITS.items()})


def write_first_stage(folder: Path) -> None:
    """A model of stage 1 with its processor, and a language model that chats."""
    write_models(folder)
    vision, text = folder / "vision", folder / "text"
    processor = QFormerAlignerProcessor.from_vision_text_pretrained(vision, text)
    aligner = QFormerAligner.from_vision_text_pretrained(vision, text, processor=processor, num_query_tokens=3)
    processor.save_pretrained(folder / "aligner")
    aligner.save_pretrained(folder / "aligner")
    tokenizer = tiny.chat_tokenizer()
    LlamaForCausalLM(
        tiny.llama_config(**tiny.CHAT_TOKENS, vocab_size=len(tokenizer), tie_word_embeddings=True)
    ).save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")


def write_easy_vqa(folder: Path) -> None:
    """Four drawings to train on and two to test, with three questions each, in easy-VQA's layout."""
    for split, count in (("train", 4), ("test", 2)):
        (folder / split / "images").mkdir(parents=True)
        questions = []
        for number in range(count):
            tiny.photo(64, 64, seed=number).save(folder / split / "images" / f"{number}.png")
            questions += [[f"is this a {word}", answer, number] for word, answer in ASKED]
        (folder / split / "questions.json").write_text(json.dumps(questions))


class Killed(BaseException):
    """Not an error that anything handles."""


class Kill(TrainerCallback):
    """Stops a run at once after an update."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def run(place: Path, script: str, *flags: object, callback: TrainerCallback | None = None) -> str:
    return run_script(f"smolvlm/{script}", *flags, cwd=place, callback=callback)
