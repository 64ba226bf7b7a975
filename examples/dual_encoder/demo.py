"""Train a small dual encoder from scratch on synthetic scenes, and retrieve held-out scenes by their captions.

    make demo        (or: python examples/dual_encoder/demo.py)

The demo needs neither a network connection nor a GPU, and takes about four minutes on two CPU cores. The held-out
scenes contain combinations of color and shape that do not occur in training.
"""

from dataclasses import dataclass, field
from pathlib import Path

from retrieval_data import DualEncoderTrainingArguments, draw_similarity, print_recalls, score
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoProcessor,
    BertConfig,
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
    ResNetConfig,
    Trainer,
    set_seed,
)

from vlmkit import DualEncoderConfig, DualEncoderModel, DualEncoderProcessor
from vlmkit.data import ContrastiveCollator, load_scenes
from vlmkit.training import parse_arguments

CUTOFFS = (1, 5, 10)


@dataclass
class DemoTrainingArguments(DualEncoderTrainingArguments):
    """Training arguments with defaults for a model with random initial weights."""

    output_dir: str = "runs/demo"
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: float = 50
    num_train_epochs: float = 14
    per_device_train_batch_size: int = 128
    save_strategy: str = "no"


@dataclass
class SceneArguments:
    """Number of synthetic scenes."""

    num_train: int = field(default=4000, metadata={"help": "Number of training scenes."})
    num_test: int = field(default=200, metadata={"help": "Number of held-out scenes."})


def build_processor(captions: list[list[str]]) -> DualEncoderProcessor:
    """Build a processor that scales pixels to [-1, 1] and maps every word of the training captions to one token."""
    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"])
    backend.train_from_iterator((caption for image_captions in captions for caption in image_captions), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    image_processor = CLIPImageProcessor(
        size={"height": 64, "width": 64}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return DualEncoderProcessor(image_processor, tokenizer)


def build_model(vocab_size: int) -> DualEncoderModel:
    """Build a dual encoder of a four-block ResNet and a two-layer BERT with 1.6M trainable parameters."""
    vision = ResNetConfig(hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], embedding_size=32, layer_type="basic")
    text = BertConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = DualEncoderConfig(
        vision_config=vision,
        text_config=text,
        text_features="encoder",
        projection="shared",
        projection_dim=128,
        freeze_vision=False,
        freeze_text=False,
        learn_temperature=True,
    )
    return DualEncoderModel(config)


def main() -> None:
    """Train, evaluate, save and reload a model, and plot a similarity matrix."""
    scenes, training_args = parse_arguments(SceneArguments, DemoTrainingArguments)
    set_seed(training_args.seed)
    tables = load_scenes(num_train=scenes.num_train, num_test=scenes.num_test)
    processor = build_processor(tables["train"]["captions"])
    model = build_model(len(processor.tokenizer))
    untrained = score(model, processor, tables["test"], CUTOFFS)

    trainer = Trainer(
        model,
        training_args,
        data_collator=ContrastiveCollator(processor, caption="random"),
        train_dataset=tables["train"],
        processing_class=processor,
    )
    trainer.train()
    trained = score(model, processor, tables["test"], CUTOFFS)
    print_recalls({"untrained": untrained, "trained": trained}, tables["test"], CUTOFFS)

    folder = Path(training_args.output_dir)
    model.describe(data=f"{scenes.num_train:,} synthetic scenes", metrics=trained)
    trainer.save_model()
    reloaded = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    if score(*reloaded, tables["test"], CUTOFFS) != trained:
        raise SystemExit("The reloaded model must have the same metrics as the trained model.")
    print(f"\nSaved to {folder}. The model reloaded with AutoModel and AutoProcessor has the same metrics.")

    draw_similarity(model, processor, tables["test"], 8, folder / "similarity.png")


if __name__ == "__main__":
    main()
