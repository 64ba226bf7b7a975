import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tests import tiny
from tests.subprocesses import run_python
from transformers import AutoImageProcessor, AutoProcessor, BatchFeature

from vlmkit import VlmkitSmolVLMProcessor
from vlmkit.models.smolvlm.image_processing_smolvlm import VlmkitSmolVLMImageProcessor, VlmkitSmolVLMImageProcessorPil

STRANGER = """
import sys
from transformers import AutoImageProcessor

assert "vlmkit" not in sys.modules
AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2])
"""

BACKENDS = {"torchvision": VlmkitSmolVLMImageProcessor, "pil": VlmkitSmolVLMImageProcessorPil}
LEVEL = 2 / 255  # one of the 255 levels, after normalization
SMALL = {"longest_edge": 64}
SQUARE = {"height": 32, "width": 32}
UNCHANGED = {"do_resize": False, "do_rescale": False, "do_normalize": False}
SPLIT = {"do_image_splitting": True}


@pytest.fixture(params=BACKENDS)
def backend(request) -> type:
    return BACKENDS[request.param]


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What is logged."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "level", logging.WARNING)
    return caplog


def numbered(height: int, width: int) -> Image.Image:
    """With a colour of its own in each pixel."""
    values = np.arange(height * width)
    colours = np.stack([values % 256, values // 256, values % 7], axis=-1)
    return Image.fromarray(colours.reshape(height, width, 3).astype(np.uint8))


def photos() -> list[Image.Image]:
    return [tiny.photo(width, height, seed=width) for width, height in ((123, 77), (40, 150), (300, 64))]


def crops(batch: BatchFeature) -> list[torch.Tensor]:
    """Each view `(3, H, W)` without its padding."""
    sizes = [size for image_sizes in batch["crop_sizes"] for size in image_sizes]
    return [pixels[:, :height, :width] for pixels, (height, width) in zip(batch["pixel_values"], sizes, strict=True)]


class TestSizes:
    @pytest.mark.parametrize(
        ("options", "height", "width", "expected"),
        [
            ({"size": SMALL}, 64, 64, (64, 64)),
            ({"size": SMALL}, 640, 640, (64, 64)),
            ({"size": SMALL}, 100, 200, (32, 64)),
            ({"size": SMALL}, 200, 100, (64, 32)),
            ({"size": SMALL}, 90, 120, (48, 64)),
            ({"size": SMALL}, 1, 1000, (16, 64)),  # a side is one patch at least
            ({"size": SMALL}, 10, 5, (16, 16)),  # not enlarged otherwise
            ({"size": SMALL}, 39, 40, (32, 48)),  # the nearest multiples; of two, the larger
            ({"size": {**SMALL, "shortest_edge": 32}}, 10, 5, (64, 32)),
            ({"size": {**SMALL, "shortest_edge": 32}}, 8, 8, (32, 32)),
            ({"size": {**SMALL, "shortest_edge": 32}}, 48, 48, (48, 48)),
            ({"size": {**SMALL, "shortest_edge": 32}}, 20, 100, (16, 64)),  # the longest edge wins
            ({"size": {**SMALL, "shortest_edge": 64}}, 3, 6, (32, 64)),
            ({"size": {"longest_edge": 56}, "size_divisor": 14}, 30, 100, (14, 56)),
            ({"size": {"longest_edge": 5}, "size_divisor": 1}, 30, 100, (2, 5)),
            ({"size": {"height": 48, "width": 16}}, 10, 500, (48, 16)),
            ({"size": 32}, 10, 500, (32, 32)),
            ({"do_resize": False}, 10, 500, (10, 500)),
            ({}, 600, 800, (288, 384)),
        ],
    )
    def test_of_an_image(self, backend, options, height, width, expected):
        assert backend(**options).crop_sizes(height, width) == [expected]
        assert backend().crop_sizes(height, width, **options) == [expected]
        batch = backend()(numbered(height, width), return_tensors="pt", **options)
        assert batch["crop_sizes"] == [[expected]]
        assert batch["pixel_values"].shape == (1, 3, *expected)

    def test_are_never_beyond_the_longest_edge(self):
        processor = VlmkitSmolVLMImageProcessor(size={"longest_edge": 96, "shortest_edge": 64})
        for height in range(1, 400, 7):
            for width in range(1, 400, 11):
                (size,) = processor.crop_sizes(height, width)
                assert max(size) <= 96
                assert all(side % 16 == 0 and side >= 16 for side in size)

    def test_of_quarters_are_by_the_same_rule(self, backend):
        processor = backend(size=SMALL, **SPLIT)
        assert processor.crop_sizes(64, 128) == [(32, 64)] * 5
        assert processor.crop_sizes(64, 64) == [(32, 32)] * 4 + [(64, 64)]
        assert processor.crop_sizes(5, 7, do_resize=False) == [(2, 3), (2, 4), (3, 3), (3, 4), (5, 7)]
        assert processor.crop_sizes(5, 7, size=SQUARE) == [(32, 32)] * 5


class TestSplitting:
    @pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7), (2, 2), (3, 2)])
    def test_loses_no_pixel(self, backend, height, width):
        image = numbered(height, width)
        *quarters, whole = crops(backend(**SPLIT, **UNCHANGED)(image, return_tensors="pt"))
        top, bottom = torch.cat(quarters[:2], dim=-1), torch.cat(quarters[2:], dim=-1)
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(torch.cat([top, bottom], dim=-2), expected)
        assert torch.equal(whole, expected)

    def test_gives_the_quarters_row_by_row_and_then_the_whole(self, backend):
        colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)
        image = colours.T.reshape(3, 2, 2).repeat_interleave(32, 1).repeat_interleave(32, 2)
        pixels = backend(size=SQUARE, **SPLIT)(image, return_tensors="pt")["pixel_values"]
        plain = (colours / 127.5 - 1)[..., None, None]
        assert torch.allclose(pixels[:4], plain.expand(4, 3, 32, 32))
        corners = pixels[4, :, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert torch.allclose(corners.T, plain[..., 0, 0], atol=LEVEL)

    def test_keeps_detail_that_the_whole_has_lost(self, backend):
        board = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
        image = np.stack([board] * 3, axis=-1).astype(np.uint8)
        pixels = backend(size={"longest_edge": 32}, **SPLIT)(image, return_tensors="pt")["pixel_values"]
        assert (pixels[:4].abs() == 1).all()
        assert pixels[4, :, 2:-2, 2:-2].abs().max() < 0.05

    def test_of_several_images_goes_image_by_image(self, backend):
        processor = backend(size=SMALL, **SPLIT)
        batch = processor(photos(), return_tensors="pt")
        alone = [processor(photo, return_tensors="pt") for photo in photos()]
        assert batch["pixel_values"].shape[0] == 15
        assert batch["crop_sizes"] == [each["crop_sizes"][0] for each in alone]
        expected = [view for each in alone for view in crops(each)]
        assert all(torch.equal(one, other) for one, other in zip(crops(batch), expected, strict=True))

    def test_is_for_a_call(self, backend):
        processor = backend(size=SMALL)
        assert processor(photos(), return_tensors="pt", **SPLIT)["pixel_values"].shape[0] == 15
        assert processor(photos(), return_tensors="pt")["pixel_values"].shape[0] == 3
        assert not processor.do_image_splitting
        whole = backend(size=SMALL, **SPLIT)(photos(), do_image_splitting=False, return_tensors="pt")
        assert whole["pixel_values"].shape[0] == 3

    def test_warns_where_the_model_was_not_trained_for_it(self, backend, warnings):
        backend(size=SMALL)(photos(), **SPLIT)
        (warning,) = warnings.messages
        assert "not trained with split images. Set `do_image_splitting=True`" in warning

    def test_does_not_warn_otherwise(self, backend, warnings):
        backend(size=SMALL, **SPLIT)(photos())
        backend(size=SMALL, **SPLIT)(photos(), do_image_splitting=False)
        backend(size=SMALL)(photos())
        backend(size=SMALL).crop_sizes(40, 40, **SPLIT)
        assert not warnings.messages

    @pytest.mark.parametrize(("height", "width"), [(1, 40), (40, 1), (1, 1)])
    def test_an_image_without_quarters_is_rejected(self, backend, height, width):
        message = f"must have at least 2 x 2 pixels to be split, but got {height} x {width}"
        with pytest.raises(ValueError, match=message):
            backend(**SPLIT)([numbered(40, 40), numbered(height, width)])
        with pytest.raises(ValueError, match=message):
            backend().crop_sizes(height, width, **SPLIT)

    @pytest.mark.parametrize("options", [{}, SPLIT, {"size": SQUARE}])
    def test_an_empty_image_is_rejected(self, backend, options):
        with pytest.raises(
            ValueError, match=r"Images must have at least 1 x 1 pixels, but got 0 x 40 \(height x width\)"
        ):
            backend(**options)(Image.new("RGB", (40, 0)))
        with pytest.raises(
            ValueError, match=r"Images must have at least 1 x 1 pixels, but got 40 x 0 \(height x width\)"
        ):
            backend(**options).crop_sizes(40, 0)


class TestPadding:
    def test_is_on_the_right_and_at_the_bottom(self, backend):
        images = [np.full((16, 48, 3), 255, np.uint8), np.full((64, 32, 3), 255, np.uint8)]
        batch = backend(size=SMALL)(images, return_tensors="pt")
        expected = torch.zeros(2, 64, 48, dtype=torch.int64)
        expected[0, :16] = 1
        expected[1, :, :32] = 1
        assert batch["pixel_attention_mask"].dtype == torch.int64
        assert torch.equal(batch["pixel_attention_mask"], expected)
        # White is 1 after normalization, padding 0.
        assert torch.equal(batch["pixel_values"], expected[:, None].expand(-1, 3, -1, -1).float())

    def test_crops_of_one_size_also_have_a_mask(self, backend):
        batch = backend(size=SMALL)([numbered(64, 64)] * 2, return_tensors="pt")
        assert torch.equal(batch["pixel_attention_mask"], torch.ones(2, 64, 64, dtype=torch.int64))

    def test_is_not_there_for_a_fixed_size(self, backend):
        batch = backend(size=SQUARE, **SPLIT)(photos(), return_tensors="pt")
        assert batch.keys() == {"pixel_values", "num_crops", "crop_sizes"}
        assert batch["num_crops"].tolist() == [5, 5, 5]
        assert batch["pixel_values"].shape == (15, 3, 32, 32)
        assert "pixel_attention_mask" in backend(size=SQUARE, do_resize=False)(photos(), return_tensors="pt")


class TestPixels:
    @pytest.mark.parametrize("options", [{}, SPLIT, {"size": SQUARE}, {"size": {**SMALL, "shortest_edge": 64}}])
    @pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
    def test_of_both_backends_agree(self, options, resample):
        options = {"size": SMALL, **options, "resample": resample}
        ours, theirs = (backend(**options)(photos(), return_tensors="pt") for backend in BACKENDS.values())
        assert ours["crop_sizes"] == theirs["crop_sizes"]
        assert ours.keys() == theirs.keys()
        difference = (ours["pixel_values"] - theirs["pixel_values"]).abs()
        assert difference.max() < 2.5 * LEVEL  # each rounds between its passes over rows and columns
        assert difference.mean() < 0.1 * LEVEL

    def test_are_scaled_and_normalised_as_asked(self, backend):
        image = Image.new("RGB", (1, 1), (0, 51, 255))
        processor = backend(do_resize=False)
        for options, expected in (
            ({}, [-1, -0.6, 1]),
            ({"do_normalize": False}, [0, 0.2, 1]),
            ({"image_mean": [0.0, 0.1, 0.2], "image_std": [1.0, 0.1, 0.4]}, [0, 1, 2]),
            ({"do_normalize": False, "do_rescale": False}, [0, 51, 255]),
        ):
            pixels = processor(image, return_tensors="pt", **options)["pixel_values"]
            assert torch.allclose(pixels.flatten().float(), torch.tensor(expected).float(), atol=1e-6)

    @pytest.mark.parametrize(
        "convert",
        [
            np.array,
            lambda photo: np.array(photo).transpose(2, 0, 1),
            lambda photo: torch.from_numpy(np.array(photo)).permute(2, 0, 1),
            lambda photo: photo.convert("RGBA"),
            lambda photo: [photo],
            lambda photo: [[photo], []],
        ],
    )
    def test_are_the_same_for_each_kind_of_input(self, backend, convert):
        processor = backend(size=SMALL, **SPLIT)
        expected = processor(photos()[0], return_tensors="pt")["pixel_values"]
        assert torch.equal(processor(convert(photos()[0]), return_tensors="pt")["pixel_values"], expected)

    def test_of_gray_images_have_three_channels(self, backend):
        gray = photos()[0].convert("L")
        expected = backend(size=SMALL)(gray.convert("RGB"), return_tensors="pt")["pixel_values"]
        for image in (gray, np.array(gray)[None], torch.from_numpy(np.array(gray))[None]):
            assert torch.equal(backend(size=SMALL)(image, return_tensors="pt")["pixel_values"], expected)

    def test_may_be_scaled_already(self, backend):
        image = np.asarray(photos()[0]).astype(np.float32) / 255
        expected = backend(size=SMALL)(photos()[0], return_tensors="pt")["pixel_values"]
        for scaled in (image, torch.from_numpy(image).permute(2, 0, 1)):
            pixels = backend(size=SMALL)(scaled, do_rescale=False, return_tensors="pt")["pixel_values"]
            assert (pixels - expected).abs().max() < 1.5 * LEVEL

    def test_can_be_arrays(self, backend):
        batch = backend(size=SMALL)(photos(), return_tensors="np")
        assert isinstance(batch["pixel_values"], np.ndarray)
        assert isinstance(batch["pixel_attention_mask"], np.ndarray)
        assert isinstance(batch["crop_sizes"], list)
        assert len(backend(size=SMALL)(photos())["pixel_values"]) == 3


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"size": {"longest_edge": 100}},
                r"`longest_edge` of `size` must be a multiple of `size_divisor` 16, but got 100",
            ),
            (
                {"size": {"longest_edge": 5}},
                r"`longest_edge` of `size` must be a multiple of `size_divisor` 16, but got 5",
            ),
            (
                {"size": {"longest_edge": 0}},
                r"`longest_edge` of `size` must be a multiple of `size_divisor` 16, but got 0",
            ),
            (
                {"size": {"longest_edge": -7}},
                r"`longest_edge` of `size` must be a multiple of `size_divisor` 16, but got -7",
            ),
            (
                {"size": {**SMALL, "shortest_edge": 33}},
                r"`shortest_edge` of `size` must be a multiple of `size_divisor` 16, but got 33",
            ),
            (
                {"size": {"height": 32, "width": 40}},
                r"`width` of `size` must be a multiple of `size_divisor` 16, but got 40",
            ),
            ({"size": 40}, r"`height` of `size` must be a multiple of `size_divisor` 16, but got 40"),
            (
                {"size": SMALL, "size_divisor": 14},
                r"`longest_edge` of `size` must be a multiple of `size_divisor` 14, but got 64",
            ),
            ({"size_divisor": 0}, r"`size_divisor` must be at least 1, but got 0"),
            (
                {"size": {"shortest_edge": 32}},
                r"`size` must have the keys longest_edge, longest_edge and shortest_edge, or height and width,",
            ),
            (
                {"size": {"height": 32}},
                r"`size` must have the keys longest_edge, longest_edge and shortest_edge, or height and width,",
            ),
            (
                {"size": {**SMALL, "height": 32}},
                r"`size` must have the keys longest_edge, longest_edge and shortest_edge, or height and width,",
            ),
            (
                {"size": {"max_height": 32, "max_width": 32}},
                r"`size` must have the keys longest_edge, longest_edge and shortest_edge, or height and width,",
            ),
            (
                {"do_center_crop": True},
                r"`do_center_crop`, `do_pad=False` and `pad_size` are not supported, because crops are padded to",
            ),
            (
                {"do_pad": False},
                r"`do_center_crop`, `do_pad=False` and `pad_size` are not supported, because crops are padded to",
            ),
            (
                {"pad_size": SQUARE},
                r"`do_center_crop`, `do_pad=False` and `pad_size` are not supported, because crops are padded to",
            ),
        ],
    )
    def test_invalid_ones_are_rejected(self, backend, options, message):
        with pytest.raises(ValueError, match=message):
            backend(**options)
        with pytest.raises(ValueError, match=message):
            backend()(photos(), **options)
        with pytest.raises(ValueError, match=message):
            backend().crop_sizes(40, 40, **options)

    def test_without_a_size_or_images_are_rejected(self, backend):
        with pytest.raises(
            ValueError,
            match=r"`size` must have the keys longest_edge, longest_edge and shortest_edge, or height and width,",
        ):
            backend()(photos(), size=None)
        for images in ([], [[]]):
            with pytest.raises(ValueError, match=r"`images` must not be an empty list"):
                backend()(images)

    def test_unknown_ones_are_rejected(self, backend):
        with pytest.raises(TypeError, match="do_image_spliting"):
            backend()(photos(), do_image_spliting=True)
        with pytest.raises(TypeError, match="do_image_spliting"):
            backend().crop_sizes(40, 40, do_image_spliting=True)


class TestSaving:
    @pytest.mark.parametrize("name", BACKENDS)
    def test_brings_either_backend_back(self, backend, name, tmp_path):
        saved = backend(size={**SMALL, "shortest_edge": 32}, size_divisor=32, resample=2, **SPLIT)
        saved.save_pretrained(tmp_path)
        loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=name)
        assert type(loaded) is BACKENDS[name]
        assert loaded.to_dict() == saved.to_dict()
        assert loaded.crop_sizes(100, 50) == saved.crop_sizes(100, 50)
        assert type(AutoImageProcessor.from_pretrained(tmp_path)) is VlmkitSmolVLMImageProcessor

    def test_works_within_a_processor(self, backend, tmp_path):
        image_processor = backend(size=SMALL, **SPLIT)
        VlmkitSmolVLMProcessor(image_processor, tiny.chat_tokenizer(), num_image_tokens=3).save_pretrained(tmp_path)
        loaded = AutoProcessor.from_pretrained(tmp_path).image_processor
        assert type(loaded) is VlmkitSmolVLMImageProcessor
        assert loaded.to_dict() == image_processor.to_dict()

    def test_loads_and_saves_without_importing_vlmkit(self, backend, tmp_path):
        saved = backend(size=SMALL, **SPLIT)
        saved.save_pretrained(tmp_path / "saved")
        run_python("-c", STRANGER, tmp_path / "saved", tmp_path / "again", HF_HOME=str(tmp_path / "cache"))
        for folder in ("saved", "again"):
            assert AutoImageProcessor.from_pretrained(tmp_path / folder).to_dict() == saved.to_dict()
            assert "VlmkitSmolVLMImageProcessor" in (tmp_path / folder / "vlmkit_shim.py").read_text()

    def test_names_the_inputs_of_the_model(self, backend):
        assert backend().model_input_names == ["pixel_values", "pixel_attention_mask", "num_crops"]
