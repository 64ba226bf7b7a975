"""QFormerCaptioner and its processor under transformers' own common tests."""

import unittest

import torch
from tests import tiny
from tests.transformers_tests import load

from vlmkit import QFormerCaptioner, QFormerCaptionerConfig, QFormerCaptionerProcessor
from vlmkit.models.qformer_captioner import QFormerCaptionerModel

ModelTesterMixin = load("test_modeling_common").ModelTesterMixin
ProcessorTesterMixin = load("test_processing_common").ProcessorTesterMixin


class QFormerCaptionerModelTester:
    batch_size, seq_length = 3, 7
    is_training = True
    hidden_size, num_hidden_layers, num_attention_heads = 16, 2, 2  # of the language model

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> QFormerCaptionerConfig:
        return tiny.qformer_captioner_config(text_config=tiny.text_config(), freeze_vision=False)

    def prepare_config_and_inputs_for_common(self):
        inputs = {
            "pixel_values": torch.rand(self.batch_size, 3, 32, 32),
            "input_ids": torch.randint(2, 99, (self.batch_size, self.seq_length)),
            "attention_mask": torch.ones(self.batch_size, self.seq_length, dtype=torch.long),
        }
        return self.get_config(), inputs


class QFormerCaptionerTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (QFormerCaptioner,)
    # Their tests of generation are not in the source distribution; test_generation_qformer_captioner.py has ours.
    all_generative_model_classes = ()
    # Those of eager and sdpa write fields of other models into the configuration, which refuses to load them;
    # test_contract.py compares eager with sdpa, test_modeling_qformer_captioner.py looks at the probabilities.
    has_attentions = False
    _is_composite = True

    def setUp(self):
        self.model_tester = QFormerCaptionerModelTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return {**inputs, "labels": inputs["input_ids"]} if return_labels else inputs


class QFormerCaptionerModelTest(ModelTesterMixin, unittest.TestCase):
    """The headless model."""

    all_model_classes = (QFormerCaptionerModel,)
    all_generative_model_classes = ()
    has_attentions = False
    _is_composite = True

    def setUp(self):
        self.model_tester = QFormerCaptionerModelTester(self)
        self.model_tester.is_training = False  # it has no loss


class QFormerCaptionerProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = QFormerCaptionerProcessor

    @classmethod
    def _setup_tokenizer(cls):
        return tiny.tokenizer(pad_token="<pad>", bos_token="<start>")

    @classmethod
    def _setup_image_processor(cls):
        return tiny.image_processor()

    @unittest.skip("every text has an image here, or none has")
    def test_processor_text_has_no_visual(self):
        pass

    @unittest.skip("the processor puts a start token in front of texts, which the tokenizer alone does not")
    def test_subprocessor_defaults_0_text(self):
        pass
