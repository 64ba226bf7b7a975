import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from tests import tiny

from vlmkit import DualEncoderModel, QFormerAligner
from vlmkit.inference import cache_vision_features, embed_table
from vlmkit.metrics import retrieval_metrics

CAPTIONS = [["a red circle", "a star"], ["the dog runs on grass"], ["a cat", "the cat", "a small cat"]]


@pytest.fixture
def table() -> Dataset:
    columns = {"image": [tiny.photo(seed=row) for row in range(3)], "captions": CAPTIONS}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "captions": List(Value("string"))}))


def test_embeds_every_image_and_caption_once(table, tmp_path):
    model, processor = DualEncoderModel(tiny.dual_encoder_config()).eval(), tiny.dual_encoder_processor()
    embeds = embed_table(model, processor, table, batch_size=2)
    assert embeds.image_groups.tolist() == [0, 1, 2]
    assert embeds.text_groups.tolist() == [0, 0, 1, 2, 2, 2]
    inputs = processor(
        images=table["image"][:], text=[text for texts in CAPTIONS for text in texts], return_tensors="pt"
    )
    expected = model(**inputs)
    torch.testing.assert_close(embeds.image_embeds, expected.image_embeds)
    torch.testing.assert_close(embeds.text_embeds, expected.text_embeds)
    metrics = retrieval_metrics(*embeds, cutoffs=(1, 3))
    assert metrics["text_to_image/recall@3"] == 1.0


def test_keeps_the_models_mode_and_the_features_only_if_asked(table, tmp_path):
    model = DualEncoderModel(tiny.dual_encoder_config(freeze_text=False, text_features="encoder")).train()
    first = embed_table(model, tiny.dual_encoder_processor(), table)
    assert model.training
    assert model.text_tower.backbone.training
    second = embed_table(model, tiny.dual_encoder_processor(), table, cache_dir=tmp_path)
    assert torch.equal(first.text_embeds, second.text_embeds)  # no dropout
    assert len(list(tmp_path.glob("*.arrow"))) == 2


@pytest.mark.parametrize("kind", ["image", "vision_features"])
def test_an_aligner_without_text_tower(table, tmp_path, kind):
    torch.manual_seed(0)
    model, processor = QFormerAligner(tiny.qformer_aligner_config()).train(), tiny.qformer_aligner_processor()
    rows = table if kind == "image" else cache_vision_features(model.vision_tower, processor, table, cache_dir=tmp_path)
    embeds = embed_table(model, processor, rows, batch_size=2)
    assert model.training
    inputs = processor(
        images=table["image"][:], text=[text for texts in CAPTIONS for text in texts], return_tensors="pt"
    )
    expected = model.eval()(**inputs)
    torch.testing.assert_close(embeds.image_embeds, expected.image_embeds)
    torch.testing.assert_close(embeds.text_embeds, expected.text_embeds)
    assert embeds.text_groups.tolist() == [0, 0, 1, 2, 2, 2]
    assert retrieval_metrics(*embeds, cutoffs=(3,))["text_to_image/recall@3"] == 1.0


def test_only_two_towers_can_be_kept(table, tmp_path):
    model = QFormerAligner(tiny.qformer_aligner_config())
    with pytest.raises(
        ValueError, match="`cache_dir` must be `None` for QFormerAligner, which does not have a text tower"
    ):
        embed_table(model, tiny.qformer_aligner_processor(), table, cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["captions", "image"])
def test_a_missing_column_is_named(table, name):
    model = DualEncoderModel(tiny.dual_encoder_config())
    with pytest.raises(ValueError, match=rf"The table lacks '{name}'\. Its columns are "):
        embed_table(model, tiny.dual_encoder_processor(), table.remove_columns(name))


def test_an_empty_table(table):
    model = DualEncoderModel(tiny.dual_encoder_config())
    with pytest.raises(ValueError, match="`table` must have at least one row"):
        embed_table(model, tiny.dual_encoder_processor(), table.select([]))
