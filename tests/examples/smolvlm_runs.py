"""Tiny models and photographs, and the scripts run on them in this process, as a new one takes long to import."""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.data.sources import flickr8k_folders
from transformers import DistilBertModel, LlamaForCausalLM, TrainerCallback, ViTModel, trainer

from vlmkit import QFormerAligner, QFormerAlignerProcessor

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "smolvlm"
SPLITS = {"train": range(12), "validation": range(12, 22), "test": range(22, 33)}
CAPTIONS_PER_IMAGE = 2
OWN_MODULES = ("caption_sources", "chat_data", "scores")
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
    """Run a script with flags, maybe with one more callback in each Trainer, and return what it prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(SCRIPTS)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", place / "cache")
        patch.setattr(sys, "argv", [script, *map(str, flags)])
        if callback is not None:
            patch.setattr(trainer, "DEFAULT_CALLBACKS", [*trainer.DEFAULT_CALLBACKS, callback])
        for name in OWN_MODULES:  # other examples have modules of these names
            sys.modules.pop(name, None)
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as error:
            raise SystemExit(f"{error}\n{printed.getvalue()}") from error
        finally:
            for name in OWN_MODULES:
                sys.modules.pop(name, None)
    return printed.getvalue()
