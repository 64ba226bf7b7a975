"""What all models share."""

import pytest
import torch
from safetensors.torch import load_file
from tests import tiny

from vlmkit import DualEncoderModel, QFormerCaptioner


def test_a_keyword_of_neither_configuration_nor_model_is_refused(tmp_path):
    DualEncoderModel(tiny.dual_encoder_config()).save_pretrained(tmp_path)
    assert DualEncoderModel.from_pretrained(tmp_path, temperature=0.5).config.temperature == 0.5
    with pytest.raises(TypeError, match="'banana'"):
        DualEncoderModel.from_pretrained(tmp_path, banana=1)


def test_a_folder_without_weights_is_reported(tmp_path):
    tiny.dual_encoder_config().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=str(tmp_path)):
        DualEncoderModel.from_pretrained(tmp_path)


class TestStateDicts:
    """Of a model whose head is its token table, which is saved once."""

    @pytest.fixture(params=["gpt_neo", "llama"])
    def model(self, request) -> QFormerCaptioner:
        text = {"gpt_neo": tiny.gpt_neo_config(), "llama": tiny.llama_config(tie_word_embeddings=True)}[request.param]
        return QFormerCaptioner(tiny.qformer_captioner_config(text_config=text))

    @pytest.fixture
    def saved(self, model, tmp_path) -> dict[str, torch.Tensor]:
        model.save_pretrained(tmp_path)
        return load_file(tmp_path / "model.safetensors")

    def test_tied_weights_may_be_there_once(self, model, saved):
        [(head, table)] = model.all_tied_weights_keys.items()
        assert table in saved
        assert head not in saved
        other = QFormerCaptioner(model.config)
        assert other.load_state_dict(saved, strict=True).missing_keys == []
        assert other.get_output_embeddings().weight is other.get_input_embeddings().weight
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_tied_weights_may_be_there_twice(self, model):
        other = QFormerCaptioner(model.config)
        other.load_state_dict(model.state_dict(), strict=True)
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_what_is_missing_is_still_missing(self, model, saved):
        [(head, table)] = model.all_tied_weights_keys.items()
        del saved[table]
        with pytest.raises(RuntimeError, match=f'Missing key.*"{table}", "{head}"'):
            model.load_state_dict(saved)
        assert set(model.load_state_dict(saved, strict=False).missing_keys) == {table, head}

    def test_a_head_of_its_own_is_not_replaced(self):
        text = tiny.llama_config(tie_word_embeddings=False)
        model, other = (QFormerCaptioner(tiny.qformer_captioner_config(text_config=text)) for _ in range(2))
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
        assert not torch.equal(other.get_output_embeddings().weight, other.get_input_embeddings().weight)


def test_arguments_that_no_model_takes_are_refused():
    DualEncoderModel.check_forward_arguments({"output_attentions": 1, "num_items_in_batch": 2}.keys())
    with pytest.raises(
        TypeError, match=r"DualEncoderModel.forward has no argument 'pixels'. Did you mean 'pixel_values'"
    ):
        DualEncoderModel.check_forward_arguments({"output_attentions": 1, "pixels": 2}.keys())
    with pytest.raises(TypeError, match=r"QFormerCaptioner\.forward has no argument 'banana'\.$"):
        QFormerCaptioner.check_forward_arguments({"banana": 1}.keys())
