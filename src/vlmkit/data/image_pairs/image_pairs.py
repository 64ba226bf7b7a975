"""Pairs of labelled images as a data set, fixed or drawn anew in every epoch."""

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
    """Pairs of images, left and right, from a table of labelled images.

    Each image is the left one of a pair equally often, up to one. The right one is drawn, each time independently: with
    `different_class_probability` from all images of other classes, else from the other images of the left one's class.
    The pairs depend on nothing but the labels, `seed` and the epoch, and are the same in every process.

    An item holds `images (2, 3, S, S)` in uint8 and `labels (2,)` in int64, which [`PairCollator`] makes batches of.
    Trainer needs `remove_unused_columns=False`. All images lie in memory, N * 3 * S * S bytes, decoded once.

    Pairs that are drawn anew need to be told the epoch. `DataLoader` users call `set_epoch`; for Trainer, add
    [`SetEpochCallback`]. Workers of a `DataLoader` follow, persistent ones too.

    Args:
        table: with a column of the type `datasets.Image` and one of the type `datasets.ClassLabel`. Images of other
            modes become RGB, those of other sizes are resized with one warning.
        image_size: side of the images in pixels.
        num_pairs: pairs in an epoch; as many as there are images if not given.
        different_class_probability: of a pair of two classes, from 0 to 1.
        seed: of the draws, 0 or more.
        redraw: whether every epoch has other pairs, as is good to train on, or all the same, as is good to evaluate.
        image_column: found by its type if not given.
        label_column: found by its type if not given; `fine_label`, then `label`, if there are several.

    Attributes:
        pixels: `(N, 3, S, S)` in uint8.
        labels: `(N,)` in int64.
        class_names: of the table.
        redraw: as given.

    Raises:
        TypeError: `table` is not a `datasets.Dataset`.
        ValueError: an option is outside its range; a column, an image or a label is missing or faulty; there are fewer
            than two images, only one class where different ones are asked for, or a class with a single image where
            pairs of one class are asked for.

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
        """Pair the same images in another way; the pixels are shared, not copied.

        Args:
            num_pairs: as above.
            different_class_probability: as above.
            seed: as above.
            redraw: as above.

        Raises:
            ValueError: as above.
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
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that live on see it change
        self._drawn_epoch = 0
        self._pairs = self._draw(epoch=0)

    def _check(self) -> None:
        if len(self.labels) < 2:
            raise ValueError(f"a pair takes two images, and the table holds {len(self.labels)}")
        check_at_least("num_pairs", self._num_pairs)
        if not 0 <= self._different_class_probability <= 1:
            raise ValueError(
                f"different_class_probability is {self._different_class_probability}; it must be from 0 to 1"
            )
        check_at_least("seed", self._seed, minimum=0)
        counts = self.labels.bincount(minlength=self.num_classes)
        if self._different_class_probability > 0 and (counts > 0).sum() == 1:
            raise ValueError(
                f"all images are of the class {self.class_names[int(self.labels[0])]}, so no pair has two; set "
                "different_class_probability=0"
            )
        single = [self.class_names[label] for label in (counts == 1).nonzero().flatten()]
        if self._different_class_probability < 1 and single:
            raise ValueError(
                f"there is only one image of {', '.join(single)}, so it cannot be paired within its class; drop it or "
                "set different_class_probability=1"
            )

    def _draw(self, epoch: int) -> Tensor:
        rng = np.random.default_rng((self._seed, epoch))
        return _draw_pairs(self.labels.numpy(), self._num_pairs, self._different_class_probability, rng)

    @property
    def num_classes(self) -> int:
        """Number of classes, those without an image included."""
        return len(self.class_names)

    @property
    def pairs(self) -> Tensor:
        """The pairs of this epoch as image numbers, `(num_pairs, 2)`."""
        epoch = int(self._epoch)
        if epoch != self._drawn_epoch:
            self._pairs, self._drawn_epoch = self._draw(epoch), epoch
        return self._pairs

    @property
    def caption_ids(self) -> Tensor:
        """`num_classes` * left label + right label of each pair, `(num_pairs,)`."""
        left, right = self.labels[self.pairs].unbind(dim=1)
        return self.num_classes * left + right

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's pairs, if `redraw` is set.

        Args:
            epoch: 0 or more.
        """
        if self.redraw:
            self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._num_pairs

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """Items by the batch, as `DataLoader` asks for them; much faster than one by one."""
        pairs = self.pairs[indices]
        return [
            {"images": images, "labels": labels}
            for images, labels in zip(self.pixels[pairs], self.labels[pairs], strict=True)
        ]


class SetEpochCallback(TrainerCallback):
    """Tells the training set its epoch, for `Trainer(callbacks=[SetEpochCallback()])`.

    By itself, Trainer leaves a data set with `set_epoch` in epoch 0 in two cases: in several processes, and for the
    rest of an epoch in the middle of which training is resumed.

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
        """Call `set_epoch` of the training set."""
        dataset: Any = train_dataloader.dataset
        dataset.set_epoch(int(state.epoch))


def _draw_pairs(
    labels: np.ndarray, num_pairs: int, different_class_probability: float, rng: np.random.Generator
) -> Tensor:
    """Image numbers of left and right images, `(num_pairs, 2)`."""
    num_images = len(labels)
    rounds = [rng.permutation(num_images) for _ in range(0, num_pairs, num_images)]
    left = np.concatenate(rounds)[:num_pairs]

    by_class = np.argsort(labels, kind="stable")  # the images of a class stand side by side in it
    counts = np.bincount(labels)
    size, start = counts[labels[left]], (np.cumsum(counts) - counts)[labels[left]]
    place = np.argsort(by_class)[left]

    # Of the other classes: a step from the end of the own class, round to its start. Of the own: from the own place.
    different = rng.random(num_pairs) < different_class_probability
    step = rng.integers(np.where(different, num_images - size, size - 1))
    other_class = (start + size + step) % num_images
    same_class = start + (place - start + 1 + step) % size
    right = by_class[np.where(different, other_class, same_class)]
    return torch.from_numpy(np.stack([left, right], axis=1))
