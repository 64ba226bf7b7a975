"""Batches of augmented pairs beside a pipeline of PIL images and torchvision transforms, each in one process.

    python benchmarks/pair_augmentation.py

Both flip, change the colours, rotate, normalise and stack pairs that lie decoded in memory. Repetitions of the two
alternate; medians and their ratio are printed for each batch size. The images are noise: the work is the same for all.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import datasets
import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from transformers import HfArgumentParser

from vlmkit import PairedCifarAlignerProcessor
from vlmkit.data import ImageAugmentation, ImagePairs, PairCollator


@dataclass
class Arguments:
    """Size of the run."""

    batch_sizes: list[int] = field(default_factory=lambda: [32, 128])
    repetitions: int = 30
    image_size: int = 32
    num_images: int = 1000
    num_threads: int = 1


def drawn_pairs(num_images: int, image_size: int) -> ImagePairs:
    """Pairs of noise in two classes."""
    noise = np.random.default_rng(0).integers(0, 256, (num_images, image_size, image_size, 3), dtype=np.uint8)
    columns = {"image": [Image.fromarray(pixels) for pixels in noise], "label": [row % 2 for row in range(num_images)]}
    types = {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=2)}
    return ImagePairs(datasets.Dataset.from_dict(columns, datasets.Features(types)), image_size=image_size)


def pil_batches(pairs: ImagePairs, processor: PairedCifarAlignerProcessor) -> Callable[[list[int]], torch.Tensor]:
    """The usual way: one image after the other."""
    transform = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.2, 0.2, 0.2),
            transforms.RandomRotation(10),
            transforms.ToTensor(),
            transforms.Normalize(processor.image_processor.image_mean, processor.image_processor.image_std),
        ]
    )
    images = [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in pairs.pixels]
    places = pairs.pairs.tolist()

    def batch(indices: list[int]) -> torch.Tensor:
        drawn = [[transform(images[place]) for place in places[index]] for index in indices]
        return torch.stack([torch.cat(pair, dim=-1) for pair in drawn])

    return batch


def vlmkit_batches(pairs: ImagePairs, processor: PairedCifarAlignerProcessor) -> Callable[[list[int]], torch.Tensor]:
    """All images of a batch at a time."""
    collate = PairCollator(processor, pairs.num_classes, ImageAugmentation(flip=0.5, color_jitter=0.2, rotation=10))
    return lambda indices: collate(pairs.__getitems__(indices))["pixel_values"]


def main() -> None:
    """Alternate batches of the two and compare their medians."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    torch.set_num_threads(arguments.num_threads)
    torch.manual_seed(0)
    pairs = drawn_pairs(arguments.num_images, arguments.image_size)
    processor = PairedCifarAlignerProcessor.for_cifar100(arguments.image_size)
    contestants = {"vlmkit": vlmkit_batches(pairs, processor), "PIL": pil_batches(pairs, processor)}
    for batch_size in arguments.batch_sizes:
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(arguments.repetitions + 2):
            indices = torch.randint(len(pairs), (batch_size,)).tolist()
            for name, batch in contestants.items():
                start = time.perf_counter()
                batch(indices)
                if number >= 2:  # the first batches allocate
                    seconds[name].append(time.perf_counter() - start)
        ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
        print(f"batches of {batch_size} pairs of {arguments.image_size}x{arguments.image_size} pixels")
        for name, durations in seconds.items():
            print(f"  {name:8}{batch_size / statistics.median(durations):8.0f} pairs per second")
        print(f"  ratio vlmkit / PIL: {statistics.median(ratios):.1f} (median over pairs of batches)")


if __name__ == "__main__":
    main()
