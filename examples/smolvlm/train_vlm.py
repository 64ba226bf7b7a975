"""Stage 2: train a language model on image tokens from the Q-Former of stage 1.

    python examples/smolvlm/train_vlm.py examples/smolvlm/vlm.yaml --data coco

Flags override the YAML file. The vision tower is frozen, the connector is fully trained, and the language model is
trained with LoRA (or DoRA, with --use_dora). The output folder contains the peft adapter including the connector,
`base` (the model before training) and `merged` (a model without adapters, which does not require peft). --resume
resumes an interrupted run. Train on two GPUs:

    torchrun --nproc_per_node 2 examples/smolvlm/train_vlm.py ...

On several machines, the output folder must be on shared storage.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from caption_sources import Tables, cached_tables, check_streaming, data_name
from chat_data import ChatDataArguments, load_chat_tables
from peft import PeftModel
from transformers import ProcessorMixin, Trainer, set_seed

from vlmkit import SmolVLM, VlmkitSmolVLMProcessor
from vlmkit.analysis.parameters import component_parameters, parameter_table
from vlmkit.data import ChatCollator, build_chat_dataset, evaluation_split
from vlmkit.inference import first_replies
from vlmkit.training import (
    TableTrainingArguments,
    adapt_backbones,
    check_phases,
    check_single_gpu,
    load_lora,
    optimizer_with_group_learning_rates,
    parse_arguments,
)

CONNECTOR = "base_model.model.model.connector.modules_to_save.default"


@dataclass
class ModelArguments:
    """Pretrained models, LoRA, caching and resuming."""

    aligner: str = field(metadata={"help": "Folder or hub id of the model of stage 1."})
    text: str = field(metadata={"help": "Folder or hub id of a causal language model."})
    lora_rank: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.1
    use_dora: bool = field(default=False, metadata={"help": "Use DoRA instead of LoRA."})
    cache_vision_features: Literal["float16", "float32", "no"] = field(
        default="float16",
        metadata={"help": "Run the frozen vision tower once and cache its features on disk with this dtype."},
    )
    resume: bool = field(default=False, metadata={"help": "Resume an interrupted run."})


@dataclass
class VlmTrainingArguments(TableTrainingArguments):
    """Training arguments with the recipe of the original as defaults."""

    output_dir: str = "runs/smolvlm"
    learning_rate: float = field(
        default=5e-4, metadata={"help": "Learning rate of LoRA and of the connector layers after the Q-Former."}
    )
    qformer_learning_rate: float = field(
        default=1e-4, metadata={"help": "Learning rate of the Q-Former and its vision projection."}
    )
    weight_decay: float = 0.01
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 100
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 4
    num_train_epochs: float = 5
    per_device_eval_batch_size: int = field(
        default=4, metadata={"help": "Batch size of evaluation, which computes the logits of all positions."}
    )
    logging_steps: float = 10
    save_total_limit: int | None = 1
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    # Every process reads separate shards of a stream.
    accelerator_config: dict | str | None = field(default_factory=lambda: {"dispatch_batches": False})


def main() -> None:
    """Train, save the adapter and the merged model, and print replies about held-out images."""
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    model_args, data_args, training_args = parse_arguments(
        ModelArguments, ChatDataArguments, VlmTrainingArguments, defaults={"bf16": has_bf16}
    )
    check_single_gpu(training_args)  # the images of a batch cannot be split like its texts
    folder, push = Path(training_args.output_dir), training_args.push_to_hub
    training_args.push_to_hub = False  # Trainer would push the adapter; the merged model is pushed instead
    [progress] = check_phases([folder], model_args.resume)
    check_streaming(data_args.datasets, training_args.max_steps, model_args.cache_vision_features)

    set_seed(training_args.seed)
    with training_args.main_process_first(local=False):  # other processes and machines read the files of the first one
        tables = load_chat_tables(data_args)
        if training_args.process_index == 0:
            write_base(model_args, folder / "base")
        model = SmolVLM.from_pretrained(folder / "base")
        processor = VlmkitSmolVLMProcessor.from_pretrained(folder / "base")
        if model_args.cache_vision_features != "no":
            model.get_encoder("image").to(training_args.device)
            dtype = model_args.cache_vision_features
            tables = {name: cached_tables(model, processor, split, dtype) for name, split in tables.items()}
    set_seed(training_args.seed)  # the same adapter for new and resumed runs
    adapted = adapt_backbones(
        model,
        text="dora" if model_args.use_dora else "lora",
        rank=model_args.lora_rank,
        alpha=model_args.lora_alpha,
        dropout=model_args.lora_dropout,
    )
    if training_args.should_log:
        print("training is already finished" if progress.finished else parameter_table(component_parameters(model)))
    trainer = new_trainer(adapted, processor, tables, data_args, training_args)
    if not progress.finished:
        result = trainer.train(resume_from_checkpoint=progress.checkpoint)
        trainer.save_model()
        trainer.save_metrics("train", result.metrics)  # written last, because it marks the training as finished
        trainer.accelerator.wait_for_everyone()
    if training_args.process_index == 0:
        finish(folder, processor, tables, data_args, training_args, push)


def write_base(arguments: ModelArguments, folder: Path) -> None:
    """Save the model before training, which the adapter refers to. A resumed run uses the saved model."""
    if arguments.resume and folder.exists():
        return
    part = folder.with_suffix(".part")  # `base` never contains an incomplete model
    processor = VlmkitSmolVLMProcessor.from_aligner_text_pretrained(arguments.aligner, arguments.text)
    model = SmolVLM.from_aligner_text_pretrained(arguments.aligner, arguments.text, processor=processor)
    processor.save_pretrained(part)
    model.save_pretrained(part)
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)


def new_trainer(
    model: PeftModel,
    processor: ProcessorMixin,
    tables: dict[str, Tables],
    data_args: ChatDataArguments,
    training_args: VlmTrainingArguments,
) -> Trainer:
    """Build a trainer on the conversations of all datasets, which evaluates the loss on their validation splits."""
    splits = list(tables.values())
    validation_tables = [split["validation"] for split in splits if "validation" in split]
    validation = build_chat_dataset(validation_tables, data_args.tasks, max_turns=data_args.max_turns)
    training = build_chat_dataset([split["train"] for split in splits], data_args.tasks, max_turns=data_args.max_turns)
    if training is None:
        raise SystemExit(
            f"At least one dataset must contain {' or '.join(data_args.tasks)}, but got {' and '.join(tables)}. Change "
            "`--tasks` or `--datasets`."
        )
    if training_args.eval_strategy != "no" and validation is None:
        raise SystemExit(
            f"`--eval_strategy` requires a validation split, but got {' and '.join(tables)} without one. Remove "
            "`--eval_strategy`."
        )
    parameter_groups = {f"{CONNECTOR}.qformer": training_args.qformer_learning_rate}
    if list(model.get_submodule(CONNECTOR).vision_projection.parameters()):
        parameter_groups[f"{CONNECTOR}.vision_projection"] = training_args.qformer_learning_rate
    return Trainer(
        model,
        training_args,
        data_collator=ChatCollator(processor),
        train_dataset=training,
        eval_dataset=validation,
        processing_class=processor,
        optimizer_cls_and_kwargs=optimizer_with_group_learning_rates(
            training_args, model, parameter_groups=parameter_groups
        ),
    )


def finish(
    folder: Path,
    processor: ProcessorMixin,
    tables: dict[str, Tables],
    data_args: ChatDataArguments,
    training_args: VlmTrainingArguments,
    push: bool,
) -> None:
    """Merge the adapter, save the merged model, print replies, and push the model to the Hub if `push`."""
    base = SmolVLM.from_pretrained(folder / "base").to(training_args.device)
    model = load_lora(base, folder).merge_and_unload().eval()
    model.describe(data=", ".join(data_name(name, data_args.data) for name in tables))
    model.save_pretrained(folder / "merged")
    processor.save_pretrained(folder / "merged")
    for name, split in tables.items():
        chats = build_chat_dataset([evaluation_split(split)], data_args.tasks, max_turns=1) or []
        for question, reply, answer in first_replies(model, processor, chats, max_new_tokens=30, do_sample=False):
            print(f"{name}: {question} -> {reply} ({answer})")
    print(f"merged model: {folder / 'merged'}")
    if push:
        model.push_to_hub(training_args.hub_model_id or folder.name)
        processor.push_to_hub(training_args.hub_model_id or folder.name)


if __name__ == "__main__":
    main()
