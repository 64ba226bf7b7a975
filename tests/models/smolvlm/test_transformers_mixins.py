"""SmolVLM and its processor under transformers' own common tests."""

import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
from tests import tiny
from tests.transformers_tests import load
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlmkit import SmolVLM, VlmkitSmolVLMConfig, VlmkitSmolVLMProcessor
from vlmkit.models.smolvlm import VlmkitSmolVLMImageProcessor, VlmkitSmolVLMImageProcessorPil

ModelTesterMixin = load("test_modeling_common").ModelTesterMixin
processing_common = load("test_processing_common")
image_processing_common = load("test_image_processing_common")


class SmolVLMModelTester:
    batch_size, seq_length = 3, 7
    is_training = True
    hidden_size, num_hidden_layers, num_attention_heads = 16, 2, 4  # of the language model

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> VlmkitSmolVLMConfig:
        return tiny.smolvlm_config(qformer_config=tiny.distilbert_config(n_layers=2), freeze_vision=False)

    def prepare_config_and_inputs_for_common(self):
        ids = torch.randint(3, tiny.IMAGE_TOKEN_ID, (self.batch_size, self.seq_length))
        ids[:, 1:4] = tiny.IMAGE_TOKEN_ID
        inputs = {
            "pixel_values": torch.rand(self.batch_size, 3, 32, 32),
            "input_ids": ids,
            "attention_mask": torch.ones(self.batch_size, self.seq_length, dtype=torch.long),
        }
        return self.get_config(), inputs


class SmolVLMTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (SmolVLM,)
    # Their tests of generation are not in the source distribution; test_generation_smolvlm.py has ours.
    all_generative_model_classes = ()
    # Those of eager and sdpa write fields of other models into the configuration, which refuses to load them;
    # test_contract.py compares eager with sdpa, test_modeling_smolvlm.py looks at the attentions.
    has_attentions = False
    _is_composite = True

    def setUp(self):
        self.model_tester = SmolVLMModelTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return {**inputs, "labels": inputs["input_ids"]} if return_labels else inputs


class CrossAttentionTester(SmolVLMModelTester):
    """Its texts have one place for each image."""

    def get_config(self) -> VlmkitSmolVLMConfig:
        design = {"connector": "perceiver", "fusion": "cross_attention", "cross_layer_interval": 1}
        return tiny.smolvlm_config(**design, freeze_vision=False)

    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        inputs["input_ids"][:, 2:4] = 3
        return config, inputs


class SmolVLMCrossAttentionTest(SmolVLMTest):
    def setUp(self):
        self.model_tester = CrossAttentionTester(self)


class SmolVLMImageProcessorTester(image_processing_common.ImageProcessingTester):
    def __init__(self, parent):
        super().__init__(parent, size={"height": 32, "width": 48}, do_image_splitting=False)

    def _get_image_processing_classes(self):
        """Else they would find transformers' own SmolVLM by the name of the test."""
        return {"torchvision": VlmkitSmolVLMImageProcessor, "pil": VlmkitSmolVLMImageProcessorPil}


class SmolVLMImageProcessorTest(image_processing_common.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = SmolVLMImageProcessorTester

    def setUp(self):
        """A photograph of our own in place of theirs, which is on the hub."""
        super().setUp()
        patch = mock.patch.object(image_processing_common, "load_test_image", return_value=tiny.photo())
        patch.start()
        self.addCleanup(patch.stop)


class SmolVLMProcessorTest(processing_common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = VlmkitSmolVLMProcessor

    def setUp(self):
        """A photograph of our own in place of theirs, which are on the hub."""
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        photo = str(Path(folder.name) / "photo.png")
        tiny.photo().save(photo)
        for patch in (
            mock.patch.dict(processing_common.MODALITY_INPUT_DATA, images=[photo, photo]),
            mock.patch.object(processing_common, "url_to_local_path", return_value=photo),
        ):
            patch.start()
            self.addCleanup(patch.stop)

    @classmethod
    def _setup_tokenizer(cls):
        """One token per byte, from which any text comes back."""
        vocab = {byte: row for row, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        backend = Tokenizer(models.BPE(vocab, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        tokens = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
        return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)

    @classmethod
    def _setup_image_processor(cls):
        return tiny.image_processor()

    @staticmethod
    def prepare_processor_dict():
        return {"num_image_tokens": 3}
