from pathlib import Path

import pytest
import torch
from datasets import Array2D, Dataset, Features, Image, List, Value
from PIL import Image as PilImage
from tests import tiny
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessor

from vlmkit import DualEncoderModel, DualEncoderProcessor
from vlmkit.data import CaptionCollator, CaptionPairs, ContrastiveCollator
from vlmkit.inference import cache_image_features, cache_text_features, cache_vision_features

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


@pytest.mark.parametrize(
    ("encode", "column"),
    [(cache_image_features, "image"), (cache_vision_features, "image"), (cache_text_features, "captions")],
)
def test_a_missing_column_is_named(encode, column, model, processor):
    tower = model.vision_tower if column == "image" else model.text_tower
    with pytest.raises(ValueError, match=rf"The table lacks '{column}'\. Its columns are "):
        encode(tower, processor, make_table().remove_columns(column))


def test_features_for_a_tower_in_training_are_refused(processor, tmp_path):
    model = DualEncoderModel(tiny.dual_encoder_config(freeze_vision=False)).train()
    batch = ContrastiveCollator()(list(cached(model, processor, make_table(), tmp_path)))
    with pytest.raises(ValueError, match="freeze_vision=True"):
        model.train()(**batch)
    assert model.eval()(**batch).loss is not None


def tokens_of(table: Dataset) -> torch.Tensor:
    return torch.stack(list(table["vision_features"]))


def encode_table(model, processor, table, folder, **kwargs) -> Dataset:
    return cache_vision_features(model.vision_tower, processor, table, cache_dir=folder, **kwargs)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tokens_are_the_towers_outputs(dtype, model, processor, tmp_path):
    table = make_table()
    cached_table = encode_table(model, processor, table, tmp_path, batch_size=2, dtype=dtype)
    assert cached_table.column_names == ["captions", "image_id", "vision_features"]
    expected = model.vision_tower(**processor(images=table["image"][:], return_tensors="pt")).last_hidden_state
    assert expected.shape == (3, 5, 16)
    assert cached_table.features["vision_features"] == Array2D((5, 16), dtype)
    assert tokens_of(cached_table).dtype == torch.float32
    torch.testing.assert_close(tokens_of(cached_table), expected.to(getattr(torch, dtype)).float())


def test_float16_halves_the_file(model, processor, tmp_path):
    table = make_table().select([0] * 500).flatten_indices()
    sizes = {}
    for dtype, width in (("float32", 4), ("float16", 2)):
        encode_table(model, processor, table, tmp_path / dtype, dtype=dtype)
        (file,) = (tmp_path / dtype).glob("*.arrow")
        sizes[width] = file.stat().st_size
    num_values = 500 * 5 * 16
    assert sizes[4] - sizes[2] == pytest.approx(2 * num_values, rel=0.05)
    assert 4 * num_values < sizes[4] < 1.5 * 4 * num_values  # rows of 16 numbers have much around them


def test_a_second_call_for_tokens_runs_no_tower(model, processor, tmp_path, monkeypatch):
    first = encode_table(model, processor, make_table(), tmp_path)
    monkeypatch.setattr(type(model.vision_tower), "forward", lambda *_, **__: pytest.fail("the tower ran again"))
    second = encode_table(model, processor, make_table(), tmp_path)
    assert torch.equal(tokens_of(first), tokens_of(second))
    assert first._fingerprint == second._fingerprint


def without_prefix_tokens(model):
    model.vision_tower.prefix_tokens = False


def of_two_layers(model):
    model.vision_tower.layers = [0, 1]


@pytest.mark.parametrize(("change", "num_tokens"), [(without_prefix_tokens, 4), (of_two_layers, 10)])
def test_other_tokens_are_computed_anew_and_pooled_features_are_not(change, num_tokens, model, processor, tmp_path):
    for expected in (5, num_tokens):
        table = encode_table(model, processor, make_table(), tmp_path)
        cache_image_features(model.vision_tower, processor, make_table(), cache_dir=tmp_path)
        assert table[0]["vision_features"].shape == (expected, 16)
        change(model)
    assert len(list(tmp_path.glob("*.arrow"))) == 3


@pytest.mark.parametrize("change", [change_weights, change_preprocessing, change_images])
def test_tokens_are_computed_anew_after_a_change(change, model, processor, tmp_path):
    old = encode_table(model, processor, make_table(), tmp_path)
    new = encode_table(*change(model, processor, make_table()), tmp_path)
    assert not torch.equal(tokens_of(old), tokens_of(new))


def shapes() -> Dataset:
    """A square, a wide and a tall photograph."""
    photos = [tiny.photo(*size, seed=row) for row, size in enumerate([(64, 64), (64, 16), (32, 64)])]
    return Dataset.from_dict({"image": photos}, features=Features({"image": Image()}))


def crops_processor(**images):
    return tiny.crops_processor(tiny.smolvlm_config(), **images)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_padding_has_no_part_in_an_images_features(batch_size, model, tmp_path):
    processor, table = crops_processor(size={"longest_edge": 64}), shapes()
    features = cache_image_features(model.vision_tower, processor, table, batch_size=batch_size, cache_dir=tmp_path)
    for row, image in enumerate(table["image"]):
        pixel_values = processor(images=image, return_tensors="pt")["pixel_values"]
        expected = model.vision_tower(pixel_values).pooler_output[0]
        torch.testing.assert_close(features[row]["image_pooled"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [{"longest_edge": 64}, {"height": 32, "width": 48}])
def test_tokens_that_need_a_mask_are_refused(size, model, tmp_path):
    message = "VlmkitSmolVLMImageProcessor returns a `pixel_attention_mask`. Set its `size` to a square"
    with pytest.raises(ValueError, match=message):
        encode_table(model, crops_processor(size=size), shapes(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encode", [cache_image_features, cache_vision_features])
def test_several_crops_of_an_image_are_refused(encode, model, tmp_path):
    processor = crops_processor(do_image_splitting=True)
    message = "must return one crop per image, but .* returns 5. Set its `do_image_splitting=False`"
    with pytest.raises(ValueError, match=message):
        encode(model.vision_tower, processor, shapes(), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tokens_of_images_that_are_squashed_to_one_square_are_kept(model, tmp_path):
    processor, table = crops_processor(size={"height": 48, "width": 48}), shapes()
    inputs = processor(images=table["image"][:], return_tensors="pt")
    expected = model.vision_tower(inputs["pixel_values"]).last_hidden_state
    torch.testing.assert_close(tokens_of(encode_table(model, processor, table, tmp_path)), expected)


@pytest.mark.parametrize("encode", [cache_image_features, cache_vision_features])
@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_nothing_behind(encode, interruption, model, processor, tmp_path, monkeypatch):
    table, tower = make_table(), model.vision_tower
    forward, calls = tower.forward, []

    def stop_at_the_third_call(**inputs):
        calls.append(inputs)
        if len(calls) == 3:
            raise interruption
        return forward(**inputs)

    with monkeypatch.context() as patch:
        patch.setattr(tower, "forward", stop_at_the_third_call)
        with pytest.raises(interruption):
            encode(tower, processor, table, batch_size=1, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(encode(tower, processor, table, batch_size=1, cache_dir=tmp_path)) == 3


def test_a_tower_in_training_keeps_its_mode_after_an_interruption(processor, tmp_path, monkeypatch):
    tower = DualEncoderModel(tiny.dual_encoder_config(freeze_vision=False)).train().vision_tower

    def interrupt(**_):
        assert not tower.backbone.training
        raise KeyboardInterrupt

    monkeypatch.setattr(tower, "forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache_image_features(tower, processor, make_table(), cache_dir=tmp_path)
    assert tower.training
    assert tower.backbone.training


def test_the_file_gets_its_name_when_it_is_complete(model, processor, tmp_path, monkeypatch):
    tower, seen = model.vision_tower, []
    forward = tower.forward

    def look_around(**inputs):
        seen.append([file.suffix for file in tmp_path.iterdir()])
        return forward(**inputs)

    monkeypatch.setattr(tower, "forward", look_around)
    encode_table(model, processor, make_table(), tmp_path, batch_size=1)
    assert seen == [[], [], [""], [""]]  # a run that is killed leaves nothing that looks like a result
    assert [file.suffix for file in tmp_path.iterdir()] == [".arrow"]


def test_tokens_and_texts_lie_side_by_side(model, processor, tmp_path):
    table = encode_table(model, processor, make_table(), tmp_path)
    table = cache_text_features(model.text_tower, processor, table, cache_dir=tmp_path)
    pairs = CaptionPairs(table)
    assert pairs[1]["vision_features"].shape == (5, 16)
    assert torch.equal(pairs[0]["vision_features"], pairs[1]["vision_features"])


def test_cached_tokens_make_batches_for_captioning(model, tmp_path):
    processor = tiny.qformer_captioner_processor()
    table = encode_table(model, processor, make_table(), tmp_path, dtype="float16")
    batches = list(DataLoader(table, batch_size=2, collate_fn=CaptionCollator(processor)))
    assert [batch["vision_features"].shape for batch in batches] == [(2, 5, 16), (1, 5, 16)]


def test_numbers_too_large_for_float16_are_refused(model, processor, tmp_path):
    with torch.no_grad():
        model.vision_tower.backbone.layernorm.weight.mul_(1e6)
    with pytest.raises(ValueError, match=r"`dtype` must be 'float32' for features up to .*, but got 'float16'"):
        encode_table(model, processor, make_table(), tmp_path, dtype="float16")
    assert tokens_of(encode_table(model, processor, make_table(), tmp_path)).abs().max() > 1e5


def test_unknown_dtype(model, processor):
    with pytest.raises(ValueError, match=r"`dtype` must be one of 'float32', 'float16', but got 'bfloat16'."):
        cache_vision_features(model.vision_tower, processor, make_table(), dtype="bfloat16")


@pytest.mark.parametrize("encode", [cache_image_features, cache_vision_features, cache_text_features])
def test_a_table_without_rows_is_refused(encode, model, processor, tmp_path):
    tower = model.text_tower if encode is cache_text_features else model.vision_tower
    with pytest.raises(ValueError, match="`table` must have at least one row"):
        encode(tower, processor, make_table().select([]), cache_dir=tmp_path)
