"""Batches in which no image occurs twice."""

import heapq
import random
from collections.abc import Hashable, Iterator, Sequence

from torch.utils.data import Sampler

from vlmkit.validation import check_at_least


class UniqueGroupBatchSampler(Sampler[list[int]]):
    """Draws batches with at most one index of each group, in as few batches as possible.

    Every index comes once per epoch. A batch takes from the groups with most indices left, at random among equals:
    over five captions per image, nearly all batches are full. They are smaller at the end of the epoch, where fewer
    groups than `batch_size` are left.

    Give it to `DataLoader(batch_sampler=...)`. In several processes, accelerate hands whole batches to each; two
    processes may then hold the same group at the same time, which the loss resolves by its `group_ids`.

    Args:
        groups: the group of each index, such as the `image_ids` of [`CaptionPairs`].
        batch_size: the largest number of indices in a batch; more than there are groups is never reached.
        seed: of the order, together with the epoch.
        drop_last: whether to leave out the batches with fewer than `batch_size` indices.

    Raises:
        ValueError: `batch_size` is less than 1.

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
        # A public `batch_size` would make accelerate take batches of another size for the end of the epoch and refill
        # them with indices of any group.
        self._batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.drop_last = drop_last
        self._length = sum(1 for _ in self)  # the sizes do not depend on the epoch: chance decides among equals only

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Trainer and accelerate call this before each epoch."""
        self.epoch = epoch

    @property
    def sampler(self) -> "UniqueGroupBatchSampler":
        """The sampler itself; in several processes, accelerate passes the epoch on to this attribute alone."""
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
