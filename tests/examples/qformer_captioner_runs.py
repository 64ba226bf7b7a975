"""Tiny models and photographs, and the scripts run on them in this process, as a new one takes long to import."""

import contextlib
import io
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tests import tiny
from tests.data.sources import flickr8k_folders
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoForCausalLM, PreTrainedTokenizerFast, TrainerCallback, ViTModel, trainer

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "qformer_captioner"
SPLITS = {"train": range(16), "validation": range(16, 20), "test": range(20, 25)}
ODD_WORDS = ['"Café",', "犬;", "it's"]
TOKENS = ["<unk>", "<eos>", *tiny.WORDS, *ODD_WORDS]
BLOCKS = 5
BLOCK = 3232  # parameters of a block of GPT-Neo of width 16
TABLE = (len(TOKENS) + 2) * 16  # with the new start and end

RECIPE = {
    "vision": "vision",
    "text": "text",
    "start_token": "<START>",
    "end_token": "<END>",
    "num_query_tokens": 3,
    "num_attention_heads": 2,
    "dataset": "flickr8k",
    "data": "flickr8k",
    "cache_vision_features": "float16",
    "eval_strategy": "epoch",
    "save_strategy": "steps",
    "save_steps": 3,  # in the middle of an epoch
    "learning_rate": 1.0e-2,
    "num_beams": 2,
    "max_new_tokens": 6,
    "use_cpu": True,
    "disable_tqdm": True,
}
PHASES = [
    {"freeze_fraction": 0.7, "per_device_train_batch_size": 4, "num_train_epochs": 2},
    {
        "freeze_fraction": 0.5,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 3,
    },
]


def write_models(folder: Path) -> None:
    torch.manual_seed(0)
    ViTModel(tiny.vision_config(), add_pooling_layer=False).save_pretrained(folder / "vision")
    tiny.image_processor().save_pretrained(folder / "vision")
    backend = Tokenizer(models.WordLevel({word: row for row, word in enumerate(TOKENS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>").save_pretrained(
        folder / "text"
    )
    config = tiny.gpt_neo_config(num_layers=BLOCKS, attention_types=[[["global"], BLOCKS]], vocab_size=len(TOKENS))
    GPTNeoForCausalLM(config).save_pretrained(folder / "text")


def write_photos(folder: Path) -> None:
    """Photographs with two captions each, in Flickr8k's layout."""
    words = tiny.WORDS
    captions = {f"{i}.jpg": [f"a {words[i % 7]} {words[i % 11]}", f"the {words[i % 5]} on grass"] for i in range(25)}
    (folder / "Images").mkdir(parents=True)
    for seed, name in enumerate(captions):
        tiny.photo(seed=seed).save(folder / "Images" / name)
    flickr8k_folders.write_csv(folder / "captions.txt", captions)
    flickr8k_folders.write_lists(folder, {split: [f"{i}.jpg" for i in rows] for split, rows in SPLITS.items()})


def write_recipe(path: Path, **changes: object) -> None:
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))


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
        sys.modules.pop("caption_data", None)  # other examples have a module of this name
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as error:
            raise SystemExit(f"{error}\n{printed.getvalue()}") from error
        finally:
            sys.modules.pop("caption_data", None)
    return printed.getvalue()
