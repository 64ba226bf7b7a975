"""The converter against a recording of the original code; `tests/golden/make_multimodel.py` tells of what."""

from copy import deepcopy

import pytest
import torch
from tests import tiny
from tests.conversion import multimodel_original
from tests.conversion.multimodel_original import END, FACTS, PAD, START, under
from torch.testing import assert_close
from torchvision import transforms
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, CLIPImageProcessor

from vlmkit import QFormerCaptioner, QFormerCaptionerProcessor
from vlmkit.analysis.token_similarity import token_similarity
from vlmkit.conversion import convert_multimodel


def close(actual, expected, atol=1e-5):
    assert_close(actual, expected, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def golden():
    return multimodel_original.recording()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return multimodel_original.write(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    destination = tmp_path_factory.mktemp("converted") / "captioner"
    convert_multimodel(destination=destination, **source)
    return destination


@pytest.fixture(scope="module")
def model(folder):
    return AutoModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def pixel_values(golden):
    return golden["inputs.pixel_values"]


def batch(captions):
    """Texts as the original sees them: padding counts in no loss and is not attended to."""
    attended = captions != PAD
    return {
        "input_ids": captions,
        "attention_mask": attended.long(),
        "labels": captions.masked_fill(~attended, -100),
    }


def counted_by_place(captions):
    """The original counts padding as positions, too."""
    return {**batch(captions), "position_ids": torch.arange(captions.shape[1]).expand_as(captions)}


@pytest.fixture(scope="module")
def outputs(model, pixel_values, golden):
    inputs = counted_by_place(golden["inputs.captions"])
    with torch.no_grad():
        return model(pixel_values=pixel_values, output_attentions=True, **inputs)


# What the original computed


def test_projected_image_features(outputs, golden):
    close(outputs.image_hidden_states, golden["expected.image_features"])


def test_visual_tokens(outputs, golden):
    close(outputs.query_embeds, golden["expected.visual_tokens"])


def test_logits_and_loss(outputs, golden):
    close(outputs.logits, golden["expected.logits"])
    close(outputs.loss, golden["expected.loss"])


@torch.no_grad()
def test_padding_on_the_right_need_not_be_counted(model, pixel_values, golden):
    captions = golden["inputs.captions"]
    outputs = model(pixel_values=pixel_values, **batch(captions))
    close(outputs.logits[captions != PAD], golden["expected.logits"][captions != PAD])
    close(outputs.loss, golden["expected.loss"])


def test_attention_maps(outputs, golden):
    for block, weights in enumerate(outputs.query_attentions):
        close(weights, golden[f"expected.cross_attn_weights_block{block}"])
    close(outputs.cross_attentions, golden["expected.decoder_cross_attn_weights"])


def test_similarities(outputs, golden):
    """Of the first image, as the original."""
    similarity = token_similarity(outputs.query_embeds, outputs.image_hidden_states)
    close(similarity.global_to_query[0], golden["expected.similarity.global_to_query"])
    close(similarity.global_to_image[0], golden["expected.similarity.global_to_img"])
    close(similarity.query_to_image[0], golden["expected.similarity.avg_query_to_img"])


@torch.no_grad()
def test_padding_in_the_middle(model, pixel_values, golden):
    inputs = counted_by_place(golden["inputs.captions_pad_in_middle"])
    outputs = model(pixel_values=pixel_values[1:], **inputs)
    close(outputs.logits, golden["expected.logits_pad_in_middle"])
    close(outputs.loss, golden["expected.loss_pad_in_middle"])


# A weight of the model for each of the original whose gradient was recorded.
GRADIENTS = {
    "query_tokens": "model.connector.query_tokens",
    "img_context": "model.connector.global_token",
    "cross_scale": "model.cross_attention.scale",
    "layer_norms.0.weight": "model.connector.layers.0.self_attention.norm.weight",
    "layer_norms.7.bias": "model.connector.layers.1.cross_feed_forward.norm.bias",
    "value_proj.bias": "model.connector.value_proj.bias",
    "decoder_cross_attn.out_proj.weight": "model.cross_attention.attention.out_proj.weight",
    "decoder_cross_attn_norm2.weight": "model.cross_attention.feed_forward.norm.weight",
    "gpt_decoder.transformer.ln_f.weight": "model.language_model.ln_f.weight",
    "gpt_decoder.transformer.wpe.weight": "model.language_model.wpe.weight",
}


def test_gradients(model, pixel_values, golden):
    model = deepcopy(model).eval()
    model(pixel_values=pixel_values, **batch(golden["inputs.captions"])).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for original, name in GRADIENTS.items():
        close(gradients[name], golden[f"expected.grads.{original}"])
    in_proj = [gradients[f"model.connector.layers.0.cross_attention.attention.{part}_proj.bias"] for part in "qkv"]
    close(torch.cat(in_proj), golden["expected.grads.cross_attention_layers.0.in_proj_bias"])
    assert under("expected.grads.", golden).keys() == GRADIENTS.keys() | {"cross_attention_layers.0.in_proj_bias"}
    assert all(gradients[name] is not None for name, part in model.named_parameters() if part.requires_grad)


@pytest.mark.parametrize("row", [0, 1])
def test_greedy_captions_with_the_original_settings(model, pixel_values, row):
    """The folder's own penalty and minimal length; the recording stops after 20 tokens."""
    ids = model.generate(pixel_values=pixel_values[row, None], do_sample=False, max_new_tokens=20)
    assert ids[0].tolist() == FACTS["generate"][f"greedy_top_k1_image{row}"]


def test_greedy_caption_without_penalty(model, pixel_values):
    options = {"do_sample": False, "max_new_tokens": 20, "repetition_penalty": 1.0, "min_length": 0}
    ids = model.generate(pixel_values=pixel_values[:1], **options)
    assert ids[0].tolist() == FACTS["generate"]["greedy_no_penalty_image0"]


def test_sampled_captions_are_as_long_as_the_original_s(model, pixel_values):
    torch.manual_seed(0)
    ids = model.generate(pixel_values=pixel_values[:1])
    assert ids[0, 0] == START
    assert 5 <= ids.shape[1] <= 31


def test_pixels_are_within_one_level_of_the_original(processor):
    """Squashed to a square by torchvision, then prepared by CLIP's processor, which finds nothing to resize or crop."""
    photo = tiny.photo(90, 60)
    squash = transforms.Resize((56, 56))
    original = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    expected = original(squash(photo), return_tensors="pt")["pixel_values"]
    close(processor(images=photo, return_tensors="pt")["pixel_values"], expected, atol=1.01 / 255 / 0.26)


# The folder


def test_the_folder_loads_as_a_captioner(model, processor):
    assert isinstance(model, QFormerCaptioner)
    assert isinstance(processor, QFormerCaptionerProcessor)
    config = model.config
    assert (config.num_query_tokens, config.num_qformer_layers, config.num_attention_heads) == (16, 2, 8)
    assert config.text_config.vocab_size == FACTS["wrapper"]["vocab_size"]
    assert config.freeze_vision
    assert not any(parameter.requires_grad for parameter in model.get_encoder("image").parameters())
    assert all(parameter.requires_grad for parameter in model.model.connector.vision_projection.parameters())


def test_special_tokens_are_those_of_the_original(model, processor):
    for holder in (model.config.text_config, model.generation_config, processor.tokenizer):
        assert (holder.pad_token_id, holder.bos_token_id, holder.eos_token_id) == (PAD, START, END)
    inputs = processor(images=[tiny.photo()] * 2, text=["w3", "w1 w2"], return_labels=True, return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[START, 3, END, PAD], [START, 1, 2, END]]
    assert processor.decode([START, 5, 6, END, PAD], skip_special_tokens=True) == "w5 w6"


def test_captions_are_sampled_as_by_the_original(model):
    settings = {"do_sample": True, "temperature": 0.6, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.8}
    settings |= {"min_length": 5, "max_new_tokens": 30}
    assert {name: getattr(model.generation_config, name) for name in settings} == settings


def test_the_returned_model_is_the_saved_one(source, pixel_values, tmp_path):
    model = convert_multimodel(destination=tmp_path, **source)  # an existing, empty folder
    assert not model.training
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path)
    state = model.state_dict()
    assert all(state[name].equal(value) for name, value in saved.state_dict().items())
    options = {"pixel_values": pixel_values, "do_sample": False}
    assert model.generate(**options).equal(saved.generate(**options))


def test_the_hub_layout_gives_the_same_model(source, model, tmp_path):
    multimodel_original.write_hub_layout(tmp_path / "hub")
    arguments = {**source, "source": tmp_path / "hub", "destination": tmp_path / "converted"}
    state = convert_multimodel(**arguments).state_dict()
    assert all(state[name].equal(value) for name, value in model.state_dict().items())


def test_the_number_of_layers_is_read_from_the_weights(source, tmp_path):
    checkpoint = multimodel_original.checkpoint()
    decoder = checkpoint["decoder_state_dict"]
    modules = ("self_attention_layers", "cross_attention_layers", "ffn_layers", "layer_norms")
    for module, per_layer in zip(modules, (1, 1, 2, 4), strict=True):
        for row in range(per_layer):
            copied = under(f"{module}.{per_layer + row}.", decoder)
            decoder |= multimodel_original.prefixed(f"{module}.{2 * per_layer + row}.", copied)
    torch.save(checkpoint, tmp_path / "deep.pth")
    arguments = {**source, "source": tmp_path / "deep.pth", "destination": tmp_path / "converted"}
    layers = convert_multimodel(**arguments).model.connector.layers
    assert len(layers) == 3
    assert all(layers[2].state_dict()[name].equal(value) for name, value in layers[1].state_dict().items())


def test_half_precision_becomes_float32(source, pixel_values, tmp_path):
    """The original's training goes on in bfloat16 after a restart."""
    checkpoint = multimodel_original.checkpoint()
    for part, tensors in checkpoint.items():
        if part in ("encoder_state_dict", "decoder_state_dict", "gpt_decoder_state_dict"):
            checkpoint[part] = {name: value.bfloat16() for name, value in tensors.items()}
    torch.save(checkpoint, tmp_path / "half.pth")
    arguments = {**source, "source": tmp_path / "half.pth", "destination": tmp_path / "converted"}
    model = convert_multimodel(**arguments)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    expected = checkpoint["decoder_state_dict"]["query_tokens"].float()
    assert model.model.connector.query_tokens.detach().equal(expected)


def test_buffers_of_older_versions_are_ignored(source, model, tmp_path):
    checkpoint = multimodel_original.checkpoint()
    for name in ("clip.vision_model.embeddings.position_ids", "vision.embeddings.position_ids"):
        checkpoint["encoder_state_dict"][name] = torch.arange(50)[None]
    for name in ("transformer.h.0.attn.attention.bias", "transformer.h.0.attn.attention.masked_bias"):
        checkpoint["gpt_decoder_state_dict"][name] = torch.ones(1)
    torch.save(checkpoint, tmp_path / "old.pth")
    arguments = {**source, "source": tmp_path / "old.pth", "destination": tmp_path / "converted"}
    state = convert_multimodel(**arguments).state_dict()
    assert all(state[name].equal(value) for name, value in model.state_dict().items())


def test_configurations_and_tokenizer_as_objects_stay_as_they_are(source, model, tmp_path):
    given = {"vision_config": model.config.vision_config, "text_config": deepcopy(model.config.text_config)}
    given["text_config"].vocab_size = 200  # before the two special tokens
    given["tokenizer"] = multimodel_original.tokenizer()
    converted = convert_multimodel(source["source"], tmp_path, **given)
    assert converted.config.text_config.vocab_size == 202
    assert given["text_config"].vocab_size == 200
    assert len(given["tokenizer"]) == 200
    assert all(converted.state_dict()[name].equal(value) for name, value in model.state_dict().items())


def test_a_tokenizer_of_a_converted_folder_is_right_already(source, folder, processor, tmp_path):
    convert_multimodel(**{**source, "tokenizer": folder, "destination": tmp_path})
    tokenizer = AutoProcessor.from_pretrained(tmp_path).tokenizer
    assert tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert tokenizer.pad_token == "<|endoftext|>"


def test_the_files_tell_where_the_model_comes_from_but_no_local_path(folder, source):
    assert "Converted from `checkpoint.pth`" in (folder / "README.md").read_text()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            assert str(folder.parent) not in file.read_text()
            assert str(source["source"].parent) not in file.read_text()
