"""Estimate the run time of the paper's grid of 12 backbone combinations, with and without cached features.

    python benchmarks/dual_encoder_grid.py

The script measures two things and extrapolates from them:

- the time to encode one image with each of the four ViTs (random weights take the same time), and
- the time to train one projection for 20 epochs with `Trainer` on cached features of 1,800 pairs, for every
  combination of a ViT and a text width.

The original encodes the images in all 20 epochs of all 12 combinations. vlmkit encodes them once per ViT and then
trains 12 projections. The speedup is therefore at most 12 x 20 / 4 = 60. The text side is an embedding lookup and is
ignored.
"""

import tempfile
import time
from dataclasses import dataclass, field

import torch
from datasets import Dataset
from transformers import GPT2Config, HfArgumentParser, TimmWrapperConfig

from dual_encoder_training import Arguments as TrainingCase
from dual_encoder_training import train_on_features
from vlmkit import DualEncoderConfig, DualEncoderModel
from vlmkit.modules import VisionTower

VISION = ("vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224")
TEXT_WIDTHS = (768, 1024, 1280)


@dataclass
class Arguments:
    """Size of the grid and of the measured sample."""

    num_images: int = field(default=1800, metadata={"help": "Number of training images of the grid."})
    num_epochs: int = field(default=20, metadata={"help": "Number of epochs per combination."})
    sample: int = field(default=8, metadata={"help": "Batch size with which encoding is timed."})
    repetitions: int = field(default=3, metadata={"help": "Number of timed batches; the fastest one counts."})


@torch.no_grad()
def seconds_per_image(tower: VisionTower, sample: int, repetitions: int) -> float:
    """Return the seconds per image of the fastest of several passes over one batch."""
    pixel_values = torch.rand(sample, 3, 224, 224)
    tower(pixel_values)
    passes = []
    for _ in range(repetitions):
        start = time.perf_counter()
        tower(pixel_values)
        passes.append(time.perf_counter() - start)
    return min(passes) / sample


def seconds_of_training(vision_width: int, text_width: int, arguments: Arguments) -> float:
    """Return the seconds to train one projection between features of the given widths."""
    vision = TimmWrapperConfig(
        architecture="vit_tiny_patch16_224", model_args={"embed_dim": vision_width, "depth": 1, "num_heads": 8}
    )
    text = GPT2Config(n_embd=text_width, n_layer=1, n_head=8)
    model = DualEncoderModel(DualEncoderConfig(vision_config=vision, text_config=text))
    columns = {
        "image_id": [str(row) for row in range(arguments.num_images)],
        "image_pooled": torch.randn(arguments.num_images, vision_width).numpy(),
        "text_pooled": torch.randn(arguments.num_images, 1, text_width).numpy(),
    }
    with tempfile.TemporaryDirectory() as folder:
        features = Dataset.from_dict(columns).with_format("torch", output_all_columns=True)
        case = TrainingCase(data="", vision="", text="", num_epochs=arguments.num_epochs)
        start = time.perf_counter()
        train_on_features(model, features, case, folder)
        return time.perf_counter() - start


def main() -> None:
    """Measure the parts, extrapolate and print the totals."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    original = ours = 0.0
    for name in VISION:
        tower = VisionTower(TimmWrapperConfig(architecture=name), frozen=True)
        encoding = seconds_per_image(tower, arguments.sample, arguments.repetitions) * arguments.num_images
        trainings = [seconds_of_training(tower.pooled_size, width, arguments) for width in TEXT_WIDTHS]
        print(
            f"{name}: {encoding:.0f} s per pass over the images, training {', '.join(f'{s:.1f}' for s in trainings)} s",
            flush=True,
        )
        original += encoding * arguments.num_epochs * len(TEXT_WIDTHS) + sum(trainings)
        ours += encoding + sum(trainings)
        del tower
    print(f"original  {original / 3600:8.1f} h\nvlmkit    {ours / 3600:8.2f} h\nratio     {original / ours:8.1f}")


if __name__ == "__main__":
    main()
