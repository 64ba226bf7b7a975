"""timm's preprocessing, translated to a processor that transformers can save."""

import numpy as np
import pytest
import torch
from tests import tiny
from transformers import CLIPImageProcessor, TimmWrapperImageProcessor

from vlmkit import DualEncoderProcessor
from vlmkit.base.image_processors import to_saveable_image_processor

STD = (0.2, 0.3, 0.4)
CENTER = {"input_size": (3, 224, 224), "crop_pct": 0.9, "crop_mode": "center", "interpolation": "bicubic"}
SQUASH = {"input_size": (3, 224, 160), "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bilinear"}
LEVELS = 0.3  # mean difference, in levels of 255, that resizing a tensor instead of a PIL image makes


def timm_processor(**changes) -> TimmWrapperImageProcessor:
    return TimmWrapperImageProcessor({"mean": (0.5, 0.4, 0.3), "std": STD, **CENTER, **changes}, architecture="vit")


def levels(pixel_values: torch.Tensor) -> np.ndarray:
    """`(3, H, W)` in levels of 255, up to a constant."""
    return (pixel_values[0] * torch.tensor(STD)[:, None, None] * 255).numpy()


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (224, 224), (98, 62), (1000, 50)], ids=str)
@pytest.mark.parametrize("config", [CENTER, {**CENTER, "crop_pct": 1.0}, SQUASH], ids=["center", "whole", "squash"])
def test_pixels_are_timms(config, size):
    processor = timm_processor(**config)
    expected = levels(processor(tiny.photo(*size))["pixel_values"])
    translated = levels(to_saveable_image_processor(processor)(tiny.photo(*size), return_tensors="pt")["pixel_values"])
    assert translated.shape == expected.shape == config["input_size"]
    assert np.abs(translated - expected).mean() < LEVELS


def test_an_odd_margin_moves_the_crop_by_one_pixel():
    processor = timm_processor()
    image = tiny.photo(301, 199)  # resized to 375 x 248, of which 151 columns are cut off
    expected = levels(processor(image)["pixel_values"])
    translated = levels(to_saveable_image_processor(processor)(image, return_tensors="pt")["pixel_values"])
    assert np.abs(translated[..., 1:] - expected[..., :-1]).mean() < LEVELS


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_fields_are_timms(interpolation):
    translated = to_saveable_image_processor(timm_processor(interpolation=interpolation))
    assert translated.size == {"shortest_edge": 248}
    assert translated.crop_size == {"height": 224, "width": 224}
    assert tuple(translated.image_mean) == (0.5, 0.4, 0.3)
    assert tuple(translated.image_std) == STD
    assert translated.resample.name == interpolation.upper()
    assert to_saveable_image_processor(timm_processor(**SQUASH)).size == {"height": 248, "width": 177}


@pytest.mark.parametrize("config", [CENTER, SQUASH], ids=["center", "squash"])
def test_a_saved_processor_gives_the_same_pixels_to_the_bit(config, tmp_path):
    processor = DualEncoderProcessor(timm_processor(**config), tiny.tokenizer())
    processor.save_pretrained(tmp_path)
    loaded = DualEncoderProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    before, after = (p(images=tiny.photo(301, 199), return_tensors="pt")["pixel_values"] for p in (processor, loaded))
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"crop_mode": "border"}, "'border' with 224 x 224"), ({"input_size": (3, 224, 160)}, "'center' with 224 x 160")],
)
def test_a_crop_without_counterpart_is_refused(changes, named):
    with pytest.raises(ValueError, match=f"crop mode of a timm image processor must be .* but got {named} pixels"):
        to_saveable_image_processor(timm_processor(**changes))


def test_other_processors_are_left_as_they_are():
    processor = CLIPImageProcessor()
    assert to_saveable_image_processor(processor) is processor
