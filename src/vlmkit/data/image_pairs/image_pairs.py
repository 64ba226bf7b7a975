"""Data set of random pairs of labeled images."""

import copy
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vlmkit.data.image_pairs.labelled_images import read_labelled_images
from vlmkit.validation import check_at_least


class ImagePairs(Dataset[dict[str, Tensor]]):
    """Data set of random pairs of a left and a right image from a table of labeled images.

    The left images cycle through random permutations of the table. The right image is drawn at random: with
    `different_class_probability` from the images of all other classes, and otherwise from the other images of the same
    class. The pairs depend only on the labels, `seed` and the epoch, so they are the same in all processes.

    An item is a dictionary with `images (2, 3, S, S)` in uint8 and `labels (2,)` in int64. Collate items with
    [`PairCollator`], and set `remove_unused_columns=False` in `TrainingArguments`. All images are decoded once and stay
    in memory, which takes N * 3 * S * S bytes.

    With `redraw=True`, call `set_epoch` before each epoch, or add [`SetEpochCallback`] to `Trainer`. Workers of a
    `DataLoader`, including persistent workers, follow the epoch of the main process.

    Args:
        table: Table with a column of the type `datasets.Image` and a column of the type `datasets.ClassLabel`. Images
            of other modes are converted to RGB, and images of other sizes are resized with a warning.
        image_size: Side of the images in pixels, S.
        num_pairs: Number of pairs per epoch. Defaults to the number of images, N.
        different_class_probability: Probability that the two images have different classes, from 0 to 1.
        seed: Seed of the random pairs, at least 0.
        redraw: Draw new pairs in every epoch, for training. By default, all epochs have the same pairs, for evaluation.
        image_column: Name of the image column. Defaults to the only column of its type.
        label_column: Name of the label column. Defaults to the only column of its type, or to `fine_label` or `label`
            if there are several.

    Attributes:
        pixels: RGB images `(N, 3, S, S)` in uint8.
        labels: Class labels `(N,)` in int64.
        class_names: Names of the classes.
        redraw: Value of the argument `redraw`.

    Raises:
        TypeError: If `table` is not a `datasets.Dataset`.
        ValueError: If an argument is out of range, a column, an image or a label is missing or invalid, there are fewer
            than two images, there is only one class and `different_class_probability` is greater than 0, or a class has
            only one image and `different_class_probability` is less than 1.

    Example:
        >>> columns = {"image": [np.full((8, 8, 3), shade, np.uint8) for shade in range(4)], "label": [0, 0, 1, 1]}
        >>> types = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        >>> table = datasets.Dataset.from_dict(columns, datasets.Features(types))
        >>> pairs = ImagePairs(table, image_size=8, different_class_probability=1.0)
        >>> item = pairs[0]
        >>> len(pairs), item["images"].shape, sorted(item["labels"].tolist())
        (4, torch.Size([2, 3, 8, 8]), [0, 1])
        >>> [pairs.class_names[label] for label in pairs.labels[pairs.pairs[0]].sort().values]
        ['cat', 'dog']
    """

    def __init__(
        self,
        table: datasets.Dataset,
        *,
        image_size: int = 32,
        num_pairs: int | None = None,
        different_class_probability: float = 0.5,
        seed: int = 0,
        redraw: bool = False,
        image_column: str | None = None,
        label_column: str | None = None,
    ):
        self.pixels, self.labels, self.class_names = read_labelled_images(
            table, image_size=image_size, image_column=image_column, label_column=label_column
        )
        self._pair(num_pairs, different_class_probability, seed, redraw)

    def with_pairs(
        self,
        *,
        num_pairs: int | None = None,
        different_class_probability: float = 0.5,
        seed: int = 0,
        redraw: bool = False,
    ) -> "ImagePairs":
        """Return a data set with other pairs of the same images, which shares the pixels.

        Args:
            num_pairs: Number of pairs per epoch. Defaults to the number of images.
            different_class_probability: Probability that the two images have different classes, from 0 to 1.
            seed: Seed of the random pairs, at least 0.
            redraw: Draw new pairs in every epoch.

        Raises:
            ValueError: If an argument is out of range, or not possible with the classes of the images.
        """
        other = copy.copy(self)
        other._pair(num_pairs, different_class_probability, seed, redraw)
        return other

    def _pair(self, num_pairs: int | None, different_class_probability: float, seed: int, redraw: bool) -> None:
        self._num_pairs = len(self.labels) if num_pairs is None else num_pairs
        self._different_class_probability = different_class_probability
        self._seed = seed
        self.redraw = redraw
        self._check()
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers read the current epoch
        self._drawn_epoch = 0
        self._pairs = self._draw(epoch=0)

    def _check(self) -> None:
        if len(self.labels) < 2:
            raise ValueError(f"`table` must have at least two images, but got {len(self.labels)}.")
        check_at_least("num_pairs", self._num_pairs)
        if not 0 <= self._different_class_probability <= 1:
            raise ValueError(
                f"`different_class_probability` must be from 0 to 1, but got {self._different_class_probability}."
            )
        check_at_least("seed", self._seed, minimum=0)
        counts = self.labels.bincount(minlength=self.num_classes)
        if self._different_class_probability > 0 and (counts > 0).sum() == 1:
            raise ValueError(
                "`different_class_probability` must be 0 for images of a single class, but got "
                f"{self._different_class_probability}. All images have the class "
                f"{self.class_names[int(self.labels[0])]}."
            )
        single = [self.class_names[label] for label in (counts == 1).nonzero().flatten()]
        if self._different_class_probability < 1 and single:
            raise ValueError(
                "`different_class_probability` must be 1 for classes with a single image, but got "
                f"{self._different_class_probability}. Drop the images of {', '.join(single)}, or set it to 1."
            )

    def _draw(self, epoch: int) -> Tensor:
        rng = np.random.default_rng((self._seed, epoch))
        return _draw_pairs(self.labels.numpy(), self._num_pairs, self._different_class_probability, rng)

    @property
    def num_classes(self) -> int:
        """Number of classes, including classes without images."""
        return len(self.class_names)

    @property
    def pairs(self) -> Tensor:
        """Indices of the left and right images of the current epoch, `(num_pairs, 2)`."""
        epoch = int(self._epoch)
        if epoch != self._drawn_epoch:
            self._pairs, self._drawn_epoch = self._draw(epoch), epoch
        return self._pairs

    @property
    def caption_ids(self) -> Tensor:
        """Caption id of each pair, `num_classes * left label + right label`, `(num_pairs,)`."""
        left, right = self.labels[self.pairs].unbind(dim=1)
        return self.num_classes * left + right

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which selects the pairs if `redraw` is `True`.

        Args:
            epoch: Index of the epoch, at least 0.
        """
        if self.redraw:
            self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._num_pairs

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """Return several items, which is much faster than item by item. `DataLoader` uses this method."""
        pairs = self.pairs[indices]
        return [
            {"images": images, "labels": labels}
            for images, labels in zip(self.pixels[pairs], self.labels[pairs], strict=True)
        ]


class SetEpochCallback(TrainerCallback):
    """Callback that sets the epoch of the training set, for `Trainer(callbacks=[SetEpochCallback()])`.

    Without it, `Trainer` leaves a data set with `set_epoch` in epoch 0 in distributed training, and in the first epoch
    after training is resumed within an epoch.

    Example:
        >>> from types import SimpleNamespace
        >>> table = SimpleNamespace(set_epoch=lambda epoch: print("epoch", epoch))
        >>> state = TrainerState(epoch=2.5)
        >>> SetEpochCallback().on_epoch_begin(None, state, None, train_dataloader=SimpleNamespace(dataset=table))
        epoch 2
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader[Any],
        **kwargs: Any,
    ) -> None:
        """Set the epoch of the training set."""
        dataset: Any = train_dataloader.dataset
        dataset.set_epoch(int(state.epoch))


def _draw_pairs(
    labels: np.ndarray, num_pairs: int, different_class_probability: float, rng: np.random.Generator
) -> Tensor:
    """Draw the indices of left and right images, `(num_pairs, 2)`."""
    num_images = len(labels)
    rounds = [rng.permutation(num_images) for _ in range(0, num_pairs, num_images)]
    left = np.concatenate(rounds)[:num_pairs]

    by_class = np.argsort(labels, kind="stable")  # images of the same class are adjacent
    counts = np.bincount(labels)
    size, start = counts[labels[left]], (np.cumsum(counts) - counts)[labels[left]]
    position = np.argsort(by_class)[left]

    # `step` counts cyclically from the end of the class through all other classes, or from the left image through the
    # other images of its class.
    different = rng.random(num_pairs) < different_class_probability
    step = rng.integers(np.where(different, num_images - size, size - 1))
    other_class = (start + size + step) % num_images
    same_class = start + (position - start + 1 + step) % size
    right = by_class[np.where(different, other_class, same_class)]
    return torch.from_numpy(np.stack([left, right], axis=1))
