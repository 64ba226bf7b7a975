"""Train the small backbones of the ablation from scratch on synthetic scenes: a language model and a vision tower.

Finished backbones are saved in the formats of transformers and reused by later runs. Interrupted training restarts.
"""

import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import IterableDataset
from transformers import (
    CLIPImageProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TimmWrapperConfig,
    Trainer,
    set_seed,
)

from vlmkit import VlmkitSmolVLMImageProcessor, VlmkitSmolVLMProcessor
from vlmkit.data import ChatCollator, assistant_message, user_message
from vlmkit.data.scenes.detailed_scenes import (
    DETAILED_SCENE_WORDS,
    PATTERNS,
    PROPORTIONS,
    DetailedObject,
    detailed_scene_texts,
    draw_detailed_scene,
)
from vlmkit.data.scenes.graph import COLORS, SHAPES
from vlmkit.modules import VisionTower
from vlmkit.training import TableTrainingArguments

SIDE = 224  # input size of the vision tower in pixels
PATCH = 16
# The patterns consist of lines one pixel wide, which are lost if an image is downscaled.
HEADS = {"shape": SHAPES, "color": tuple(COLORS), "proportion": tuple(PROPORTIONS), "pattern": PATTERNS}
LANGUAGE_MODELS = {"small": (64, 2, 2), "base": (128, 3, 4)}  # width, layers, heads
TOWERS = {"small": (64, 1, 2), "base": (128, 4, 4)}


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Build a folder if it does not exist, and return it.

    The folder is renamed when it is complete, so it never contains partial results. If several processes build it, the
    first result is kept.
    """
    if not folder.exists():
        part = folder.with_suffix(f".{os.getpid()}")
        build(part)
        try:
            os.rename(part, folder)
        except OSError:  # another process has built the folder
            if not folder.exists():
                raise
            shutil.rmtree(part)
    return folder


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token per word of the scenes and one per role."""
    words = ["<unk>", "<eos>", "User:", "Assistant:", *DETAILED_SCENE_WORDS]
    backend = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="<unk>"))
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in words[:2]])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")


class SceneTexts(torch.utils.data.Dataset):
    """Conversations about scenes with a text description instead of the image.

    Args:
        table: Table from [`detailed_scene_texts`].
    """

    def __init__(self, table: Dataset):
        self.rows = table.to_list()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        messages: list[dict[str, Any]] = []
        for question, answer in zip(row["questions"], row["answers"], strict=True):
            text = question if messages else f"{row['captions'][0]} {question}"
            messages += [user_message(text, has_image=False), assistant_message(answer)]
        return {"messages": messages}


def train_language_model(folder: Path, size: str, steps: int, num_objects: Sequence[int], seed: int = 0) -> None:
    """Train a small Llama to answer questions about scenes from text descriptions.

    Args:
        folder: Output folder of the model and its tokenizer.
        size: Key of `LANGUAGE_MODELS`.
        steps: Number of training steps with 64 scenes each.
        num_objects: Possible numbers of objects per scene.
        seed: Seed of weights and data.
    """
    set_seed(seed)
    width, depth, heads = LANGUAGE_MODELS[size]
    tokenizer = word_tokenizer()
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        vocab_size=len(tokenizer) + 1,  # includes the image token
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    # Only the tokenizer and chat template of the processor are used. The processor adds the image token.
    processor = VlmkitSmolVLMProcessor(CLIPImageProcessor(), tokenizer)
    model = LlamaForCausalLM(config)
    arguments = _arguments(folder, steps, batch_size=64, learning_rate=2e-3, seed=seed)
    texts = SceneTexts(detailed_scene_texts(64 * steps, seed=seed, num_objects=num_objects))
    Trainer(model, arguments, data_collator=ChatCollator(processor), train_dataset=texts).train()
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)


class PatchClassifier(nn.Module):
    """Vision tower with classification heads for every patch: presence of an object, and its attributes.

    Args:
        tower: Vision tower whose tokens form a grid of patches.
    """

    def __init__(self, tower: VisionTower):
        super().__init__()
        self.tower = tower
        self.heads = nn.ModuleDict({name: nn.Linear(tower.hidden_size, len(kinds)) for name, kinds in HEADS.items()})
        self.presence = nn.Linear(tower.hidden_size, 2)

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the sum of the cross-entropy losses of all heads.

        Args:
            pixel_values: Crops, `(B, 3, H, W)`.
            labels: Labels per head and patch, `(B, 1 + num_heads, H / 16 * W / 16)`. -100 is ignored.
        """
        mask = torch.ones(len(pixel_values), *pixel_values.shape[2:], device=pixel_values.device)
        tokens = self.tower(pixel_values, pixel_attention_mask=mask).last_hidden_state
        scores = [self.presence(tokens), *(head(tokens) for head in self.heads.values())]
        losses = [
            cross_entropy(part.flatten(0, 1), labels[:, row].flatten(), ignore_index=-100)
            for row, part in enumerate(scores)
            if (labels[:, row] != -100).any()
        ]
        return {"loss": torch.stack(losses).sum()}


class CrowdedSceneBatches(IterableDataset):
    """Infinite batches of crops of scenes with an object in most grid cells.

    Crops are whole images or quarters, with or without the original aspect ratio.

    Args:
        seed: Seed of the scenes.
        batch_size: Number of crops per batch.
    """

    def __init__(self, seed: int, batch_size: int = 16):
        self.seed, self.batch_size = seed, batch_size

    def __iter__(self) -> Any:
        rng = random.Random(self.seed)
        while True:
            grid, is_square = rng.choice([(4, 4), (4, 2), (2, 4)]), rng.random() < 0.5
            size = {"height": SIDE, "width": SIDE} if is_square else {"longest_edge": SIDE}
            processor = VlmkitSmolVLMImageProcessor(size=size, size_divisor=PATCH, do_image_splitting=True)
            crops, labels = [], []
            while len(crops) < self.batch_size:
                scene = _crowded_scene(grid, rng)
                picture = draw_detailed_scene(scene, grid=grid, long_side=2 * SIDE, rng=rng)
                pixels = processor(picture, return_tensors="pt")["pixel_values"]
                # Quarters have more labels than the whole image, so most crops are quarters.
                for view in rng.sample(range(5), 3):
                    crops.append(pixels[view])
                    labels.append(_patch_labels(scene, grid, view, tuple(pixels.shape[2:])))
            yield {
                "pixel_values": torch.stack(crops[: self.batch_size]),
                "labels": torch.stack(labels[: self.batch_size]),
            }


def train_vision_tower(folder: Path, size: str, steps: int, seed: int = 0) -> None:
    """Train a small XCiT on patch classification.

    XCiT has a convolutional patch embedding and position embeddings for any grid size.

    Args:
        folder: Output folder of the model and its image processor.
        size: Key of `TOWERS`.
        steps: Number of training steps with 16 crops each.
        seed: Seed of weights and data.

    References:
        El-Nouby et al., "XCiT: Cross-Covariance Image Transformers" (arXiv:2106.09681).
    """
    set_seed(seed)
    width, depth, heads = TOWERS[size]
    sizes = {"embed_dim": width, "depth": depth, "num_heads": heads, "eta": 1.0}
    config = TimmWrapperConfig(architecture="xcit_nano_12_p16_224", model_args=sizes, do_pooling=False)
    classifier = PatchClassifier(VisionTower(config, pooling="mean", prefix_tokens=False))
    arguments = _arguments(folder, steps, batch_size=1, learning_rate=1e-3, seed=seed)
    batches = CrowdedSceneBatches(seed)
    Trainer(classifier, arguments, data_collator=lambda rows: rows[0], train_dataset=batches).train()
    classifier.tower.backbone.save_pretrained(folder)
    normalization = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    square = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size=square, do_center_crop=False, **normalization).save_pretrained(folder)


def _crowded_scene(grid: tuple[int, int], rng: random.Random) -> list[DetailedObject]:
    cells = [(column, row) for row in range(grid[1]) for column in range(grid[0]) if rng.random() < 0.8]
    return [
        DetailedObject(**{name: rng.choice(kinds) for name, kinds in HEADS.items()}, column=column, row=row)
        for column, row in cells
    ]


def _patch_labels(scene: list[DetailedObject], grid: tuple[int, int], view: int, size: tuple[int, int]) -> Tensor:
    """Return the labels of all patches of a view: presence of an object, then one row per entry of `HEADS`."""
    rows, columns = size[0] // PATCH, size[1] // PATCH
    is_quarter = view < 4
    shown = [side / (2 if is_quarter else 1) for side in grid]  # visible grid cells in x and y direction
    left, top = ((view % 2) * shown[0], (view // 2) * shown[1]) if is_quarter else (0.0, 0.0)
    labels = torch.full((1 + len(HEADS), rows, columns), -100)
    labels[0] = 0
    y = top + (torch.arange(rows) + 0.5) * shown[1] / rows
    x = left + (torch.arange(columns) + 0.5) * shown[0] / columns
    for thing in scene:
        across, down = PROPORTIONS[thing["proportion"]]
        far_x, far_y = (x - thing["column"] - 0.5).abs(), (y - thing["row"] - 0.5).abs()
        covers = (far_y <= 0.4 * down)[:, None] & (far_x <= 0.4 * across)[None, :]
        labels[0][covers] = 1
        for row, (name, kinds) in enumerate(HEADS.items(), start=1):
            if name == "pattern":
                covers = (far_y <= 0.1)[:, None] & (far_x <= 0.1)[None, :] & is_quarter
            labels[row][covers] = kinds.index(thing[name])
    return labels.flatten(1)


def _arguments(folder: Path, steps: int, batch_size: int, learning_rate: float, seed: int) -> TableTrainingArguments:
    return TableTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.05,
        warmup_steps=50,
        lr_scheduler_type="cosine",
        logging_steps=50,
        save_strategy="no",
        seed=seed,
    )
