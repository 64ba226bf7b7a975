"""The paper's grid of 12 combinations, extrapolated from measured parts.

    python benchmarks/dual_encoder_grid.py

Measured here: encoding a few images with each of the four ViTs (random weights cost the same), and training one
projection for 20 epochs on cached features of 1,800 pairs with `Trainer`, for each pair of widths. The original's cost
is 20 epochs of encoding for each of the 12 combinations; ours is one pass per ViT plus 12 trainings. The text side, a
table look-up, is left out on both sides. At most 12 x 20 / 4 = 60 times less.
"""

import tempfile
import time
from dataclasses import dataclass

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
    """Size of the measured sample."""

    num_images: int = 1800
    num_epochs: int = 20
    sample: int = 8
    repetitions: int = 3


@torch.no_grad()
def seconds_per_image(tower: VisionTower, sample: int, repetitions: int) -> float:
    """The fastest of several passes over a batch, per image."""
    pixel_values = torch.rand(sample, 3, 224, 224)
    tower(pixel_values)
    passes = []
    for _ in range(repetitions):
        start = time.perf_counter()
        tower(pixel_values)
        passes.append(time.perf_counter() - start)
    return min(passes) / sample


def seconds_of_training(vision_width: int, text_width: int, arguments: Arguments) -> float:
    """One projection, trained on features of these widths."""
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
    """Measure the parts and add them up."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    original = ours = 0.0
    for name in VISION:
        tower = VisionTower(TimmWrapperConfig(architecture=name), frozen=True)
        encoding = seconds_per_image(tower, arguments.sample, arguments.repetitions) * arguments.num_images
        trainings = [seconds_of_training(tower.pooled_size, width, arguments) for width in TEXT_WIDTHS]
        print(f"{name}: {encoding:.0f} s a pass, trainings {', '.join(f'{s:.1f}' for s in trainings)} s", flush=True)
        original += encoding * arguments.num_epochs * len(TEXT_WIDTHS) + sum(trainings)
        ours += encoding + sum(trainings)
        del tower
    print(f"original  {original / 3600:8.1f} h\nours      {ours / 3600:8.2f} h\nratio     {original / ours:8.1f}")


if __name__ == "__main__":
    main()
