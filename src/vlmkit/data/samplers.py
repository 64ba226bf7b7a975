"""Batch sampler without repeated images in a batch."""

import heapq
import random
from collections.abc import Hashable, Iterator, Sequence

from torch.utils.data import Sampler

from vlmkit.validation import check_at_least


class UniqueGroupBatchSampler(Sampler[list[int]]):
    """Batch sampler that draws at most one index of each group per batch, for `DataLoader(batch_sampler=...)`.

    An epoch contains every index once, in the minimum number of batches. Each batch draws from the groups with the most
    remaining indices, and ties are resolved at random. With five captions per image, nearly all batches are full.
    Batches at the end of the epoch are smaller if fewer than `batch_size` groups remain.

    In distributed training, accelerate assigns whole batches to the processes. Two processes can have the same group at
    the same time, so pass `group_ids` to the loss.

    Args:
        groups: Group of each index, such as `CaptionPairs.image_ids`.
        batch_size: Maximum number of indices in a batch. Batches cannot be larger than the number of groups.
        seed: Seed of the order, in combination with the epoch.
        drop_last: Drop batches with fewer than `batch_size` indices.

    Raises:
        ValueError: If `batch_size` is less than 1.

    Example:
        >>> sampler = UniqueGroupBatchSampler(["dog", "dog", "cat", "bird"], batch_size=2)
        >>> sorted(len(batch) for batch in sampler), any({0, 1} <= set(batch) for batch in sampler)
        ([2, 2], False)
    """

    def __init__(self, groups: Sequence[Hashable], *, batch_size: int, seed: int = 0, drop_last: bool = False):
        check_at_least("batch_size", batch_size)
        self._members: dict[Hashable, list[int]] = {}
        for index, group in enumerate(groups):
            self._members.setdefault(group, []).append(index)
        # With a public attribute `batch_size`, accelerate would fill smaller batches with indices of arbitrary groups.
        self._batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.drop_last = drop_last
        self._length = sum(1 for _ in self)  # the same in all epochs, because only ties are random

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order. Trainer and accelerate call this method before each epoch.

        Args:
            epoch: Index of the epoch.
        """
        self.epoch = epoch

    @property
    def sampler(self) -> "UniqueGroupBatchSampler":
        """The sampler itself. In distributed training, accelerate sets the epoch only on this attribute."""
        return self

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"{self.seed} {self.epoch}")
        left = [rng.sample(members, len(members)) for members in self._members.values()]
        heap = [(-len(members), rng.random(), members) for members in left]
        heapq.heapify(heap)
        while heap:
            drawn = [heapq.heappop(heap)[2] for _ in range(min(self._batch_size, len(heap)))]
            batch = [members.pop() for members in drawn]
            if len(batch) == self._batch_size or not self.drop_last:
                yield batch
            for members in drawn:
                if members:
                    heapq.heappush(heap, (-len(members), rng.random(), members))
