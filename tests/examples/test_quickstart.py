"""The scripts of examples/quickstart, which train for two steps each."""

import pytest
from tests import tiny
from tests.examples.scripts import EXAMPLES, run_script
from transformers import LlamaForCausalLM, TrainerCallback, ViTModel

SCRIPTS = sorted((EXAMPLES / "quickstart").glob("*.py"))


class StopAfterTwoSteps(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("quickstart")


def run(script: str, *flags: object, cwd) -> str:
    return run_script(f"quickstart/{script}", *flags, cwd=cwd, callback=StopAfterTwoSteps())


def test_train_a_dual_encoder_and_search(place):
    assert "text_to_image/recall@5" in run("train_dual_encoder.py", cwd=place)
    printed = run("search_images.py", "a blue square", cwd=place)
    assert printed.count("image ") == 5
    assert (place / "runs/search.png").stat().st_size > 1000


def test_train_a_captioner(place):
    assert "'bleu_4'" in run("train_captioner.py", cwd=place)
    assert (place / "runs/captioner/model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # from peft
def test_fine_tune_and_chat(place):
    ViTModel(tiny.vision_config(), add_pooling_layer=False).save_pretrained(place / "vision")
    tiny.image_processor().save_pretrained(place / "vision")
    text = tiny.llama_config(**tiny.CHAT_TOKENS, max_position_embeddings=512)
    LlamaForCausalLM(text).save_pretrained(place / "text")
    tiny.chat_tokenizer().save_pretrained(place / "text")
    run("finetune_vlm_lora.py", "--vision", "vision", "--text", "text", cwd=place)
    tiny.photo().save(place / "photo.jpg")
    for flags in ([], ["photo.jpg", "is this a dog"]):
        run("chat.py", *flags, cwd=place)


def test_classify_pairs(place):
    assert run("classify_pairs.py", cwd=place).count("the photo on the left is") == 3


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_are_short_and_plain(script):
    lines = script.read_text().splitlines()
    assert len(lines) <= 60
    assert not [line for line in lines if line.startswith("class ")]
    assert f"python examples/quickstart/{script.name}" in lines[2]
