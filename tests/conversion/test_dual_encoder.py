"""The converter against a recording of the original code; `tests/golden/make_dual_encoder.py` tells of what."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.conversion import dual_encoder_original
from tests.conversion.dual_encoder_original import FACTS, under
from torch.testing import assert_close
from torchvision import transforms
from transformers import AutoModel, AutoProcessor

from vlmkit import DualEncoderModel, DualEncoderProcessor
from vlmkit.conversion import convert_dual_encoder
from vlmkit.metrics import retrieval_metrics


def close(actual, expected, atol=1e-5):
    assert_close(actual, expected, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def golden():
    return dual_encoder_original.recording()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return dual_encoder_original.write(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    destination = tmp_path_factory.mktemp("converted") / "vit-small-gpt2"
    convert_dual_encoder(destination=destination, **source)
    return destination


@pytest.fixture(scope="module")
def model(folder):
    return AutoModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def images(golden):
    return [Image.fromarray(image.numpy()) for image in under("images.", golden).values()]


@pytest.fixture(scope="module")
def pixel_values(images):
    """`(12, 3, 224, 224)`, as the original prepares images."""
    prepare = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    return torch.stack([prepare(image) for image in images])


# What the original computed


@torch.no_grad()
def test_vision_features(model, pixel_values, golden):
    close(model.vision_tower(pixel_values).pooler_output, golden["vision_features"])


@torch.no_grad()
def test_projected_embeddings(model, pixel_values, golden):
    close(model.get_image_features(pixel_values).pooler_output, golden["projected"])


@torch.no_grad()
def test_text_embeddings_of_a_padded_batch(model, golden):
    features = model.get_text_features(golden["input_ids"], golden["attention_mask"])
    close(features.pooler_output, golden["text_embeddings"])


@torch.no_grad()
def test_text_embeddings_one_by_one_and_cut_at_77_tokens(model, processor, golden):
    lengths = []
    for caption, expected in zip(FACTS["captions"], golden["text_embeddings"], strict=True):
        inputs = processor(text=[caption], return_tensors="pt")
        lengths.append(inputs["input_ids"].shape[1])
        close(model.get_text_features(**inputs).pooler_output[0], expected)
    assert max(lengths) == 77 < max(len(caption.split()) for caption in FACTS["captions"])


@torch.no_grad()
def test_loss_and_recalls_before_training(model, pixel_values, golden):
    outputs = model(pixel_values, golden["input_ids"], golden["attention_mask"])
    close(outputs.loss, golden["infonce_loss"])
    assert outputs.loss.item() == pytest.approx(3.0696661, abs=1e-5)
    assert_recalls(outputs, "initial")


@pytest.mark.parametrize(("run", "lr"), [("lr1e4", 1e-4), ("lr1e2", 1e-2)])
def test_training_takes_the_same_course(model, golden, run, lr):
    """20 epochs of two batches, the first 8 pairs and the other 4, on features computed once."""
    model = deepcopy(model).train()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained.keys() == {"vision_projection.weight", "vision_projection.bias"}
    optimizer = torch.optim.AdamW(trained.values(), lr=lr, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    pairs = {"image_pooled": golden["vision_features"], "text_pooled": golden["text_embeddings"]}

    losses = []
    for _ in range(20):
        for batch in (slice(0, 8), slice(8, 12)):
            loss = model(**{side: pooled[batch] for side, pooled in pairs.items()}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        scheduler.step()

    close(torch.stack(losses), golden[f"train_losses_20ep_{run}"])
    for name in ("weight", "bias"):
        close(trained[f"vision_projection.{name}"].detach(), golden[f"train_final_{run}.projection.{name}"])
    if run == "lr1e2":
        assert_recalls(model.eval()(**pairs), "after_lr1e-2")


def assert_recalls(outputs, moment):
    scores = retrieval_metrics(outputs.image_embeds, outputs.text_embeds, cutoffs=(1, 3, 5))
    for k in (1, 3, 5):
        recalls = [100 * scores[f"{direction}/recall@{k}"] for direction in ("image_to_text", "text_to_image")]
        assert recalls == pytest.approx(FACTS["recall"][f"{moment}_k{k}"], abs=1e-4)


# The processor


def test_tokens_are_those_of_the_original(processor, golden):
    inputs = processor(text=FACTS["captions"], return_tensors="pt")
    assert inputs["input_ids"].equal(golden["input_ids"])  # padded with the end-of-text token
    assert inputs["attention_mask"].equal(golden["attention_mask"])


def test_the_reference_pixels_are_those_of_the_original(pixel_values, golden):
    close(pixel_values[0, :, ::16, ::16], golden["pixel_values_image0_sub"])
    close(pixel_values.mean(dim=(1, 2, 3)), golden["pixel_mean_per_image"])


def test_pixels_are_within_one_level_of_the_original(processor, images, pixel_values, golden):
    prepared = processor(images=images, return_tensors="pt")["pixel_values"]
    one_level = 1.01 / 255 / 0.224
    close(prepared[0, :, ::16, ::16], golden["pixel_values_image0_sub"], atol=one_level)
    close(prepared.mean(dim=(1, 2, 3)), golden["pixel_mean_per_image"], atol=1e-3)
    for image, actual, expected in zip(images, prepared, pixel_values, strict=True):
        margin = int(256 * max(image.size) / min(image.size)) - 224
        if margin % 4 == 3:  # half of it ends in .5, which torchvision rounds up, to even, and transformers down
            long_side = 2 if image.width > image.height else 1
            actual, expected = actual.narrow(long_side, 1, 223), expected.narrow(long_side, 0, 223)
        close(actual, expected, atol=one_level)


# The folder


def test_the_folder_loads_as_frozen_towers_and_a_projection(model, processor, golden):
    assert isinstance(model, DualEncoderModel)
    assert isinstance(processor, DualEncoderProcessor)
    assert model.config.text_features == "token_embeddings"
    assert model.config.projection == "vision_to_text"
    assert model.config.temperature == FACTS["temperature"] == 0.07
    assert model.config.freeze_vision
    assert model.config.freeze_text
    assert model.vision_projection.weight.equal(golden["projection.weight"])


def test_the_returned_model_is_the_saved_one(source, tmp_path):
    model = convert_dual_encoder(destination=tmp_path, **source)  # an existing, empty folder
    assert not model.training
    saved = AutoModel.from_pretrained(tmp_path).state_dict()
    assert all(saved[name].equal(value) for name, value in model.state_dict().items())


def test_the_card_tells_where_the_model_comes_from(folder):
    card = (folder / "README.md").read_text()
    assert "Converted from `vit_small_to_gpt2.pt`" in card
    assert str(folder.parent) not in card


# Errors


def refused(source, tmp_path, error, match, **changes):
    destination = tmp_path / "converted"
    with pytest.raises(error, match=match):
        convert_dual_encoder(**{**source, "destination": destination, **changes})
    assert not destination.exists()


def test_missing_file(source, tmp_path):
    refused(source, tmp_path, FileNotFoundError, r"absent\.pt does not exist", projection_file=tmp_path / "absent.pt")


def test_missing_backbone(source, tmp_path):
    refused(source, tmp_path, OSError, "absent", vision=str(tmp_path / "absent"))


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(source, tmp_path, kept):
    content = source["projection_file"].read_bytes()
    file = tmp_path / "cut.pt"
    file.write_bytes(content[: int(kept * len(content))])
    refused(source, tmp_path, ValueError, r"cut\.pt is truncated or damaged", projection_file=file)


def test_no_checkpoint_at_all(source, tmp_path):
    file = tmp_path / "page.pt"
    file.write_text("<!DOCTYPE html>")
    refused(source, tmp_path, ValueError, r"page\.pt is truncated or damaged", projection_file=file)


class Payload:
    """Would write a file when unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "unpickled")


def test_pickled_code_is_not_run(source, golden, tmp_path):
    torch.save(
        {**dual_encoder_original.projection(golden), "payload": Payload(tmp_path / "proof")}, tmp_path / "bad.pt"
    )
    refused(source, tmp_path, ValueError, "contains objects other than tensors", projection_file=tmp_path / "bad.pt")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("state", [torch.ones(2), {"projection.weight": 1.0}])
def test_no_dictionary_of_tensors(source, tmp_path, state):
    torch.save(state, tmp_path / "other.pt")
    refused(source, tmp_path, ValueError, "must contain a dictionary of tensors", projection_file=tmp_path / "other.pt")


def test_unexpected_keys_are_named(source, golden, tmp_path):
    torch.save({"projection.weight": golden["projection.weight"], "head.bias": torch.ones(40)}, tmp_path / "other.pt")
    match = r"lacks the weights \['projection\.bias'\] and has the unexpected weights \['head\.bias'\]"
    refused(source, tmp_path, ValueError, match, projection_file=tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("weight", "bias", "match"),
    [
        ((40, 32), 40, r"projection\.weight .* \(40, 24\) for .*vision and .*text, but got \(40, 32\)"),
        ((24, 40), 40, r"projection\.weight .* but got \(24, 40\)"),
        ((40, 24), 1, r"projection\.bias .* \(40,\) for .*, but got \(1,\)"),
    ],
)
def test_both_sizes_are_named_if_they_differ(source, tmp_path, weight, bias, match):
    torch.save({"projection.weight": torch.ones(weight), "projection.bias": torch.ones(bias)}, tmp_path / "wide.pt")
    refused(source, tmp_path, ValueError, match, projection_file=tmp_path / "wide.pt")


def test_nothing_is_overwritten(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for destination in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(FileExistsError, match="must be a new or empty folder"):
            convert_dual_encoder(destination=destination, **source)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
