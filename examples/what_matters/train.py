"""Train a vision-language model in phases: low resolution, then higher and split images, then instructions.

    python examples/what_matters/train.py examples/what_matters/schedule.yaml --data coco

The YAML file holds the settings of all phases and a list `phases` of what differs; flags after it win in every phase.
Each phase is a run of `Trainer` in a folder of its own, which in the end holds an ordinary model, adapters merged, with
the processor of its images; the next phase starts from it. A killed run goes on with --resume. A phase whose loss
diverges ends the run; what the phases before it have learnt stays.
On two GPUs: torchrun --nproc_per_node 2 examples/what_matters/train.py ...
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from chat_tables import ChatDataArguments, check_data, data_names, load_chat_tables, print_replies
from datasets import DatasetDict
from divergence import StopOnDivergence
from peft import PeftModel
from transformers import Trainer, set_seed

from vlmkit import SmolVLM, VlmkitSmolVLMProcessor
from vlmkit.analysis.parameters import component_parameters, parameter_table
from vlmkit.data import ChatCollator, build_chat_dataset
from vlmkit.training import (
    PhaseStatus,
    TableTrainingArguments,
    adapt_backbones,
    check_phases,
    check_single_gpu,
    parse_phases,
)
from vlmkit.training.adapters import Mode

DIVERGENCE = "divergence.json"  # in the folder of a phase that diverged


@dataclass
class ModelArguments:
    """What the first phase starts from: two pretrained models, and the design of what joins them."""

    vision: str = field(metadata={"help": "folder or hub id of an image model"})
    text: str = field(metadata={"help": "folder or hub id of a causal language model"})
    connector: Literal["qformer", "perceiver", "mlp", "pixel_shuffle"] = "perceiver"
    fusion: Literal["autoregressive", "cross_attention"] = "autoregressive"
    num_query_tokens: int | None = field(default=None, metadata={"help": "queries of qformer or perceiver"})
    perceiver_depth: int = 3
    pixel_shuffle_factor: int = 2
    cross_layer_interval: int = 4


@dataclass
class PhaseArguments:
    """What a phase shows, and how its backbones train."""

    size: str = field(
        default='{"longest_edge": 384}',
        metadata={"help": "JSON: longest_edge, with or without shortest_edge, or height and width"},
    )
    do_image_splitting: bool = field(default=False, metadata={"help": "into the quarters of an image and the whole"})
    vision_mode: Mode = field(default="lora", metadata={"help": "how the image model trains"})
    text_mode: Mode = field(default="lora", metadata={"help": "how the language model trains"})
    lora_rank: int = field(default=64, metadata={"help": "of LoRA and DoRA"})
    lora_alpha: int = 128
    lora_dropout: float = 0.1
    resume: bool = field(default=False, metadata={"help": "go on with a run that was killed"})


@dataclass
class ScheduleTrainingArguments(TableTrainingArguments):
    """What holds in all phases unless the file says otherwise."""

    output_dir: str = "runs/what_matters"
    learning_rate: float = 1e-4
    lr_scheduler_type: str = "cosine"
    max_grad_norm: float = 1.0
    per_device_eval_batch_size: int = field(default=4, metadata={"help": "evaluation computes all logits"})
    logging_steps: float = 10
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "would hide a loss that diverges"})
    save_total_limit: int | None = 1
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])


Phase = tuple[ModelArguments, ChatDataArguments, PhaseArguments, ScheduleTrainingArguments]


def main() -> None:
    """Train the phases that are not finished, show what the last one's model says, and publish it if asked to."""
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    phases: list[Phase] = parse_phases(
        ModelArguments,
        ChatDataArguments,
        PhaseArguments,
        ScheduleTrainingArguments,
        defaults={"bf16": has_bf16},
    )
    push = phases[-1][-1].push_to_hub
    progress = checked_progress(phases)
    set_seed(phases[0][-1].seed)
    # All processors first: a wrong image size is found before anything is trained.
    processors = [new_processor(model_args, phase_args) for model_args, _, phase_args, _ in phases]
    model = new_model(phases[0][0], processors[0])
    before = None
    for number, (phase, processor, step) in enumerate(zip(phases, processors, progress, strict=True), start=1):
        _, data_args, _, training_args = phase
        training_args.push_to_hub = False  # not the adapters of each phase: the last model, in the end
        if training_args.should_log:
            print(f"phase {number} " + ("is finished" if step.finished else f"of {len(phases)}"))
        if not step.finished:
            with training_args.main_process_first():  # the others read what the first one wrote
                tables = load_chat_tables(data_args)
            if not train(model, processor, tables, phase, step.checkpoint):
                raise SystemExit(divergence_message(number, training_args.output_dir, before))
        before = training_args.output_dir
        model = SmolVLM.from_pretrained(before)
    if training_args.process_index == 0:
        print_replies(model.to(training_args.device), processors[-1], data_args)
        print(f"written: {before}")
        if push:
            model.push_to_hub(training_args.hub_model_id)
            processors[-1].push_to_hub(training_args.hub_model_id)


def checked_progress(phases: list[Phase]) -> list[PhaseStatus]:
    """How far each phase has come.

    Raises:
        SystemExit: settings do not go together, or a phase has diverged.
        ValueError: a phase has begun, and is not to be resumed.
    """
    if any(phase[0] != phases[0][0] for phase in phases):
        raise SystemExit("a phase changes the model, which is the same in all: move this out of `phases`")
    *_, phase_args, training_args = phases[-1]
    if training_args.push_to_hub and training_args.hub_model_id is None:
        raise SystemExit("--push_to_hub needs a name: give --hub_model_id")
    for _, data_args, _, training_args in phases:
        check_data(data_args)
        check_single_gpu(training_args)  # the images of a batch are in one row, whatever its texts have
    folders = [training_args.output_dir for *_, training_args in phases]
    progress = check_phases(folders, phase_args.resume)
    for number, (folder, before) in enumerate(zip(folders, [None, *folders], strict=False), start=1):
        if Path(folder, DIVERGENCE).is_file():
            raise SystemExit(divergence_message(number, folder, before))
    return progress


def new_model(arguments: ModelArguments, processor: VlmkitSmolVLMProcessor) -> SmolVLM:
    """Join two pretrained models by a new connector."""
    fields = asdict(arguments)
    vision, text = fields.pop("vision"), fields.pop("text")
    return SmolVLM.from_vision_text_pretrained(vision, text, processor=processor, **fields)


def new_processor(arguments: ModelArguments, phase: PhaseArguments) -> VlmkitSmolVLMProcessor:
    """Build the processor of a phase, which determines the size of its images and whether they are split.

    Raises:
        SystemExit: the size is no JSON.
        ValueError: the size cannot be, such as a side that is no multiple of the patch.
    """
    try:
        size = json.loads(phase.size)
    except json.JSONDecodeError as error:
        raise SystemExit(f"--size is {phase.size}: give JSON, such as {PhaseArguments.size}") from error
    return VlmkitSmolVLMProcessor.from_vision_text_pretrained(
        arguments.vision,
        arguments.text,
        connector=arguments.connector,
        fusion=arguments.fusion,
        num_query_tokens=arguments.num_query_tokens,
        pixel_shuffle_factor=arguments.pixel_shuffle_factor,
        size=size,
        do_image_splitting=phase.do_image_splitting,
    )


def train(
    model: SmolVLM,
    processor: VlmkitSmolVLMProcessor,
    tables: dict[str, DatasetDict],
    phase: Phase,
    checkpoint: str | None,
) -> bool:
    """Run one phase, from its last checkpoint if there is one, and save its model; or record that it diverged."""
    _, data_args, phase_args, training_args = phase
    folder = Path(training_args.output_dir)
    set_seed(training_args.seed)  # the same adapter, whether the phase begins or goes on
    adapted = adapt_backbones(
        model,
        vision=phase_args.vision_mode,
        text=phase_args.text_mode,
        rank=phase_args.lora_rank,
        alpha=phase_args.lora_alpha,
        dropout=phase_args.lora_dropout,
    )
    if training_args.should_log:
        print(parameter_table(component_parameters(model)))
    tasks, max_turns = data_args.tasks, data_args.max_turns
    watched = [splits["validation"] for splits in tables.values() if "validation" in splits]
    watch = StopOnDivergence()
    trainer = Trainer(
        adapted,
        training_args,
        data_collator=ChatCollator(processor),
        train_dataset=build_chat_dataset([splits["train"] for splits in tables.values()], tasks, max_turns=max_turns),
        eval_dataset=build_chat_dataset(watched, tasks, max_turns=max_turns),
        processing_class=processor,
        callbacks=[watch],
    )
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if watch.diverged:
        if training_args.process_index == 0:
            (folder / DIVERGENCE).write_text(json.dumps({"step": watch.step, "reason": watch.reason}, indent=2))
        trainer.accelerator.wait_for_everyone()
        return False
    if training_args.process_index == 0:
        merged = adapted.merge_and_unload() if isinstance(adapted, PeftModel) else adapted
        merged.describe(data=data_names(data_args))
        merged.save_pretrained(folder)
        processor.save_pretrained(folder)
    trainer.save_metrics("train", result.metrics)  # last: it marks the phase as finished
    trainer.accelerator.wait_for_everyone()  # before any process reads what the first one wrote
    return True


def divergence_message(number: int, folder: str, before: str | None) -> str:
    """What happened, and how to go on."""
    record = json.loads(Path(folder, DIVERGENCE).read_text())
    kept = f"; the model of the phase before is in {before}" if before else ""
    return (
        f"phase {number} diverged at step {record['step']} ({record['reason']}){kept}. Delete {folder}, lower the "
        "phase's learning_rate or train less than the full backbones (lora, frozen), and go on with --resume"
    )


if __name__ == "__main__":
    main()
