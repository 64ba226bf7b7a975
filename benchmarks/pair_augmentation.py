"""Compare the batched augmentation of image pairs with a pipeline of PIL images and torchvision transforms.

    python benchmarks/pair_augmentation.py

Both pipelines run in one process. They flip, color-jitter, rotate, normalize and stack pairs of decoded images in
memory. They are timed in turn; the medians and their ratio are printed for each batch size. The images are random
noise, because the run time does not depend on their content.
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
    """Sizes of the data and the number of measurements."""

    batch_sizes: list[int] = field(default_factory=lambda: [32, 128], metadata={"help": "Batch sizes in pairs."})
    repetitions: int = field(default=30, metadata={"help": "Number of timed batches per pipeline and batch size."})
    image_size: int = field(default=32, metadata={"help": "Height and width of the images in pixels."})
    num_images: int = field(default=1000, metadata={"help": "Number of images from which pairs are drawn."})
    num_threads: int = field(default=1, metadata={"help": "Number of CPU threads of torch."})


def drawn_pairs(num_images: int, image_size: int) -> ImagePairs:
    """Return pairs of noise images of two classes."""
    noise = np.random.default_rng(0).integers(0, 256, (num_images, image_size, image_size, 3), dtype=np.uint8)
    columns = {"image": [Image.fromarray(pixels) for pixels in noise], "label": [row % 2 for row in range(num_images)]}
    types = {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=2)}
    return ImagePairs(datasets.Dataset.from_dict(columns, datasets.Features(types)), image_size=image_size)


def pil_batches(pairs: ImagePairs, processor: PairedCifarAlignerProcessor) -> Callable[[list[int]], torch.Tensor]:
    """Return a function that augments one PIL image at a time."""
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
    pair_rows = pairs.pairs.tolist()

    def batch(indices: list[int]) -> torch.Tensor:
        drawn = [[transform(images[row]) for row in pair_rows[index]] for index in indices]
        return torch.stack([torch.cat(pair, dim=-1) for pair in drawn])

    return batch


def vlmkit_batches(pairs: ImagePairs, processor: PairedCifarAlignerProcessor) -> Callable[[list[int]], torch.Tensor]:
    """Return a function that augments all images of a batch at once."""
    collate = PairCollator(processor, pairs.num_classes, ImageAugmentation(flip=0.5, color_jitter=0.2, rotation=10))
    return lambda indices: collate(pairs.__getitems__(indices))["pixel_values"]


def main() -> None:
    """Time alternating batches of both pipelines and compare the medians."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    torch.set_num_threads(arguments.num_threads)
    torch.manual_seed(0)
    pairs = drawn_pairs(arguments.num_images, arguments.image_size)
    processor = PairedCifarAlignerProcessor.for_cifar100(arguments.image_size)
    pipelines = {"vlmkit": vlmkit_batches(pairs, processor), "PIL": pil_batches(pairs, processor)}
    for batch_size in arguments.batch_sizes:
        seconds: dict[str, list[float]] = {name: [] for name in pipelines}
        for number in range(arguments.repetitions + 2):
            indices = torch.randint(len(pairs), (batch_size,)).tolist()
            for name, batch in pipelines.items():
                start = time.perf_counter()
                batch(indices)
                if number >= 2:  # skip warm-up batches
                    seconds[name].append(time.perf_counter() - start)
        ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
        print(f"batches of {batch_size} pairs of {arguments.image_size}x{arguments.image_size} pixels")
        for name, durations in seconds.items():
            print(f"  {name:8}{batch_size / statistics.median(durations):8.0f} pairs per second")
        print(f"  ratio vlmkit / PIL: {statistics.median(ratios):.1f} (median over pairs of batches)")


if __name__ == "__main__":
    main()
