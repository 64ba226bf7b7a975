import datasets
import pytest
import torch
from PIL import Image

from vlmkit.data import CaptionPairs


@pytest.fixture
def table() -> datasets.Dataset:
    columns = {
        "image": [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue")],
        "captions": [["a1", "a2"], [], ["c1"]],
        "text_pooled": [[[1.0, 1.0], [2.0, 2.0]], [], [[3.0, 3.0]]],
        "image_id": ["a", "b", "c"],
    }
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def test_one_item_per_caption(table):
    pairs = CaptionPairs(table)
    assert len(pairs) == 3
    assert pairs.image_ids == ["a", "a", "c"]
    assert [item["captions"] for item in pairs] == [["a1"], ["a2"], ["c1"]]
    assert [item["text_pooled"] for item in pairs] == [[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 3.0]]]
    assert [item["image_id"] for item in pairs] == pairs.image_ids


def test_item_has_its_rows_image(table):
    assert CaptionPairs(table)[-1]["image"].getpixel((0, 0)) == (0, 0, 255)


def test_features_may_be_tensors(table):
    pairs = CaptionPairs(table.with_format("torch", columns=["text_pooled"], output_all_columns=True))
    assert torch.equal(pairs[1]["text_pooled"], torch.tensor([[2.0, 2.0]]))
    assert pairs[1]["captions"] == ["a2"]


def test_index_out_of_range(table):
    with pytest.raises(IndexError):
        CaptionPairs(table)[3]


@pytest.mark.parametrize("column", ["captions", "image_id"])
def test_missing_column(table, column):
    with pytest.raises(ValueError, match=rf"The table lacks '{column}'\. Its columns are "):
        CaptionPairs(table.remove_columns(column))


def test_no_caption_at_all(table):
    with pytest.raises(ValueError, match="must contain at least one caption"):
        CaptionPairs(table.select([1]))
