"""Tiny models and photographs for the scripts of examples/qformer_captioner."""

from pathlib import Path

import torch
import yaml
from tests import tiny
from tests.data.sources import flickr8k_folders
from tests.examples.scripts import run_script
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoForCausalLM, PreTrainedTokenizerFast, TrainerCallback, ViTModel

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
    return run_script(f"qformer_captioner/{script}", *flags, cwd=place, callback=callback)
