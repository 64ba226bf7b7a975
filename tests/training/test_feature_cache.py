from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage
from tests import tiny
from transformers import CLIPImageProcessor

from vlmkit import DualEncoderModel, DualEncoderProcessor
from vlmkit.data import CaptionPairs, ContrastiveCollator
from vlmkit.training import cache_image_features, cache_text_features

CAPTIONS = [["a red circle", "a small circle left of a star"], ["the dog runs on grass"], ["a cat"]]


def make_table(size: int = 3) -> Dataset:
    columns = {
        "image": [PilImage.new("RGB", (40, 50), (80 * row, 10, 200)) for row in range(size)],
        "captions": CAPTIONS[:size],
        "image_id": [f"{row}.jpg" for row in range(size)],
    }
    features = Features({"image": Image(), "captions": List(Value("string")), "image_id": Value("string")})
    return Dataset.from_dict(columns, features=features)


@pytest.fixture
def model() -> DualEncoderModel:
    return DualEncoderModel(tiny.dual_encoder_config()).eval()


@pytest.fixture
def processor() -> DualEncoderProcessor:
    return tiny.dual_encoder_processor()


def cached(model, processor, table, folder, **kwargs):
    table = cache_image_features(model.vision_tower, processor, table, cache_dir=folder, **kwargs)
    return cache_text_features(model.text_tower, processor, table, cache_dir=folder, **kwargs)


def test_features_are_the_towers_outputs(model, processor, tmp_path):
    table = make_table()
    features = cached(model, processor, table, tmp_path, batch_size=2)
    assert features.column_names == ["captions", "image_id", "image_pooled", "text_pooled"]
    inputs = processor(images=table["image"][:], return_tensors="pt")
    expected = model.vision_tower(**inputs).pooler_output
    torch.testing.assert_close(torch.stack(list(features["image_pooled"])), expected)
    for row, captions in enumerate(CAPTIONS):
        expected = model.text_tower(**processor(text=captions, return_tensors="pt")).pooler_output
        torch.testing.assert_close(features[row]["text_pooled"], expected)


def test_a_model_scores_cached_features_like_raw_inputs(model, processor, tmp_path):
    table = make_table()
    raw = ContrastiveCollator(processor)([table[row] for row in range(3)])
    pooled = ContrastiveCollator()(list(cached(model, processor, table, tmp_path)))
    torch.testing.assert_close(model(**pooled).logits_per_image, model(**raw).logits_per_image)
    assert torch.equal(pooled["group_ids"], raw["group_ids"])


def test_pairs_cut_features_with_their_caption(model, processor, tmp_path):
    features = cached(model, processor, make_table(), tmp_path)
    pairs = CaptionPairs(features)
    assert [pairs[i]["text_pooled"].shape[0] for i in range(len(pairs))] == [1, 1, 1, 1]
    assert torch.equal(pairs[1]["text_pooled"][0], features[0]["text_pooled"][1])


def test_a_second_call_runs_no_tower(model, processor, tmp_path, monkeypatch):
    first = cached(model, processor, make_table(), tmp_path)
    monkeypatch.setattr(type(model.vision_tower), "forward", lambda *_, **__: pytest.fail("the tower ran again"))
    monkeypatch.setattr(type(model.text_tower), "forward", lambda *_, **__: pytest.fail("the tower ran again"))
    second = cached(model, processor, make_table(), tmp_path)
    assert torch.equal(torch.stack(list(first["image_pooled"])), torch.stack(list(second["image_pooled"])))
    assert len(list(tmp_path.glob("*.arrow"))) == 2


def test_image_features_are_shared_by_models_with_another_text_side(model, processor, tmp_path):
    cached(model, processor, make_table(), tmp_path)
    other = DualEncoderModel(tiny.dual_encoder_config(text_features="encoder")).eval()
    other.vision_tower.load_state_dict(model.vision_tower.state_dict())
    cached(other, processor, make_table(), tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 3


def change_weights(model, processor, table):
    with torch.no_grad():
        next(model.vision_tower.parameters())[0] += 1e-3
    return model, processor, table


def change_pooling(model, processor, table):
    model.vision_tower.pooling = "mean"
    return model, processor, table


def change_preprocessing(model, processor, table):
    other = CLIPImageProcessor(**{**processor.image_processor.to_dict(), "image_mean": [0.1, 0.2, 0.3]})
    return model, DualEncoderProcessor(other, processor.tokenizer), table


def change_images(model, processor, table):
    return model, processor, table.select([2, 1, 0]).flatten_indices()


@pytest.mark.parametrize("change", [change_weights, change_pooling, change_preprocessing, change_images])
def test_image_features_are_computed_anew_after_a_change(change, model, processor, tmp_path):
    old = cache_image_features(model.vision_tower, processor, make_table(), cache_dir=tmp_path)
    changed, processor, table = change(model, processor, make_table())
    new = cache_image_features(changed.vision_tower, processor, table, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 2
    assert not torch.equal(torch.stack(list(old["image_pooled"])), torch.stack(list(new["image_pooled"])))


def test_text_features_are_computed_anew_for_other_tokens(model, processor, tmp_path):
    for captions in (CAPTIONS, [*CAPTIONS[:2], ["a dog"]]):
        table = make_table().remove_columns("captions").add_column("captions", captions)
        cache_text_features(model.text_tower, processor, table, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 2


def test_a_trained_tower_is_encoded_in_evaluation_mode(processor, tmp_path):
    config = tiny.dual_encoder_config(freeze_text=False, text_features="encoder")
    model = DualEncoderModel(config).train()  # GPT-2's dropout is on
    features = cache_text_features(model.text_tower, processor, make_table(), cache_dir=tmp_path)
    expected = model.eval().text_tower(**processor(text=["a cat"], return_tensors="pt")).pooler_output
    torch.testing.assert_close(features[2]["text_pooled"], expected)


def test_the_default_place_is_the_datasets_cache(model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path(tmp_path))
    cache_image_features(model.vision_tower, processor, make_table())
    assert len(list((tmp_path / "vlmkit").glob("*.arrow"))) == 1


@pytest.mark.parametrize(("encode", "column"), [(cache_image_features, "image"), (cache_text_features, "captions")])
def test_a_missing_column_is_named(encode, column, model, processor):
    tower = model.vision_tower if column == "image" else model.text_tower
    with pytest.raises(ValueError, match=f"no column '{column}', only"):
        encode(tower, processor, make_table().remove_columns(column))


def test_features_for_a_tower_in_training_are_refused(processor, tmp_path):
    model = DualEncoderModel(tiny.dual_encoder_config(freeze_vision=False)).train()
    batch = ContrastiveCollator()(list(cached(model, processor, make_table(), tmp_path)))
    with pytest.raises(ValueError, match="freeze_vision=True"):
        model.train()(**batch)
    assert model.eval()(**batch).loss is not None
