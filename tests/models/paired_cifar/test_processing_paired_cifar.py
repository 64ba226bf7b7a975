import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny
from transformers import AutoProcessor, BatchFeature, CLIPImageProcessor
from transformers.utils import logging as transformers_logging

from vlmkit import PairedCifarAlignerProcessor


@pytest.fixture
def processor() -> PairedCifarAlignerProcessor:
    return tiny.paired_cifar_processor()


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What is logged, from the first time on."""
    transformers_logging.get_logger("vlmkit").warning_once.cache_clear()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    return caplog


def plain(colour: tuple[int, int, int], size: int = 16) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def pixels(processor, images, **kwargs) -> torch.Tensor:
    return processor(images=images, return_tensors="pt", **kwargs)["pixel_values"]


def photos(size: int = 16, count: int = 2) -> list[list[Image.Image]]:
    return [[tiny.photo(size, size, seed=2 * row), tiny.photo(size, size, seed=2 * row + 1)] for row in range(count)]


def as_tensor(pairs: list[list[Image.Image]]) -> torch.Tensor:
    arrays = np.stack([[np.asarray(image) for image in pair] for pair in pairs])
    return torch.from_numpy(arrays).permute(0, 1, 4, 2, 3)


def test_pixels_are_scaled_normalized_and_side_by_side(processor):
    values = pixels(processor, [[plain((255, 0, 0)), plain((0, 0, 255))]])
    assert values.shape == (1, 3, 16, 32)
    assert values.dtype == torch.float32
    mean, std = torch.tensor([0.5071, 0.4865, 0.4409]), torch.tensor([0.2673, 0.2564, 0.2762])
    red, blue = ((torch.tensor(colour) - mean) / std for colour in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]))
    torch.testing.assert_close(values[0, :, :, :16], red[:, None, None].expand(3, 16, 16))
    torch.testing.assert_close(values[0, :, :, 16:], blue[:, None, None].expand(3, 16, 16))


@pytest.mark.parametrize("size", [16, 24])
def test_images_arrays_files_and_tensors_give_the_same_pixels(processor, size, tmp_path):
    pairs = photos(size)
    expected = pixels(processor, pairs)
    assert expected.shape == (2, 3, 16, 32)
    files = [[tmp_path / f"{row}{side}.png" for side in range(2)] for row in range(2)]
    for names, pair in zip(files, pairs, strict=True):
        for name, image in zip(names, pair, strict=True):
            image.save(name)
    arrays = [[np.array(image) for image in pair] for pair in pairs]
    singles = [[torch.from_numpy(array).permute(2, 0, 1) for array in pair] for pair in arrays]
    others = {
        "tuples": [tuple(pair) for pair in pairs],
        "arrays": arrays,
        "channels first": singles,
        "files": files,
        "file names": [[str(name) for name in names] for names in files],
        "tensor": as_tensor(pairs),
    }
    for name, images in others.items():
        torch.testing.assert_close(
            pixels(processor, images), expected, rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_one_pair_needs_no_list_around_it(processor):
    [pair] = photos(count=1)
    expected = pixels(processor, [pair])
    for images in (pair, tuple(pair), [tuple(pair)]):
        torch.testing.assert_close(pixels(processor, images), expected, rtol=0, atol=0)


def test_the_options_of_a_call_reach_images_and_tensors(processor):
    pairs = photos()
    for option in ({"do_normalize": False}, {"do_rescale": False}, {"image_mean": [0.1, 0.2, 0.3]}):
        values = pixels(processor, pairs, **option)
        assert not torch.allclose(values, pixels(processor, pairs))
        torch.testing.assert_close(pixels(processor, as_tensor(pairs), **option), values, rtol=0, atol=1e-5)


def test_other_types_of_tensors_can_be_asked_for(processor):
    batch = processor(images=photos(), return_tensors="np")
    assert isinstance(batch, BatchFeature)
    assert isinstance(batch["pixel_values"], np.ndarray)
    np.testing.assert_allclose(batch["pixel_values"], pixels(processor, photos()))


class TestSizes:
    def test_other_sizes_are_reported_once(self, processor, warnings):
        for _ in range(2):
            pixels(processor, photos(24))
            pixels(processor, as_tensor(photos(24)))
        reports = [record.message for record in warnings.records if "resized" in record.message]
        assert reports == ["Images of 24x24 pixels are resized to 16x16."]

    @pytest.mark.parametrize("given", ["images", "arrays", "tensor"])
    def test_sizes_are_width_by_height(self, processor, warnings, given):
        pairs = [[tiny.photo(20, 16)] * 2]
        images = {"images": pairs, "arrays": [[np.array(pairs[0][0])] * 2], "tensor": as_tensor(pairs)}[given]
        assert pixels(processor, images).shape == (1, 3, 16, 32)
        assert [record.message for record in warnings.records if "resized" in record.message] == [
            "Images of 20x16 pixels are resized to 16x16."
        ]

    def test_the_right_size_is_not_reported_and_not_changed(self, processor, warnings):
        pairs = photos()
        values = pixels(processor, pairs, do_normalize=False)
        side_by_side = torch.cat([as_tensor(pairs)[:, 0], as_tensor(pairs)[:, 1]], dim=-1)
        torch.testing.assert_close(values, side_by_side / 255)
        assert not [record for record in warnings.records if "resized" in record.message]

    def test_images_of_one_call_may_differ_in_size(self, processor):
        small, large = plain((10, 20, 30), 8), plain((10, 20, 30), 40)
        values = pixels(processor, [[small, large], [plain((10, 20, 30)), small]])
        torch.testing.assert_close(values, pixels(processor, [[plain((10, 20, 30))] * 2] * 2))

    @pytest.mark.parametrize("size", [{"height": 16, "width": 24}, {"shortest_edge": 16}])
    def test_an_image_processor_that_gives_no_squares_is_refused(self, size):
        with pytest.raises(ValueError, match=r"`image_processor.size` must be a square .*, but got .*16"):
            PairedCifarAlignerProcessor(CLIPImageProcessor(size=size, do_center_crop=False))

    def test_an_image_processor_that_crops_is_refused(self):
        cropping = CLIPImageProcessor(size={"height": 16, "width": 16}, do_center_crop=True)
        with pytest.raises(ValueError, match=r"`image_processor.do_center_crop` must be `False`, but got `True`"):
            PairedCifarAlignerProcessor(cropping)

    def test_an_array_of_pairs_is_taken_like_a_tensor(self, processor):
        images = as_tensor(photos())
        torch.testing.assert_close(pixels(processor, images.numpy()), pixels(processor, images))


class TestRefusals:
    @pytest.mark.parametrize(
        ("images", "message"),
        [
            ([[plain((0, 0, 0))]], r"Pair 0 must consist of two images \[left, right\], but got 1"),
            ([plain((0, 0, 0))], "Pair 0 must consist of two images .*, but got 1"),
            ([[plain((0, 0, 0))] * 2, [plain((0, 0, 0))] * 3], "Pair 1 must consist of two images .*, but got 3"),
            ([plain((0, 0, 0))] * 3, "Pair 0 must consist of two images .*, but got 3"),
            ([[plain((0, 0, 0))] * 2, []], "Pair 1 must consist of two images .*, but got 0"),
            (plain((0, 0, 0)), r"`images` must be a list of pairs \[\[left, right\], ...\], but got Image"),
            ("left.png", "`images` must be a list of pairs .*, but got str"),
            (np.zeros((16, 16, 3), np.uint8), "`images` must be a list of pairs .*, but got ndarray"),
            ([[plain((0, 0, 0))] * 2, plain((0, 0, 0))], r"Pair 1 must be a list \[left, right\], but got Image"),
        ],
    )
    def test_what_is_no_pair(self, processor, images, message):
        with pytest.raises(ValueError, match=message):
            processor(images=images)

    @pytest.mark.parametrize("kind", [torch.zeros, np.zeros])
    @pytest.mark.parametrize("around", [list, lambda pair: [pair]], ids=["one pair", "pairs"])
    def test_batches_of_left_and_right_images(self, processor, kind, around):
        lefts, rights = kind((5, 3, 16, 16)), kind((5, 3, 16, 16))
        with pytest.raises(ValueError, match=r"Pair 0 .* got a batch of shape \(5, 3, 16, 16\)\. Stack"):
            processor(images=around([lefts, rights]))

    @pytest.mark.parametrize(
        "shape", [(3, 16, 16), (2, 3, 16, 16), (5, 3, 3, 16, 16), (5, 1, 3, 16, 16), (2, 2, 5, 3, 16, 16)]
    )
    def test_tensors_of_another_shape(self, processor, shape):
        with pytest.raises(ValueError, match=r"must have the shape \(B, 2, 3, H, W\) .* but got \(.*16, 16\)"):
            processor(images=torch.zeros(shape, dtype=torch.uint8))

    def test_tensors_with_other_than_three_channels(self, processor):
        for channels in (1, 4):
            with pytest.raises(ValueError, match=rf"must have the shape .* but got \(5, 2, {channels}, 16, 16\)"):
                processor(images=torch.zeros(5, 2, channels, 16, 16, dtype=torch.uint8))

    def test_text(self, processor):
        for images in (photos(), None):
            with pytest.raises(ValueError, match=r"`text` must not be passed .* in the caption bank of the model"):
                processor(images=images, text=["a photo"] * 2)

    def test_nothing(self, processor):
        with pytest.raises(ValueError, match="at least one input"):
            processor()
        with pytest.raises(ValueError, match="`images` must not be an empty list"):
            processor(images=[])

    def test_a_file_that_is_not_there_or_no_image(self, processor, tmp_path):
        (tmp_path / "text.png").write_text("no image")
        with pytest.raises(OSError, match=r"text.png"):
            processor(images=[[str(tmp_path / "text.png"), plain((0, 0, 0))]])
        with pytest.raises(FileNotFoundError, match=r"The image file .*missing\.png does not exist"):
            processor(images=[[str(tmp_path / "missing.png"), plain((0, 0, 0))]])


class TestModes:
    def test_images_of_other_modes(self, processor):
        grey = pixels(processor, [[plain((90, 90, 90))] * 2])
        sixteen_bits = Image.fromarray(np.full((16, 16), 90 * 256, np.uint16))
        modes = [Image.new("L", (16, 16), 90), sixteen_bits, Image.new("RGBA", (16, 16), (90, 90, 90, 255))]
        assert sixteen_bits.mode == "I;16"
        for image in modes:
            torch.testing.assert_close(pixels(processor, [[image, plain((90, 90, 90))]]), grey)

    def test_transparent_pixels_lie_on_white(self, processor):
        hidden = Image.new("RGBA", (16, 16), (90, 0, 0, 0))
        expected = pixels(processor, [[plain((255, 255, 255)), plain((0, 0, 0))]])
        torch.testing.assert_close(pixels(processor, [[hidden, plain((0, 0, 0))]]), expected)

    def test_files_of_other_modes(self, processor, tmp_path):
        grey = pixels(processor, [[plain((90, 90, 90))] * 2])
        Image.fromarray(np.full((16, 16), 90 * 256, np.uint16)).save(tmp_path / "sixteen.png")
        Image.new("L", (16, 16), 90).save(tmp_path / "grey.png")
        torch.testing.assert_close(pixels(processor, [[tmp_path / "sixteen.png", tmp_path / "grey.png"]]), grey)


def test_the_size_for_cifar100():
    assert pixels(PairedCifarAlignerProcessor.for_cifar100(), photos(32)).shape == (2, 3, 32, 64)
    assert pixels(PairedCifarAlignerProcessor.for_cifar100(64), photos(32)).shape == (2, 3, 64, 128)


def test_saved_and_loaded(tmp_path):
    processor = PairedCifarAlignerProcessor.for_cifar100(24)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is PairedCifarAlignerProcessor
    for images in (photos(), as_tensor(photos())):
        torch.testing.assert_close(pixels(loaded, images), pixels(processor, images), rtol=0, atol=0)
    assert pixels(loaded, photos()).shape == (2, 3, 24, 48)
