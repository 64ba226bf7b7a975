"""The first rows of a data set's splits, and the split to score on."""

import pytest
from datasets import Dataset

from vlmkit.data import evaluation_split, take_rows

TABLES = {
    name: Dataset.from_dict({"n": list(range(count))})
    for name, count in {"train": 5, "validation": 2, "test": 3}.items()
}


@pytest.mark.parametrize(("count", "sizes"), [(1, [1, 1, 1]), (3, [3, 2, 3]), (9, [5, 2, 3]), (None, [5, 2, 3])])
def test_no_split_has_more_rows_than_asked_for(count, sizes):
    tables = take_rows(TABLES, count)
    assert list(tables) == list(TABLES)
    assert [table["n"][:] for table in tables.values()] == [list(range(size)) for size in sizes]


@pytest.mark.parametrize("count", [0, -1])
def test_no_rows_are_refused(count):
    with pytest.raises(ValueError, match=f"`count` must be at least 1, but got {count}"):
        take_rows(TABLES, count)


@pytest.mark.parametrize(
    ("splits", "scored"),
    [(["train", "validation", "test"], "test"), (["train", "validation"], "validation"), (["train"], "train")],
)
def test_the_split_to_score_on(splits, scored):
    assert evaluation_split({split: TABLES[split] for split in splits}) is TABLES[scored]


@pytest.mark.parametrize(("splits", "named"), [(["train", "restval"], "'train', 'restval'"), ([], "no splits")])
def test_there_is_none(splits, named):
    with pytest.raises(ValueError, match=f"must have a split 'test' or 'validation', .* but got {named}"):
        evaluation_split(dict.fromkeys(splits, TABLES["train"]))
