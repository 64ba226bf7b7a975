import pytest
import torch

from vlmkit.data import cut_mix, mix_up

MIXTURES = pytest.mark.parametrize("mixture", [mix_up, cut_mix])


def noise(num_pairs: int, height: int = 8, width: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (num_pairs, 2, 3, height, width), dtype=torch.uint8)


def shades(num_pairs: int, height: int = 8, width: int = 8) -> torch.Tensor:
    """Images of one value, 2 * pair + side."""
    values = torch.arange(2 * num_pairs, dtype=torch.uint8).view(num_pairs, 2, 1, 1, 1)
    return values.expand(-1, -1, 3, height, width)


@MIXTURES
def test_shapes_and_types(mixture):
    images, weights, partners = mixture(noise(6), 1.0)
    assert (images.shape, images.dtype) == ((6, 2, 3, 8, 12), torch.uint8)
    assert (weights.shape, weights.dtype) == ((6, 2), torch.float32)
    assert partners.shape == (6,)
    assert 0 <= weights.min() <= weights.max() <= 1


@MIXTURES
@pytest.mark.parametrize("num_pairs", [2, 3, 50])
def test_partners_are_other_pairs_and_each_comes_once(mixture, num_pairs):
    partners = mixture(noise(num_pairs), 1.0).partners
    assert sorted(partners.tolist()) == list(range(num_pairs))
    assert not (partners == torch.arange(num_pairs)).any()


@MIXTURES
def test_a_single_pair_stays_as_it_is(mixture):
    images = noise(1)
    assert torch.equal(mixture(images, 1.0).images, images)


@MIXTURES
def test_sides_keep_apart(mixture):
    images = torch.zeros(20, 2, 3, 8, 8, dtype=torch.uint8)
    images[:, 1] = 200
    assert torch.equal(mixture(images, 1.0).images, images)


@MIXTURES
def test_left_and_right_draw_their_own(mixture):
    weights = mixture(noise(50, 32, 32), 1.0).weights
    assert len(weights[:, 0].unique()) > 30
    assert not torch.equal(weights[:, 0], weights[:, 1])


@MIXTURES
def test_the_seed_decides(mixture):
    images, results = noise(8), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(mixture(images, 1.0).images)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@MIXTURES
def test_the_input_stays_as_it_is(mixture):
    images = noise(4)
    before = images.clone()
    mixture(images, 1.0)
    assert torch.equal(images, before)


def test_mix_up_blends_by_the_weights():
    images = noise(10)
    mixed, weights, partners = mix_up(images, 1.0)
    share = weights.view(10, 2, 1, 1, 1)
    expected = share * images + (1 - share) * images[partners]
    assert (mixed - expected).abs().max() <= 0.501


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mix_up_weights_follow_the_beta_distribution(alpha):
    weights = mix_up(noise(4000, 1, 1), alpha).weights
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_cut_mix_pastes_a_box_whose_area_is_the_weight():
    images = shades(20, 16, 24)
    mixed, weights, partners = cut_mix(images, 1.0)
    for pair in range(20):
        for side in range(2):
            foreign = mixed[pair, side] == images[partners[pair], side]
            assert torch.equal(foreign[0], foreign[1])
            assert torch.equal(foreign | (mixed[pair, side] == images[pair, side]), torch.ones_like(foreign))
            rows, columns = foreign[0].any(dim=1), foreign[0].any(dim=0)
            assert torch.equal(foreign[0], rows[:, None] & columns)  # a rectangle
            assert all((line.diff().abs().sum() + line[0] + line[-1]) <= 2 for line in (rows.int(), columns.int()))
            assert weights[pair, side].item() == pytest.approx(1 - foreign[0].float().mean().item(), abs=1e-6)


def test_cut_mix_boxes_are_everywhere():
    mixed = cut_mix(shades(120, 8, 8), 1.0)
    foreign = (mixed.images[:, :, 0] != shades(120)[:, :, 0]).flatten(0, 1).float().mean(dim=0)
    assert 0.1 < foreign.min() < foreign.max() < 0.7


def test_cut_mix_area_is_drawn_uniformly_for_alpha_1():
    # What reaches beyond the border is cut off, so that the mean area lies below one half.
    areas = 1 - cut_mix(noise(2000, 32, 32), 1.0).weights
    assert 0.2 < areas.mean() < 0.4
    assert areas.max() > 0.7
    assert areas.min() == 0


@MIXTURES
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_alpha_must_be_positive(mixture, alpha):
    with pytest.raises(ValueError, match=f"`alpha` must be positive, but got {alpha}"):
        mixture(noise(2), alpha)


@MIXTURES
@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 3, 3, 8, 8)])
def test_images_of_another_shape(mixture, shape):
    with pytest.raises(ValueError, match=r"must have the shape \(B, 2, 3, H, W\), but got"):
        mixture(torch.zeros(shape, dtype=torch.uint8), 1.0)
