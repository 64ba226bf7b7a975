"""The converter against a recording of the original code; `tests/golden/make_qformer_vlm.py` tells of what."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from tests.conversion import qformer_vlm_original
from tests.conversion.qformer_vlm_original import FACTS, NUM_TOKENS
from torch.testing import assert_close
from transformers import AutoModel

from vlmkit.conversion import convert_qformer_vlm

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks

MODES = {"uni_modal": "unimodal", "multi_modal": "multimodal", "multi_modal_causal": "multimodal_causal"}
NUM_QUERIES = FACTS["qformer_config"]["n_queries"]
LORA_SCALE = FACTS["lora_config"]["lora_alpha"] / FACTS["lora_config"]["r"]


def close(actual, expected, atol=1e-5):
    assert_close(actual, expected, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def golden():
    return qformer_vlm_original.recording()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The base's last token holds the places of images, as the original's losses know no further one."""
    folder = tmp_path_factory.mktemp("original")
    arguments = qformer_vlm_original.write(folder)
    qformer_vlm_original.tokenizer("<image>", num_words=NUM_TOKENS - 1).save_pretrained(arguments["base_model"])
    return arguments


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
def images(golden):
    return golden["inputs.visual_feats"]


@pytest.fixture(scope="module")
def texts(golden):
    return {"input_ids": golden["inputs.text_input_ids"], "attention_mask": golden["inputs.text_attention_mask"]}


def with_places(*parts):
    """Tokens with the places of an image behind the first part, where the original has the image."""
    prefix, *others = parts
    places = torch.full((len(prefix), NUM_QUERIES), NUM_TOKENS - 1)
    return torch.cat([prefix, places, *others], dim=1)


@pytest.fixture(scope="module")
def chats(golden, images):
    """As the original makes them: its padding is the end of a turn, which is therefore neither seen nor learned."""
    names = ("attention_mask", "position_ids", "labels")
    return {
        "input_ids": with_places(golden["inputs.prefix_ids"], golden["inputs.assistant_ids"]),
        "vision_features": images[:3],
        **{name: golden[f"expected.lm.{name}"] for name in names},
    }


@pytest.fixture(scope="module")
def prompt(golden, images):
    """The prefix without padding, and the beginning of the assistant's turn."""
    beginning = torch.tensor([FACTS["generate_assistant_ids"]])
    input_ids = with_places(golden["inputs.prefix_ids"][1:2], beginning)
    return SimpleNamespace(input_ids=input_ids, vision_features=images[:1])


# The first stage


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_queries_texts_and_attention_to_the_image(aligner, images, texts, golden, mode):
    seen = []
    layers = [layer.image_attention for layer in aligner.qformer.layers if layer.image_attention is not None]
    hooks = [layer.register_forward_hook(lambda *call: seen.append(call[-1])) for layer in layers]
    features = aligner.get_multimodal_features(**texts, vision_features=images, attention_mode=MODES[mode])
    for hook in hooks:
        hook.remove()
    close(features.query_pooled, golden[f"expected.{mode}.queries_pooled"])
    close(features.text_pooled, golden[f"expected.{mode}.text_cls"])
    close(torch.stack(seen), golden[f"expected.{mode}.cross_block_outputs"])


@torch.no_grad()
def test_image_features(aligner, images, golden):
    features = aligner.get_image_features(vision_features=images)
    close(features.last_hidden_state, golden["expected.encode_image.tokens"])
    close(features.pooler_output, golden["expected.encode_image.pooled"])


@torch.no_grad()
def test_texts_alone(aligner, texts, golden):
    close(aligner.get_text_features(**texts).pooler_output, golden["expected.uni_modal.text_cls"])


# A weight of the aligner for each of the original whose gradient was recorded.
ALIGNER_GRADIENTS = {
    "query_embeddings": "qformer.query_tokens",
    "encoder_layers.0.attention.q_lin.weight": "qformer.layers.0.self_attention.attention.q_proj.weight",
    "embeddings.LayerNorm.weight": "text_embeddings.norm.weight",
    "cross_blocks.3.ln2.bias": "qformer.layers.3.image_attention.feed_forward.norm.bias",
}


def test_contrastive_loss_and_its_gradients(aligner, images, texts, golden):
    aligner = deepcopy(aligner).eval()
    loss = aligner(**texts, vision_features=images).loss
    close(loss, golden["expected.clip_loss_tau0.07"])
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in aligner.named_parameters()}
    for original, name in ALIGNER_GRADIENTS.items():
        close(gradients[name], golden[f"expected.clip_grads.{original}"])
    attention = "qformer.layers.1.image_attention.cross_attention.attention"
    packed = torch.cat([gradients[f"{attention}.{part}_proj.weight"] for part in "qkv"])
    close(packed, golden["expected.clip_grads.cross_blocks.1.cross_attn.in_proj_weight"])
    assert all(gradient is not None for gradient in gradients.values())


# The second stage


@torch.no_grad()
def test_vision_features_logits_and_loss(model, chats, golden):
    outputs = model(**chats)
    start = golden["inputs.prefix_ids"].shape[1]
    places = golden["expected.lm.inputs_embeds"][:, start : start + NUM_QUERIES]
    close(outputs.image_hidden_states, places)
    close(outputs.logits, golden["expected.lm.logits"])
    close(outputs.loss, golden["expected.lm.loss"])


@torch.no_grad()
def test_positions_are_counted_as_by_the_original(model, chats, golden):
    seen = chats["attention_mask"].bool()
    outputs = model(**{name: value for name, value in chats.items() if name != "position_ids"})
    close(outputs.logits[seen], golden["expected.lm.logits"][seen])
    close(outputs.loss, golden["expected.lm.loss"])


@torch.no_grad()
def test_the_loss_in_training_is_the_same(model, chats, golden):
    """It computes the logits of labelled positions only; the original has dropout here."""
    model = deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in model.model.connector.qformer.layers:
        layer.self_attention.attention.dropout = 0.0
    outputs = model(**chats)
    assert outputs.logits is None
    close(outputs.loss, golden["expected.lm.loss"])


def test_gradients(model, chats, golden):
    """Those of the LoRA follow from the gradient of the weight that it went into."""
    model = deepcopy(model).eval()
    model(**chats).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    close(gradients["model.connector.fc1.weight"], golden["expected.lm.grads.adapter.0.weight"])
    close(gradients["model.connector.fc2.bias"], golden["expected.lm.grads.adapter.2.bias"])
    close(gradients["model.connector.qformer.query_tokens"], golden["expected.lm.grads.qformer.query_embeddings"])

    lora = qformer_vlm_original.part("lora")
    original = "expected.lm.grads.llm.base_model.model.model.layers"
    weight = gradients["model.language_model.layers.0.self_attn.q_proj.weight"]
    factor = lora["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    close(LORA_SCALE * factor.T @ weight, golden[f"{original}.0.self_attn.q_proj.lora_A.default.weight"])
    weight = gradients["model.language_model.layers.1.mlp.down_proj.weight"]
    factor = lora["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"]
    close(LORA_SCALE * weight @ factor.T, golden[f"{original}.1.mlp.down_proj.lora_B.default.weight"])


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty` with `inputs_embeds`:UserWarning")
@pytest.mark.parametrize(("name", "changes"), [("t1e-3", {}), ("no_penalty", {"repetition_penalty": 1.0})])
def test_replies_with_the_original_settings(model, prompt, name, changes):
    """The original gives embeddings, so that what is said in the prompt is not penalised."""
    torch.manual_seed(0)
    embeds = model.get_input_embeddings()(prompt.input_ids)
    options = {"inputs_embeds": embeds, "temperature": 1e-3, "max_new_tokens": 12, **changes}
    ids = model.generate(vision_features=prompt.vision_features, **options)
    assert ids[0].tolist() == FACTS["generate"][f"near_greedy_{name}"]


def test_greedy_reply_to_tokens(model, prompt):
    options = {"do_sample": False, "max_new_tokens": 12, "repetition_penalty": 1.0}
    ids = model.generate(**vars(prompt), **options)
    assert ids[0, prompt.input_ids.shape[1] :].tolist() == FACTS["generate"]["near_greedy_no_penalty"]


@torch.no_grad()
def test_without_an_adapter_the_language_model_stays_the_base(source, chats, golden, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("qformer", "adapter.pt"):
        (bare / name).symlink_to(source["source"] / name)
    model = convert_qformer_vlm(bare, tmp_path / "converted", base_model=source["base_model"])
    close(model(**chats).logits, golden["expected.lm.no_lora_logits"])


@torch.no_grad()
def test_a_further_token_changes_nothing_for_the_others(source, chats, golden, tmp_path):
    """Without a tokenizer, the image token is the one after all others."""
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "model.safetensors"):
        (base / name).symlink_to(source["base_model"] / name)
    model = convert_qformer_vlm(source["source"], tmp_path / "converted", base_model=base)
    assert model.config.image_token_id == NUM_TOKENS
    assert model.generation_config.suppress_tokens == [NUM_TOKENS]
    assert not (tmp_path / "converted/processor_config.json").exists()
    input_ids = chats["input_ids"].masked_fill(chats["input_ids"] == NUM_TOKENS - 1, NUM_TOKENS)
    logits = model(**{**chats, "input_ids": input_ids}).logits
    assert logits.shape[-1] == NUM_TOKENS + 1
    close(logits[..., :NUM_TOKENS], golden["expected.lm.logits"])
