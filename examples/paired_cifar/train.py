"""Train an image encoder on pairs of CIFAR-100 images and the captions of a frozen text encoder.

Train with the recipe of the report, or with our best recipe for two CPU cores:

    python examples/paired_cifar/train.py examples/paired_cifar/report.yaml
    python examples/paired_cifar/train.py examples/paired_cifar/best_cpu.yaml

Flags override the settings of the file:

    ... report.yaml --data cifar-100-python.tar.gz --bf16 --gradient_accumulation_steps 2

Train on two GPUs, or on two CPU processes with --use_cpu:

    torchrun --nproc_per_node 2 examples/paired_cifar/train.py ...
"""

from functools import partial
from pathlib import Path

import torch
from pair_setup import (
    CUTOFFS,
    AlignerTrainingArguments,
    AugmentationArguments,
    DataArguments,
    ModelArguments,
    load_pairs,
    load_text_encoder,
    print_metrics,
)
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from vlmkit import PairedCifarAligner, PairedCifarAlignerProcessor
from vlmkit.data import ImagePairs, PairCollator, SetEpochCallback
from vlmkit.metrics import compute_pair_metrics
from vlmkit.training import EmaCallback, EvalCollatorTrainer, SaveProcessorCallback, parse_arguments


def main() -> None:
    """Train, evaluate on held-out images, save the model and push it to the Hub if `--push_to_hub` is set."""
    model_args, data_args, augmentation_args, training_args = parse_arguments(
        ModelArguments, DataArguments, AugmentationArguments, AlignerTrainingArguments
    )
    folder = Path(training_args.output_dir)
    checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
    if checkpoint and not training_args.resume_from_checkpoint:
        raise SystemExit(
            f"The output folder {folder} already contains a run. Pass `--resume_from_checkpoint {checkpoint}` to "
            "resume it, or choose another `--output_dir`."
        )

    set_seed(training_args.seed)
    with training_args.main_process_first():  # other processes read the cache of the first one
        pairs = load_pairs(data_args)
    model = build_model(model_args, pairs["train"], training_args.device)
    processor = PairedCifarAlignerProcessor.for_cifar100(model_args.input_size)
    trainer = build_trainer(model, processor, pairs, augmentation_args, training_args)
    print(f"{model.num_parameters():,} parameters, {training_args.world_size} processes")
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)

    held_out = "test" if "test" in pairs else "validation"
    metrics = trainer.evaluate(pairs[held_out], metric_key_prefix=held_out)
    trainer.log_metrics(held_out, metrics)
    trainer.save_metrics(held_out, metrics)
    shown = {name.removeprefix(f"{held_out}_"): value for name, value in metrics.items()}
    if trainer.is_world_process_zero():
        print_metrics(shown, pairs[held_out], held_out)
    model.describe(
        data=f"pairs of images of {Path(data_args.data).name}, evaluated on the split {held_out!r}",
        metrics={name: value for name, value in shown.items() if "@" in name or "accuracy" in name},
    )
    trainer.save_model()
    if training_args.push_to_hub and trainer.is_world_process_zero():
        model.push_to_hub(trainer.hub_model_id)  # replaces the model card of Trainer


def build_model(model_args: ModelArguments, pairs: ImagePairs, device: torch.device) -> PairedCifarAligner:
    """Build a new model and its caption bank."""
    text_model, tokenizer = load_text_encoder(model_args.text)
    model = PairedCifarAligner(model_args.config(text_model, tokenizer, pairs.class_names))
    model.build_caption_bank(text_model.to(device), tokenizer, pooling=model_args.text_pooling)
    return model.to(memory_format=torch.channels_last)  # speeds up convolutions


def build_trainer(
    model: PairedCifarAligner,
    processor: PairedCifarAlignerProcessor,
    pairs: dict[str, ImagePairs],
    augmentation_args: AugmentationArguments,
    training_args: AlignerTrainingArguments,
) -> EvalCollatorTrainer:
    """Build a trainer with the collators and callbacks that the arguments specify."""
    num_classes = model.config.num_classes
    callbacks: list[TrainerCallback] = [SetEpochCallback(), SaveProcessorCallback(processor)]
    if training_args.ema_decay is not None:
        callbacks.append(EmaCallback(training_args.ema_decay))
    if training_args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(training_args.early_stopping_patience))
    return EvalCollatorTrainer(
        model,
        training_args,
        data_collator=PairCollator(
            processor,
            num_classes,
            augmentation_args.augmentation(),
            augmentation_args.mix,
            augmentation_args.mix_alpha,
        ),
        eval_data_collator=PairCollator(processor, num_classes),
        train_dataset=pairs["train"],
        eval_dataset=pairs.get("validation", pairs.get("test")),
        compute_metrics=partial(
            compute_pair_metrics,
            caption_embeds=model.caption_embeds,
            num_classes=num_classes,
            cutoffs=CUTOFFS,
        ),
        callbacks=callbacks,
    )


if __name__ == "__main__":
    main()
