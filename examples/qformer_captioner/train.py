"""Train a captioner in phases, each of which frees more of the language model.

    python examples/qformer_captioner/train.py examples/qformer_captioner/original.yaml --data coco

The YAML file holds the settings of all phases and a list `phases` of what differs; flags after it win in every phase.
Each phase is a run of `Trainer` in a folder of its own and starts from the model of the one before. A killed run goes
on with --resume. On two GPUs: torchrun --nproc_per_node 2 examples/qformer_captioner/train.py ...
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from caption_data import SCORES, CaptionerTrainingArguments, DataArguments, load_tables, percent
from datasets import DatasetDict
from transformers import AutoModel, PreTrainedModel, ProcessorMixin, Trainer, set_seed

from vlmkit import QFormerCaptioner, QFormerCaptionerProcessor
from vlmkit.analysis.parameters import component_parameters, parameter_table
from vlmkit.data import CaptionCollator, CaptionPairs, evaluation_split
from vlmkit.inference import cache_vision_features, caption_table
from vlmkit.metrics import caption_metrics
from vlmkit.training import check_phases, freeze_lower_blocks, optimizer_with_group_learning_rates, parse_phases


@dataclass
class ModelArguments:
    """What the first phase starts from."""

    vision: str = field(metadata={"help": "folder or hub id of an image model"})
    text: str = field(metadata={"help": "folder or hub id of a causal language model"})
    start_token: str | None = field(default=None, metadata={"help": "a new token with which captions begin"})
    end_token: str | None = field(default=None, metadata={"help": "a new token with which captions end"})
    num_query_tokens: int = 64
    num_qformer_layers: int = 2
    num_attention_heads: int = 8
    dropout: float = 0.1
    vision_layers: list[int] | None = None
    freeze_vision: bool = True


@dataclass
class PhaseArguments:
    """What a phase trains, on what."""

    freeze_fraction: float = field(default=0.7, metadata={"help": "of the language model's blocks, from the lowest"})
    freeze_token_embeddings: bool = field(default=False, metadata={"help": "even where they are the head as well"})
    parameter_groups: str = field(
        default="{}", metadata={"help": 'JSON: learning rates of parts, such as {"model.language_model": 2e-5}'}
    )
    caption: Literal["first", "all"] = field(default="first", metadata={"help": "of each image"})
    cache_vision_features: Literal["float16", "float32"] | None = field(
        default=None, metadata={"help": "run the frozen vision tower once, and keep its features on disk"}
    )
    num_beams: int = field(default=3, metadata={"help": "of the captions that are scored in the end"})
    max_new_tokens: int = 30
    resume: bool = field(default=False, metadata={"help": "go on with a run that was killed"})


def main() -> None:
    """Train the phases that are not finished, score captions of held-out images, save."""
    phases = parse_phases(ModelArguments, DataArguments, PhaseArguments, CaptionerTrainingArguments)
    model_args, data_args, phase_args, training_args = phases[0]
    if any(phase[:2] != phases[0][:2] for phase in phases):
        raise SystemExit("a phase changes the model or the data, which are the same in all: move this out of `phases`")
    progress = check_phases([phase[-1].output_dir for phase in phases], phase_args.resume)
    if phase_args.cache_vision_features and not model_args.freeze_vision:
        raise SystemExit("--cache_vision_features needs a frozen vision tower: drop it, or leave --freeze_vision")

    set_seed(training_args.seed)
    model, processor = new_model(model_args)
    with training_args.main_process_first():  # the others read what the first one computed
        tables = load_tables(data_args)
        if phase_args.cache_vision_features:
            model.get_encoder("image").to(training_args.device)
            tables = cached(model, processor, tables, phase_args.cache_vision_features)
    for number, (phase, step) in enumerate(zip(phases, progress, strict=True), start=1):
        *_, phase_args, training_args = phase
        if training_args.should_log:
            print(f"phase {number} " + ("is finished" if step.finished else f"of {len(phases)}"))
        if not step.finished:
            train(model, processor, tables, phase_args, training_args, step.checkpoint)
        model = AutoModel.from_pretrained(training_args.output_dir)
    if training_args.process_index == 0:
        score(model.to(training_args.device), processor, tables, data_args, phase_args, Path(training_args.output_dir))
        if training_args.push_to_hub:
            model.push_to_hub(training_args.hub_model_id or Path(training_args.output_dir).name)


def new_model(arguments: ModelArguments) -> tuple[QFormerCaptioner, QFormerCaptionerProcessor]:
    """Two pretrained models with a new Q-Former between them, and tokens for start and end if these are to be new."""
    fields = asdict(arguments)
    vision, text = fields.pop("vision"), fields.pop("text")
    tokens = {"bos_token": fields.pop("start_token"), "eos_token": fields.pop("end_token")}
    processor = QFormerCaptionerProcessor.from_vision_text_pretrained(
        vision, text, **{name: token for name, token in tokens.items() if token is not None}
    )
    return QFormerCaptioner.from_vision_text_pretrained(vision, text, processor=processor, **fields), processor


def cached(model: PreTrainedModel, processor: ProcessorMixin, tables: DatasetDict, dtype: str) -> DatasetDict:
    """Replace the images of tables with the features of the frozen vision tower."""
    return DatasetDict(
        {
            name: cache_vision_features(model.get_encoder("image"), processor, table, dtype=dtype)
            for name, table in tables.items()
        }
    )


def train(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    tables: DatasetDict,
    phase: PhaseArguments,
    training_args: CaptionerTrainingArguments,
    checkpoint: str | None,
) -> None:
    """Run one phase, from its last checkpoint if there is one, and save its model."""
    freeze_lower_blocks(model, fraction=phase.freeze_fraction, freeze_token_embeddings=phase.freeze_token_embeddings)
    if training_args.should_log:
        print(parameter_table(component_parameters(model)))
    pairs = {name: CaptionPairs(table) if phase.caption == "all" else table for name, table in tables.items()}
    trainer = Trainer(
        model,
        training_args,
        data_collator=CaptionCollator(processor),
        train_dataset=pairs["train"],
        eval_dataset=pairs.get("validation", pairs.get("test")),
        processing_class=processor,
        optimizer_cls_and_kwargs=optimizer_with_group_learning_rates(
            training_args, model, parameter_groups=json.loads(phase.parameter_groups)
        ),
    )
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)  # last: it marks the phase as finished
    trainer.accelerator.wait_for_everyone()  # before any process reads what the first one wrote


def score(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    tables: DatasetDict,
    data_args: DataArguments,
    phase: PhaseArguments,
    folder: Path,
) -> None:
    """Caption the held-out images, and write the scores into the model's card."""
    table = evaluation_split(tables)
    captions = caption_table(
        model, processor, table, do_sample=False, num_beams=phase.num_beams, max_new_tokens=phase.max_new_tokens
    )
    metrics = caption_metrics(captions, table["captions"])
    print(f"\n{len(table):,} held-out images" + "".join(f"{name:>9}" for name in SCORES))
    print(f"{'':20}" + percent(metrics))
    freeze_lower_blocks(
        model, fraction=phase.freeze_fraction, freeze_token_embeddings=phase.freeze_token_embeddings
    )  # the card counts what trained
    model.describe(data=Path(data_args.data).name if data_args.data else "drawn scenes", metrics=metrics)
    model.save_pretrained(folder)
    (folder / "test_metrics.json").write_text(json.dumps(metrics, indent=2))
    print("\nthe first ones:", *captions[:5], f"\nwritten: {folder}", sep="\n")


if __name__ == "__main__":
    main()
