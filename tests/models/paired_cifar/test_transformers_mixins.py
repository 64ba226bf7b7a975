"""PairedCifarAligner and its processor under transformers' own common tests."""

import unittest

import torch
from tests import tiny
from tests.transformers_tests import load

from vlmkit import PairedCifarAligner, PairedCifarAlignerConfig, PairedCifarAlignerProcessor

ModelTesterMixin = load("test_modeling_common").ModelTesterMixin
ProcessorTesterMixin = load("test_processing_common").ProcessorTesterMixin


class PairedCifarAlignerModelTester:
    batch_size = 3
    seq_length = 9  # the class token and 2 x 4 patches
    hidden_size, num_hidden_layers, num_attention_heads = 16, 2, 2
    is_training = False  # without a caption bank there is no loss; test_contract.py trains with one

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> PairedCifarAlignerConfig:
        return tiny.paired_cifar_config(learn_temperature=True)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": torch.rand(self.batch_size, 3, 16, 32)}


class PairedCifarAlignerTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (PairedCifarAligner,)
    # Those of eager and sdpa write fields of other models into the configuration, which refuses to load them;
    # test_contract.py compares eager with sdpa.
    has_attentions = False
    _is_composite = True

    def setUp(self):
        self.model_tester = PairedCifarAlignerModelTester(self)

    @unittest.skip("the only input is images, so there is no table of input embeddings")
    def test_model_get_set_embeddings(self):
        pass

    @unittest.skip("the only input is images, so there is no table of input embeddings")
    def test_resize_tokens_embeddings(self):
        pass

    @unittest.skip("it writes fields of other models into the configuration, which refuses to load them")
    def test_reverse_loading_mapping(self):
        pass


class PairedCifarAlignerProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = PairedCifarAlignerProcessor

    @classmethod
    def _setup_image_processor(cls):
        return tiny.paired_cifar_processor().image_processor

    def prepare_images_inputs(self, batch_size: int | None = None, nested: bool = False):
        pairs = [[tiny.photo(seed=row), tiny.photo(seed=row + 10)] for row in range(batch_size or 1)]
        return pairs if batch_size else pairs[0]

    @unittest.skip("two images become one row of pixels")
    def test_subprocessor_defaults_1_images(self):
        pass

    @unittest.skip("it passes text, which this processor refuses")
    def test_flat_kwarg_applied_when_modality_dict_lacks_it(self):
        pass

    @unittest.skip("it passes text, which this processor refuses")
    def test_model_input_names(self):
        pass
