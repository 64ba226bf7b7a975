import dataclasses
from collections import Counter

import pytest
import torch
from torchvision.transforms import functional, v2

from vlmkit.data import ImageAugmentation
from vlmkit.data.transforms import rand_augment as module
from vlmkit.data.transforms.augmentation import adjust_colors, move_images
from vlmkit.data.transforms.rand_augment import rand_augment

NOTHING = ImageAugmentation(flip=0.0, color_jitter=0.0, rotation=0.0)


def only(**options) -> ImageAugmentation:
    return dataclasses.replace(NOTHING, **options)


def noise(num_images: int, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (num_images, 3, height, width), dtype=torch.uint8)


def copies(num_images: int, height: int = 32, width: int = 32) -> torch.Tensor:
    return noise(1, height, width).repeat(num_images, 1, 1, 1)


def num_different(images: torch.Tensor) -> int:
    return len(images.unique(dim=0))


def test_nothing_leaves_pixels_and_random_numbers_alone():
    images, state = noise(4), torch.get_rng_state()
    assert torch.equal(NOTHING(images), images)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("augmentation", "expected"),
    [
        (ImageAugmentation(), [200]),
        (only(color_jitter=0.2), [200]),
        (only(rotation=10.0), [200]),
        (only(flip=0.5), [2]),
        (only(crop_padding=1), [9]),
        (only(rand_augment=2), range(100, 200)),
    ],
)
def test_every_image_draws_its_own(augmentation, expected):
    result = augmentation(copies(200))
    assert result.dtype == torch.uint8
    assert num_different(result) in expected


@pytest.mark.parametrize("augmentation", [ImageAugmentation(crop_padding=4), only(rand_augment=2)])
def test_the_seed_decides(augmentation):
    images = noise(20)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(augmentation(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_input_stays_as_it_is():
    images = noise(8)
    before = images.clone()
    ImageAugmentation(crop_padding=4, rand_augment=2)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (1, 1), (7, 20)])
def test_any_size(height, width):
    assert ImageAugmentation(crop_padding=2)(noise(3, height, width)).shape == (3, 3, height, width)


def test_no_image_at_all():
    assert ImageAugmentation(crop_padding=2, rand_augment=1)(noise(0)).shape == (0, 3, 32, 32)


def test_flip_with_certainty_mirrors_exactly():
    images = noise(4, 10, 14)
    assert torch.equal(only(flip=1.0)(images), images.flip(-1))


def test_flip_has_its_probability():
    images = copies(2000, 2, 2)
    flipped = (only(flip=0.25)(images) == images.flip(-1)).flatten(1).all(dim=1)
    assert flipped.float().mean() == pytest.approx(0.25, abs=0.04)


def test_shifts_stay_within_the_padding():
    column = torch.arange(64, dtype=torch.uint8).expand(500, 3, 8, 64)
    shifts = only(crop_padding=3)(column)[:, 0, 0, 32].int() - 32
    assert sorted(set(shifts.tolist())) == [-3, -2, -1, 0, 1, 2, 3]


def test_angles_stay_within_the_rotation():
    ramp = torch.arange(101, dtype=torch.uint8).expand(300, 3, 101, 101)
    turned = only(rotation=20.0)(ramp).float()[:, 0]
    angles = torch.atan2(turned[:, 80, 50] - turned[:, 20, 50], turned[:, 50, 80] - turned[:, 50, 20]).rad2deg()
    assert -20.5 < angles.min() < -15
    assert 15 < angles.max() < 20.5


def test_factors_stay_within_the_jitter():
    grey = torch.full((500, 3, 4, 4), 100, dtype=torch.uint8)
    brightness = only(color_jitter=0.3)(grey)[:, 0, 0, 0]
    assert 70 <= brightness.min() < 75
    assert 125 < brightness.max() <= 130


def test_colors_agree_with_torchvision():
    images = noise(6).float()
    factors = torch.empty(3, 6).uniform_(0.5, 1.5)
    for image, result, (brightness, contrast, saturation) in zip(
        images,
        adjust_colors(images, **dict(zip(("brightness", "contrast", "saturation"), factors, strict=True))),
        factors.T.tolist(),
        strict=True,
    ):
        expected = functional.adjust_brightness(image / 255, brightness)
        expected = functional.adjust_contrast(expected, contrast)
        expected = functional.adjust_saturation(expected, saturation)
        torch.testing.assert_close(result, expected * 255, atol=1e-2, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
def test_moves_agree_with_torchvision(height, width):
    images = noise(6, height, width).float()
    flipped = torch.tensor([True, False] * 3)
    angles = torch.tensor([0.0, 0.0, 10.0, -25.0, 90.0, 7.5])
    shifts = torch.tensor([[0, 0], [3, -2], [0, 0], [1, 4], [0, 0], [-4, 0]])
    pad = 24
    for image, result, flip, angle, (right, down) in zip(
        images,
        move_images(images, flipped=flipped, angles=angles, shifts=shifts),
        flipped,
        angles.tolist(),
        shifts.tolist(),
        strict=True,
    ):
        expected = functional.pad(image, pad, padding_mode="symmetric")
        expected = functional.hflip(expected) if flip else expected
        expected = functional.rotate(expected, angle, functional.InterpolationMode.BILINEAR)
        expected = functional.crop(expected, pad + down, pad + right, height, width)
        torch.testing.assert_close(result, expected, atol=0.1, rtol=0)


class TestRandAugment:
    @pytest.mark.parametrize("magnitude", [0, 9, 17, 30])
    @pytest.mark.parametrize(
        "names", list(zip(module._OPERATIONS, v2.RandAugment._AUGMENTATION_SPACE, strict=True)), ids=str
    )
    def test_operations_are_those_of_torchvision(self, names, magnitude):
        ours, theirs = names
        assert ours.replace("_", "") == theirs.lower()
        images = noise(3, 20, 30)
        single = v2.RandAugment(num_ops=1, magnitude=magnitude)
        single._AUGMENTATION_SPACE = {theirs: v2.RandAugment._AUGMENTATION_SPACE[theirs]}
        candidates = [module._OPERATIONS[ours](images, sign * magnitude / 30) for sign in (1, -1)]
        for _ in range(4):  # torchvision draws the sign
            expected = single(images)
            assert any((expected.int() - result.int()).abs().max() <= 1 for result in candidates)

    def test_all_operations_and_signs_occur_equally_often(self, monkeypatch):
        drawn = Counter()

        def recorder(name):
            def record(images, strength):
                drawn[name, strength] += len(images)
                return images

            return record

        monkeypatch.setattr(module, "_OPERATIONS", {name: recorder(name) for name in module._OPERATIONS})
        rand_augment(noise(14 * 2 * 300, 2, 2), magnitude=15)
        assert set(drawn) == {(name, strength) for name in module._OPERATIONS for strength in (0.5, -0.5)}
        assert all(220 < count < 380 for count in drawn.values())

    def test_each_image_gets_its_own_result(self, monkeypatch):
        operations = {str(number): lambda images, strength, number=number: images + number for number in range(3)}
        monkeypatch.setattr(module, "_OPERATIONS", operations)
        images = torch.arange(0, 250, 5, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 2, 2)
        added = rand_augment(images, magnitude=9) - images
        assert torch.equal(added, added[:, :1, :1, :1].expand_as(added))
        assert set(added.unique().tolist()) == {0, 1, 2}

    def test_several_operations_follow_each_other(self, monkeypatch):
        monkeypatch.setattr(module, "_OPERATIONS", {"add": lambda images, strength: images + 1})
        images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        assert only(rand_augment=3)(images).unique().tolist() == [3]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("flip", 1.5, "`flip` must be from 0 to 1, but got 1.5"),
        ("flip", float("nan"), "`flip` must be from 0 to 1, but got nan"),
        ("color_jitter", -0.1, "`color_jitter` must be from 0 to 1, but got -0.1"),
        ("rotation", 181.0, "`rotation` must be from 0 to 180, but got 181.0"),
        ("crop_padding", -1, "`crop_padding` must be at least 0, but got -1"),
        ("rand_augment", -2, "`rand_augment` must be at least 0, but got -2"),
        ("rand_augment_magnitude", 31, "`rand_augment_magnitude` must be from 0 to 30, but got 31"),
    ],
)
def test_values_outside_their_range(name, value, message):
    with pytest.raises(ValueError, match=message):
        ImageAugmentation(**{name: value})


@pytest.mark.parametrize("name", ["crop_padding", "rand_augment", "rand_augment_magnitude"])
@pytest.mark.parametrize("value", [1.5, True])
def test_values_that_are_no_integers(name, value):
    with pytest.raises(TypeError, match=f"`{name}` must be an integer, but got {value}"):
        ImageAugmentation(**{name: value})


def test_images_of_another_shape_or_type():
    with pytest.raises(ValueError, match=r"must have the shape \(N, 3, H, W\), but got \(3, 32, 32\)"):
        ImageAugmentation()(noise(1)[0])
    with pytest.raises(ValueError, match=r"but got \(2, 1, 4, 4\)"):
        ImageAugmentation()(noise(2, 4, 4)[:, :1])
    with pytest.raises(TypeError, match=r"must be torch\.uint8, but got torch\.float32"):
        ImageAugmentation()(noise(1).float())
