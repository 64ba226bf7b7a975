"""What the converter of vlm-training writes: two folders that load, with the tokens and chats of the original."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import tiny
from tests.conversion import qformer_vlm_original
from tests.conversion.qformer_vlm_original import END, FACTS, NUM_TOKENS, WIDTH
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, ViTModel

from vlmkit import QFormerAligner, QFormerAlignerProcessor, SmolVLM, VlmkitSmolVLMProcessor
from vlmkit.conversion import convert_qformer_vlm

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks

NUM_QUERIES = FACTS["qformer_config"]["n_queries"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """With everything that can be given: a base with a tokenizer, an image model, the text encoder's tokenizer."""
    folder = tmp_path_factory.mktemp("original")
    arguments = qformer_vlm_original.write(folder)
    qformer_vlm_original.tokenizer().save_pretrained(arguments["base_model"])
    tiny.tokenizer(pad_token="<pad>").save_pretrained(folder / "distilbert")
    vision_model = qformer_vlm_original.write_vision_model(folder / "vit")
    return {**arguments, "vision_model": vision_model, "text_tokenizer": folder / "distilbert"}


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    destination = tmp_path_factory.mktemp("converted") / "smolvlm"
    convert_qformer_vlm(destination=destination, **source)
    return destination


@pytest.fixture(scope="module")
def model(folder):
    return AutoModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def aligner(folder):
    return AutoModel.from_pretrained(folder / "qformer_aligner")


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def without_vision(source, tmp_path_factory):
    destination = tmp_path_factory.mktemp("converted") / "tokens"
    convert_qformer_vlm(source["source"], destination, base_model=source["base_model"])
    return destination


def changed(source, tmp_path):
    """A copy of the checkpoint to change."""
    return shutil.copytree(source["source"], tmp_path / "changed")


def messages(answer=None):
    question = [{"type": "image"}, {"type": "text", "text": "w5 w6"}]
    return [
        {"role": "user", "content": question},
        *([] if answer is None else [{"role": "assistant", "content": answer}]),
    ]


@pytest.mark.parametrize("case", ["folder", "without_vision"])
@pytest.mark.parametrize(("part", "kind"), [("", SmolVLM), ("qformer_aligner", QFormerAligner)])
def test_both_folders_load_completely(case, part, kind, request):
    loaded, report = AutoModel.from_pretrained(request.getfixturevalue(case) / part, output_loading_info=True)
    assert type(loaded) is kind
    assert not any(report.values()), report


def test_configurations(model, aligner):
    for config in (model.config, aligner.config):
        assert (config.num_query_tokens, config.num_cross_attention_heads) == (NUM_QUERIES, 12)
        assert (config.cross_attention_frequency, config.freeze_vision) == (2, True)
    assert aligner.config.original_causal_mask
    assert (aligner.config.temperature, aligner.config.learn_temperature) == (0.07, False)
    assert aligner.logit_scale is aligner.matching_head is aligner.captioning_head is None
    assert model.config.text_config.vocab_size == NUM_TOKENS + 1
    assert model.config.tie_word_embeddings
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"model.vision_tower.{name}" for name, _ in model.get_encoder("image").named_parameters()}


def test_replies_are_sampled_as_by_the_original(model):
    settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2, "max_new_tokens": 100}
    tokens = {"bos_token_id": 1, "eos_token_id": END, "pad_token_id": END, "suppress_tokens": [NUM_TOKENS]}
    expected = settings | tokens
    assert {name: getattr(model.generation_config, name) for name in expected} == expected


def test_the_returned_model_is_the_saved_one(source, tmp_path):
    model = convert_qformer_vlm(destination=tmp_path, **source)  # an existing, empty folder
    assert not model.training
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path)
    state = model.state_dict()
    assert all(state[name].equal(value) for name, value in saved.state_dict().items())
    assert model.generation_config.to_diff_dict() == saved.generation_config.to_diff_dict()


# Images


@torch.no_grad()
def test_the_image_model_is_the_given_one(model, aligner, processor, source):
    pixel_values = processor(images=tiny.photo(), text="<image>", return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 3, 32, 32)
    tokens = ViTModel.from_pretrained(source["vision_model"], add_pooling_layer=False)(pixel_values).last_hidden_state
    features = model.get_image_features(pixel_values)
    assert_close(features.last_hidden_state, tokens)
    assert_close(features.pooler_output, model.get_image_features(vision_features=tokens).pooler_output)
    assert_close(aligner.get_image_features(pixel_values), aligner.get_image_features(vision_features=tokens))


@pytest.mark.parametrize("part", ["", "qformer_aligner"])
def test_without_an_image_model_tokens_are_taken(without_vision, part):
    model = AutoModel.from_pretrained(without_vision / part)
    assert not list(model.get_encoder("image").parameters())
    assert model.get_image_features(vision_features=torch.ones(2, 5, WIDTH)).pooler_output.shape[0] == 2
    with pytest.raises(ValueError, match="no vision tower"):
        model.get_image_features(torch.ones(1, 3, 32, 32))


def test_without_an_image_model_images_are_prepared_as_for_the_original_s(without_vision):
    processor = AutoProcessor.from_pretrained(without_vision)
    pixel_values = processor(images=tiny.photo(), text="<image>", return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 3, 224, 224)
    assert pixel_values.min() < -0.5
    assert pixel_values.max() > 0.5
    assert pixel_values.abs().max() <= 1


# Texts


def test_the_processors_load(processor, folder):
    assert isinstance(processor, VlmkitSmolVLMProcessor)
    assert processor.num_image_tokens == NUM_QUERIES
    assert isinstance(AutoProcessor.from_pretrained(folder / "qformer_aligner"), QFormerAlignerProcessor)


def test_the_aligner_reads_its_processor_s_texts(aligner, folder):
    processor = AutoProcessor.from_pretrained(folder / "qformer_aligner")
    inputs = processor(images=[tiny.photo()] * 2, text=tiny.SENTENCES[:2], return_tensors="pt")
    assert aligner(**inputs).logits_per_image.shape == (2, 2)


def test_without_its_tokenizer_the_aligner_has_no_processor(without_vision):
    assert (without_vision / "processor_config.json").exists()
    assert not (without_vision / "qformer_aligner/processor_config.json").exists()


def test_images_stand_where_the_original_put_them(processor):
    """Between the question and the answer, whether it is there or not."""
    start, turn = [1, 0, 5, 6, END], [1, 0]  # the words of the roles are unknown to this tokenizer
    places = [NUM_TOKENS] * NUM_QUERIES
    inputs = processor.apply_chat_template(messages(), add_generation_prompt=True, tokenize=True)
    assert inputs[0] == start + places + turn
    inputs = processor.apply_chat_template(messages("w7"), return_labels=True)
    assert inputs["input_ids"][0].tolist() == start + places + turn + [7, END]
    expected = [-100] * len(start + places + turn) + [7, END]
    assert inputs["labels"][0].tolist() == expected


def test_chats_of_many_turns(processor):
    chat = [
        {"role": "system", "content": "w3"},
        *messages("w7"),
        {"role": "user", "content": "w8"},
        {"role": "assistant", "content": "w9"},
        *messages(),
    ]
    text = processor.apply_chat_template(chat)
    turns = [part.strip() for part in text.split("<|im_start|>")]
    images = [part.count("<image>") for part in turns]
    assert turns[1:3] == ["system\nw3<|im_end|>", "user\nw5 w6<|im_end|>\n<image>"]
    assert images == [0, 0, 1, 0, 0, 0, 1]


def test_a_chat_about_an_image(model, processor):
    question = [{"type": "image", "image": tiny.photo()}, {"type": "text", "text": "w5 w6"}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([{"role": "user", "content": question}], **options)
    torch.manual_seed(0)
    ids = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert 1 <= len(ids) <= 100
    assert NUM_TOKENS not in ids


def test_a_token_that_the_base_has_room_for(source, tmp_path):
    """The token table of many models is larger than their vocabulary."""
    base = shutil.copytree(source["base_model"], tmp_path / "base")
    qformer_vlm_original.tokenizer(num_words=NUM_TOKENS - 10).save_pretrained(base)
    model = convert_qformer_vlm(source["source"], tmp_path / "converted", base_model=base)
    assert model.config.image_token_id == NUM_TOKENS - 10
    assert model.get_input_embeddings().num_embeddings == NUM_TOKENS


def test_without_chatml_chats_are_plain(source, tmp_path):
    base = shutil.copytree(source["base_model"], tmp_path / "base")
    tiny.tokenizer().save_pretrained(base)
    convert_qformer_vlm(source["source"], tmp_path / "converted", base_model=base)
    processor = AutoProcessor.from_pretrained(tmp_path / "converted")
    assert processor.apply_chat_template(messages()).startswith("User: <image>")


# Other checkpoints


def test_half_precision_becomes_float32(source, tmp_path):
    """The original trains its LoRA in bfloat16."""
    checkpoint = changed(source, tmp_path)
    file = checkpoint / "lora_adapter/adapter_model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file)
    for file in (checkpoint / "adapter.pt", checkpoint / "qformer/pytorch_model.bin"):
        torch.save({name: value.bfloat16() for name, value in torch.load(file).items()}, file)
    model = convert_qformer_vlm(checkpoint, tmp_path / "converted", base_model=source["base_model"])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    expected = qformer_vlm_original.part("adapter")["0.weight"].bfloat16().float()
    assert model.model.connector.fc1.weight.detach().equal(expected)


def test_attention_to_the_image_in_all_layers(source, tmp_path):
    checkpoint = changed(source, tmp_path)
    file = checkpoint / "qformer/pytorch_model.bin"
    state = torch.load(file)
    for layer in (0, 2):
        other = f"cross_blocks.{layer + 1}."
        names = [name for name in state if name.startswith(other)]
        state |= {name.replace(other, f"cross_blocks.{layer}."): state[name] for name in names}
    torch.save(state, file)
    config = FACTS["qformer_config"] | {"cross_every": 1, "num_heads": 6}
    (checkpoint / "qformer/config.json").write_text(json.dumps(config))
    model = convert_qformer_vlm(checkpoint, tmp_path / "converted", base_model=source["base_model"])
    blocks = [layer.image_attention for layer in model.model.connector.qformer.layers]
    assert all(blocks[0].state_dict()[name].equal(value) for name, value in blocks[1].state_dict().items())
    assert model.config.num_cross_attention_heads == 6


@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")  # peft looks for the base's vocabulary
def test_the_base_may_be_a_folder_of_any_name(source, tmp_path):
    checkpoint = changed(source, tmp_path)
    config = FACTS["lora_config"] | {"base_model_name_or_path": "HuggingFaceTB/SmolLM-135M-Instruct"}
    (checkpoint / "lora_adapter/adapter_config.json").write_text(json.dumps(config))
    model = convert_qformer_vlm(checkpoint, tmp_path / "converted", base_model=source["base_model"])
    assert model.config.text_config._name_or_path == ""


def test_the_files_tell_where_the_models_come_from_but_no_local_path(folder, source):
    for part in (folder, folder / "qformer_aligner"):
        assert "Converted from the folder `checkpoint`" in (part / "README.md").read_text()
        for file in part.iterdir():
            if file.is_file() and file.suffix != ".safetensors":
                assert str(folder.parent) not in file.read_text()
                assert str(source["source"].parent) not in file.read_text()
