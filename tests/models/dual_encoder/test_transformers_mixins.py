"""DualEncoderModel and its processor under transformers' own common tests."""

import unittest

import torch
from tests import tiny
from tests.transformers_tests import load

from vlmkit import DualEncoderConfig, DualEncoderModel, DualEncoderProcessor

ModelTesterMixin = load("test_modeling_common").ModelTesterMixin
ProcessorTesterMixin = load("test_processing_common").ProcessorTesterMixin


class DualEncoderModelTester:
    batch_size, seq_length = 3, 7
    is_training = True
    num_hidden_layers = 2  # of either tower

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> DualEncoderConfig:
        return tiny.dual_encoder_config(
            text_features="encoder", freeze_vision=False, freeze_text=False, learn_temperature=True
        )

    def prepare_config_and_inputs_for_common(self):
        inputs = {
            "pixel_values": torch.rand(self.batch_size, 3, 32, 32),
            "input_ids": torch.randint(2, 99, (self.batch_size, self.seq_length)),
            "attention_mask": torch.ones(self.batch_size, self.seq_length, dtype=torch.long),
        }
        return self.get_config(), inputs


class DualEncoderModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (DualEncoderModel,)
    has_attentions = False
    _is_composite = True

    def setUp(self):
        self.model_tester = DualEncoderModelTester(self)

    @unittest.skip("each tower has its own hidden states; get_image_features and get_text_features return them")
    def test_hidden_states_output(self):
        pass

    @unittest.skip("each tower has its own hidden states; get_image_features and get_text_features return them")
    def test_retain_grad_hidden_states_attentions(self):
        pass

    @unittest.skip("each tower has its own hidden states; get_image_features and get_text_features return them")
    def test_can_capture_specific_layers_hidden_states(self):
        pass


class DualEncoderProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = DualEncoderProcessor

    @classmethod
    def _setup_tokenizer(cls):
        return tiny.tokenizer(pad_token="<pad>")

    @classmethod
    def _setup_image_processor(cls):
        return tiny.image_processor()
