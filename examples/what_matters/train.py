"""Train a vision-language model in phases: low resolution, high resolution with image splitting, instructions.

    python examples/what_matters/train.py examples/what_matters/schedule.yaml --data coco

The YAML file contains the settings of all phases and a list `phases` of the settings that differ. Flags override both
in every phase. Each phase is a run of `Trainer` with a separate folder. At its end, the adapters are merged and the
model is saved with its processor; the next phase starts from this model. --resume resumes an interrupted run. The run
stops if the loss of a phase diverges; the models of previous phases are kept. Train on two GPUs:

    torchrun --nproc_per_node 2 examples/what_matters/train.py ...
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

DIVERGENCE = "divergence.json"  # written to the folder of a diverged phase


@dataclass
class ModelArguments:
    """Pretrained backbones and architecture of the model."""

    vision: str = field(metadata={"help": "Folder or hub id of an image model."})
    text: str = field(metadata={"help": "Folder or hub id of a causal language model."})
    connector: Literal["qformer", "perceiver", "mlp", "pixel_shuffle"] = "perceiver"
    fusion: Literal["autoregressive", "cross_attention"] = "autoregressive"
    num_query_tokens: int | None = field(
        default=None, metadata={"help": "Number of queries of the Q-Former or Perceiver."}
    )
    perceiver_depth: int = 3
    pixel_shuffle_factor: int = 2
    cross_layer_interval: int = 4


@dataclass
class PhaseArguments:
    """Image processing and training modes of a phase."""

    size: str = field(
        default='{"longest_edge": 384}',
        metadata={"help": "Image size as JSON: longest_edge with an optional shortest_edge, or height and width."},
    )
    do_image_splitting: bool = field(
        default=False, metadata={"help": "Split each image into four quarters and the whole image."}
    )
    vision_mode: Mode = field(default="lora", metadata={"help": "Training mode of the image model."})
    text_mode: Mode = field(default="lora", metadata={"help": "Training mode of the language model."})
    lora_rank: int = field(default=64, metadata={"help": "Rank of the LoRA and DoRA matrices."})
    lora_alpha: int = 128
    lora_dropout: float = 0.1
    resume: bool = field(default=False, metadata={"help": "Resume an interrupted run."})


@dataclass
class ScheduleTrainingArguments(TableTrainingArguments):
    """Training arguments with defaults for all phases."""

    output_dir: str = "runs/what_matters"
    learning_rate: float = 1e-4
    lr_scheduler_type: str = "cosine"
    max_grad_norm: float = 1.0
    per_device_eval_batch_size: int = field(
        default=4, metadata={"help": "Batch size of evaluation, which computes the logits of all positions."}
    )
    logging_steps: float = 10
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Must be False, because the filter hides losses that are not finite."}
    )
    save_total_limit: int | None = 1
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])


Phase = tuple[ModelArguments, ChatDataArguments, PhaseArguments, ScheduleTrainingArguments]


def main() -> None:
    """Train all unfinished phases, print replies of the final model and push it to the Hub if requested."""
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
    # All processors are built first, so that an invalid image size raises an error before training.
    processors = [new_processor(model_args, phase_args) for model_args, _, phase_args, _ in phases]
    model = new_model(phases[0][0], processors[0])
    previous = None
    for number, (phase, processor, step) in enumerate(zip(phases, processors, progress, strict=True), start=1):
        _, data_args, _, training_args = phase
        training_args.push_to_hub = False  # only the final model is pushed, not the adapters of each phase
        if training_args.should_log:
            print(f"phase {number} " + ("is finished" if step.finished else f"of {len(phases)}"))
        if not step.finished:
            with training_args.main_process_first():  # other processes read the cache of the first one
                tables = load_chat_tables(data_args)
            if not train(model, processor, tables, phase, step.checkpoint):
                raise SystemExit(divergence_message(number, training_args.output_dir, previous))
        previous = training_args.output_dir
        model = SmolVLM.from_pretrained(previous)
    if training_args.process_index == 0:
        print_replies(model.to(training_args.device), processors[-1], data_args)
        print(f"final model: {previous}")
        if push:
            model.push_to_hub(training_args.hub_model_id)
            processors[-1].push_to_hub(training_args.hub_model_id)


def checked_progress(phases: list[Phase]) -> list[PhaseStatus]:
    """Check the settings of all phases and return the status of each phase.

    Raises:
        SystemExit: If settings are incompatible, or a phase has diverged.
        ValueError: If a phase has been started and `--resume` is not set.
    """
    if any(phase[0] != phases[0][0] for phase in phases):
        raise SystemExit(
            "All phases must have the same model arguments. Move these arguments out of `phases`, to the top level of "
            "the YAML file."
        )
    *_, phase_args, training_args = phases[-1]
    if training_args.push_to_hub and training_args.hub_model_id is None:
        raise SystemExit("`--push_to_hub` requires `--hub_model_id`.")
    for _, data_args, _, training_args in phases:
        check_data(data_args)
        check_single_gpu(training_args)  # the images of a batch cannot be split like its texts
    folders = [training_args.output_dir for *_, training_args in phases]
    progress = check_phases(folders, phase_args.resume)
    for number, (folder, previous) in enumerate(zip(folders, [None, *folders], strict=False), start=1):
        if Path(folder, DIVERGENCE).is_file():
            raise SystemExit(divergence_message(number, folder, previous))
    return progress


def new_model(arguments: ModelArguments, processor: VlmkitSmolVLMProcessor) -> SmolVLM:
    """Build a model of two pretrained backbones and a new connector."""
    fields = asdict(arguments)
    vision, text = fields.pop("vision"), fields.pop("text")
    return SmolVLM.from_vision_text_pretrained(vision, text, processor=processor, **fields)


def new_processor(arguments: ModelArguments, phase: PhaseArguments) -> VlmkitSmolVLMProcessor:
    """Build the processor of a phase, which defines image size and splitting.

    Raises:
        SystemExit: If the size is not valid JSON.
        ValueError: If the size is invalid, for example not a multiple of the patch size.
    """
    try:
        size = json.loads(phase.size)
    except json.JSONDecodeError as error:
        raise SystemExit(f"`--size` must be JSON such as {PhaseArguments.size}, but got {phase.size}.") from error
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
    """Run one phase, from its last checkpoint if one exists.

    Returns:
        Whether the phase has finished and its model is saved. `False` if the loss diverged, which is recorded in the
        folder.
    """
    _, data_args, phase_args, training_args = phase
    folder = Path(training_args.output_dir)
    set_seed(training_args.seed)  # the same adapter for new and resumed phases
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
    validation_tables = [splits["validation"] for splits in tables.values() if "validation" in splits]
    divergence = StopOnDivergence()
    trainer = Trainer(
        adapted,
        training_args,
        data_collator=ChatCollator(processor),
        train_dataset=build_chat_dataset([splits["train"] for splits in tables.values()], tasks, max_turns=max_turns),
        eval_dataset=build_chat_dataset(validation_tables, tasks, max_turns=max_turns),
        processing_class=processor,
        callbacks=[divergence],
    )
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if divergence.diverged:
        if training_args.process_index == 0:
            record = {"step": divergence.step, "reason": divergence.reason}
            (folder / DIVERGENCE).write_text(json.dumps(record, indent=2))
        trainer.accelerator.wait_for_everyone()
        return False
    if training_args.process_index == 0:
        merged = adapted.merge_and_unload() if isinstance(adapted, PeftModel) else adapted
        merged.describe(data=data_names(data_args))
        merged.save_pretrained(folder)
        processor.save_pretrained(folder)
    trainer.save_metrics("train", result.metrics)  # written last, because it marks the phase as finished
    trainer.accelerator.wait_for_everyone()  # other processes load the model that the first one saved
    return True


def divergence_message(number: int, folder: str, previous: str | None) -> str:
    """Return an error message about a diverged phase."""
    record = json.loads(Path(folder, DIVERGENCE).read_text())
    kept = f" The model of the previous phase is in {previous}." if previous else ""
    return (
        f"Phase {number} diverged at step {record['step']} ({record['reason']}).{kept} Delete {folder}, lower "
        "`learning_rate` of this phase or train its backbones with 'lora' or 'frozen', and resume with `--resume`."
    )


if __name__ == "__main__":
    main()
