import pytest
import torch
from tests import tiny
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2PerceiverResampler

from vlmkit.modules.perceiver import PerceiverResampler

WIDTH, HEADS, LATENTS = 16, 4, 3
# Parts of the weights' names, here and in transformers.
NAMES = {
    "latents_norm": "input_latents_norm",
    "image_norm": "input_context_norm",
    "attention.out_proj": "attention.o_proj",
    "attention.": "self_attn.",
    "mlp_norm": "post_attention_layernorm",
}


def resampler(depth: int = 2, implementation: str = "eager", num_latents: int = LATENTS) -> PerceiverResampler:
    """With weights that leave nothing near zero."""
    torch.manual_seed(0)
    config = tiny.vision_config(attn_implementation=implementation)
    made = PerceiverResampler(config, hidden_size=WIDTH, num_latents=num_latents, depth=depth, num_heads=HEADS).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(mean=float("norm" in name), std=0.5)
    return made


def theirs(ours: PerceiverResampler, implementation: str) -> Idefics2PerceiverResampler:
    """Transformers' resampler with the same weights."""
    config = Idefics2PerceiverConfig(
        hidden_act="silu",
        hidden_size=WIDTH,
        resampler_n_latents=len(ours.latents),
        resampler_depth=len(ours.layers),
        resampler_n_heads=HEADS,
        resampler_head_dim=WIDTH // HEADS,
        num_key_value_heads=HEADS,
        attn_implementation=implementation,
    )
    weights = {}
    for name, weight in ours.state_dict().items():
        for here, there in NAMES.items():
            name = name.replace(here, there)
        weights[name] = weight
    peer = Idefics2PerceiverResampler(config).eval()
    peer.load_state_dict(weights)
    return peer


def mask_of(*lengths: int, size: int = 7) -> torch.Tensor:
    return torch.arange(size) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("num_latents", [1, 3, 9])
class TestIsTransformersResampler:
    def test_without_padding(self, depth, implementation, num_latents):
        ours, image = resampler(depth, implementation, num_latents), torch.randn(2, 7, WIDTH)
        with torch.no_grad():
            outputs = ours(image)
            expected = theirs(ours, implementation)(image, torch.ones(2, 7, dtype=torch.bool))
        assert outputs.shape == (2, num_latents, WIDTH)
        assert outputs.abs().mean() > 0.3
        torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours(image, mask_of(7, 7)), expected, rtol=1e-5, atol=1e-5)

    def test_with_padding(self, depth, implementation, num_latents):
        ours, image, mask = resampler(depth, implementation, num_latents), torch.randn(3, 7, WIDTH), mask_of(7, 4, 1)
        with torch.no_grad():
            outputs, unmasked = ours(image, mask), ours(image)
            expected = theirs(ours, implementation)(image, mask)
        torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(outputs[:1], unmasked[:1])
        assert (outputs - unmasked)[1:].abs().amax(dim=(1, 2)).min() > 1e-2


def test_implementations_agree():
    eager, sdpa, image = resampler(), resampler(implementation="sdpa"), torch.randn(2, 7, WIDTH)
    torch.testing.assert_close(eager(image), sdpa(image))
    torch.testing.assert_close(eager(image, mask_of(7, 3)), sdpa(image, mask_of(7, 3)))


def test_padding_may_hold_anything_and_stand_anywhere():
    made, image, mask = resampler(), torch.randn(2, 7, WIDTH), torch.rand(2, 7) < 0.5
    mask[:, 0] = True
    other = torch.where(mask[..., None], image, torch.randn(2, 7, WIDTH) * 100)
    torch.testing.assert_close(made(image, mask), made(other, mask), rtol=0, atol=0)
    for row in range(2):
        torch.testing.assert_close(made(image, mask)[row], made(image[row, mask[row]][None])[0])


def test_an_image_that_is_all_padding_leaves_the_latents_to_themselves():
    made = resampler()
    alone = made(torch.randn(1, 7, WIDTH), mask_of(0))
    assert alone.isfinite().all()
    torch.testing.assert_close(alone, made(torch.empty(1, 0, WIDTH)))


def test_an_order_of_the_tokens_does_not_matter():
    made, image = resampler(), torch.randn(2, 7, WIDTH)
    torch.testing.assert_close(made(image), made(image.flip(dims=[1])))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_gradients_reach_every_parameter_and_no_padding(implementation):
    made, image = resampler(implementation=implementation).train(), torch.randn(2, 7, WIDTH, requires_grad=True)
    (made(image, mask_of(7, 4)) ** 2).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in made.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters())
    assert torch.equal(image.grad.abs().sum(dim=-1) > 0, mask_of(7, 4))


def test_gradient_checkpointing_changes_no_gradient():
    image, gradients = torch.randn(2, 7, WIDTH), []
    for checkpointing in (False, True):
        made = resampler().train()
        for layer in made.layers:
            layer.gradient_checkpointing = checkpointing
            layer._gradient_checkpointing_func = lambda function, *args: torch.utils.checkpoint.checkpoint(
                function, *args, use_reentrant=False
            )
        (made(image, mask_of(7, 4)) ** 2).sum().backward()
        gradients.append([parameter.grad for parameter in made.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_half_precision(implementation):
    made, image, mask = resampler(1, implementation), torch.randn(2, 7, WIDTH), mask_of(7, 4)
    expected = made(image, mask)
    outputs = made.to(torch.bfloat16)(image.to(torch.bfloat16), mask)
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.float(), expected, rtol=0.1, atol=0.1)


def test_weights_are_without_biases():
    assert not [name for name in resampler().state_dict() if name.endswith("bias")]
    assert (
        PerceiverResampler(
            tiny.vision_config(), hidden_size=WIDTH, num_latents=LATENTS, depth=1, num_heads=HEADS
        ).latents.count_nonzero()
        == 0
    )


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1, HEADS), "`num_latents` must be at least 1, but got 0"),
        ((LATENTS, 0, HEADS), "`depth` must be at least 1, but got 0"),
        ((LATENTS, 1, 5), "must divide the width 16, but got 5 heads"),
    ],
)
def test_invalid_sizes_are_rejected(sizes, message):
    num_latents, depth, num_heads = sizes
    with pytest.raises(ValueError, match=message):
        PerceiverResampler(
            tiny.vision_config(), hidden_size=WIDTH, num_latents=num_latents, depth=depth, num_heads=num_heads
        )
