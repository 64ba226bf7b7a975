import pytest
import torch
from torch import nn

from vlmkit.modules.fingerprint import text_fingerprint, weights_fingerprint


def module(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_a_text_digest_depends_on_texts_their_order_and_their_borders():
    digests = [text_fingerprint(*parts) for parts in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], ["a"], [])]
    assert len(set(digests)) == len(digests)
    assert text_fingerprint("a", "b") == digests[0]


@pytest.mark.parametrize("size", [4, 16, 64])
def test_the_size_is_in_bytes(size):
    for digest in (text_fingerprint("é", size=size), weights_fingerprint(module(), size=size)):
        assert len(bytes.fromhex(digest)) == size


def test_digests_stay_as_they_are_because_checkpoints_hold_them():
    assert text_fingerprint("a", "é", size=8) == "5e61b4c352575f47"
    ones = nn.Linear(2, 1)
    for parameter in ones.parameters():
        nn.init.ones_(parameter)
    assert weights_fingerprint(ones, size=8) == "771877081cd1c412"


def test_a_weights_digest_changes_with_any_weight_or_saved_buffer_and_with_settings():
    digests = {
        weights_fingerprint(module()),
        weights_fingerprint(module(seed=1)),
        weights_fingerprint(module(), "gelu"),
    }
    for name in module().state_dict():
        changed = module()
        changed.state_dict()[name].view(-1)[-1:].add_(1)
        digests.add(weights_fingerprint(changed))
    assert len(digests) == 3 + len(module().state_dict())
    assert weights_fingerprint(module()) in digests


def test_a_weights_digest_does_not_depend_on_mode_or_memory_layout():
    images = nn.Conv2d(3, 4, 2)
    expected = weights_fingerprint(images)
    assert weights_fingerprint(images.eval().to(memory_format=torch.channels_last)) == expected
    assert not images.weight.is_contiguous()


def test_a_weights_digest_of_any_precision():
    digests = {weights_fingerprint(module().to(dtype)) for dtype in (torch.float64, torch.float32, torch.bfloat16)}
    assert len(digests) == 3


def test_renamed_weights_have_another_digest():
    class Named(nn.Module):
        def __init__(self, name: str):
            super().__init__()
            self.register_buffer(name, torch.ones(2))

    assert weights_fingerprint(Named("a")) != weights_fingerprint(Named("b"))


def test_settings_have_borders():
    assert weights_fingerprint(module(), "ab", "c") != weights_fingerprint(module(), "a", "bc")
