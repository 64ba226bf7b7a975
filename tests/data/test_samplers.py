import math
from collections import Counter
from itertools import chain

import pytest
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from torch.utils.data import DataLoader

from vlmkit.data import UniqueGroupBatchSampler

GROUPS = {
    "five captions each": [number // 5 for number in range(100)],
    "uneven": [*["a"] * 7, *["b"] * 3, *"cdefgh"],
    "one large": [*["a"] * 9, "b"],
    "all different": list(range(13)),
    "one group": ["a"] * 4,
    "empty": [],
}


def is_unique(batch: list[int], groups: list) -> bool:
    return len({groups[index] for index in batch}) == len(batch)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
@pytest.mark.parametrize("name", GROUPS)
def test_every_index_once_no_group_twice_and_fewest_batches(name, batch_size):
    groups = GROUPS[name]
    sampler = UniqueGroupBatchSampler(groups, batch_size=batch_size)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert sorted(chain.from_iterable(batches)) == list(range(len(groups)))
        assert all(is_unique(batch, groups) and len(batch) <= batch_size for batch in batches)
        fewest = max(math.ceil(len(groups) / batch_size), *Counter(groups).values(), 0)
        assert len(batches) == len(sampler) == fewest


@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
@pytest.mark.parametrize("name", GROUPS)
def test_drop_last_keeps_full_batches_only(name, batch_size):
    sampler = UniqueGroupBatchSampler(GROUPS[name], batch_size=batch_size, drop_last=True)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(len(batch) == batch_size for batch in batches)


def test_order_depends_on_seed_and_epoch_only():
    groups = GROUPS["five captions each"]
    sampler = UniqueGroupBatchSampler(groups, batch_size=8, seed=1)
    first = list(sampler)
    assert list(sampler) == first == list(UniqueGroupBatchSampler(groups, batch_size=8, seed=1))
    assert list(UniqueGroupBatchSampler(groups, batch_size=8, seed=2)) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_must_be_positive(batch_size):
    with pytest.raises(ValueError, match=f"`batch_size` must be at least 1, but got {batch_size}"):
        UniqueGroupBatchSampler(["a"], batch_size=batch_size)


def test_in_a_data_loader():
    groups = GROUPS["uneven"]
    loader = DataLoader(range(len(groups)), batch_sampler=UniqueGroupBatchSampler(groups, batch_size=4))
    batches = [batch.tolist() for batch in loader]
    assert len(loader) == len(batches)
    assert all(is_unique(batch, groups) for batch in batches)


@pytest.mark.parametrize("even_batches", [True, False])
@pytest.mark.parametrize("batch_size", [3, 8])
@pytest.mark.parametrize("name", ["five captions each", "uneven", "one large", "all different"])
def test_two_processes_of_accelerate(name, batch_size, even_batches):
    groups = GROUPS[name]
    sampler = UniqueGroupBatchSampler(groups, batch_size=batch_size)
    shards = [BatchSamplerShard(sampler, 2, process, even_batches=even_batches) for process in (0, 1)]
    batches = [list(shard) for shard in shards]
    assert all(is_unique(batch, groups) for process in batches for batch in process)
    assert {index for process in batches for batch in process for index in batch} == set(range(len(groups)))
    assert [len(process) for process in batches] == [len(shard) for shard in shards]
    if even_batches:
        assert len(batches[0]) == len(batches[1])


@pytest.mark.parametrize("num_processes", [1, 2])
def test_accelerate_passes_the_epoch_on(num_processes):
    groups = GROUPS["five captions each"]
    sampler = UniqueGroupBatchSampler(groups, batch_size=8)
    whole = DataLoader(range(len(groups)), batch_sampler=sampler)
    loader = prepare_data_loader(whole, num_processes=num_processes, process_index=0)
    loader.set_epoch(5)
    assert sampler.epoch == 5
