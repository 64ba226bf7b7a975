"""Train a captioner in phases that unfreeze more and more blocks of the language model.

    python examples/qformer_captioner/train.py examples/qformer_captioner/original.yaml --data coco

The YAML file contains the settings of all phases and a list `phases` of the settings that differ. Flags override both
in every phase. Each phase is a run of `Trainer` with a separate folder and starts from the model of the previous phase.
--resume resumes an interrupted run. Train on two GPUs:

    torchrun --nproc_per_node 2 examples/qformer_captioner/train.py ...
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
    """Pretrained backbones and architecture of the captioner."""

    vision: str = field(metadata={"help": "Folder or hub id of an image model."})
    text: str = field(metadata={"help": "Folder or hub id of a causal language model."})
    start_token: str | None = field(
        default=None, metadata={"help": "New token that starts a caption. Defaults to the one of the tokenizer."}
    )
    end_token: str | None = field(
        default=None, metadata={"help": "New token that ends a caption. Defaults to the one of the tokenizer."}
    )
    num_query_tokens: int = 64
    num_qformer_layers: int = 2
    num_attention_heads: int = 8
    dropout: float = 0.1
    vision_layers: list[int] | None = None
    freeze_vision: bool = True


@dataclass
class PhaseArguments:
    """Trained parameters, captions and evaluation of a phase."""

    freeze_fraction: float = field(
        default=0.7, metadata={"help": "Fraction of language model blocks to freeze, counted from the input."}
    )
    freeze_token_embeddings: bool = field(
        default=False, metadata={"help": "Freeze the token embeddings even if they are tied to the head."}
    )
    parameter_groups: str = field(
        default="{}",
        metadata={"help": 'Learning rates by module name as JSON, such as {"model.language_model": 2e-5}.'},
    )
    caption: Literal["first", "all"] = field(default="first", metadata={"help": "Captions used per image."})
    cache_vision_features: Literal["float16", "float32"] | None = field(
        default=None,
        metadata={"help": "Run the frozen vision tower once and cache its features on disk with this dtype."},
    )
    num_beams: int = field(default=3, metadata={"help": "Number of beams for the captions of the final evaluation."})
    max_new_tokens: int = 30
    resume: bool = field(default=False, metadata={"help": "Resume an interrupted run."})


def main() -> None:
    """Train all unfinished phases, evaluate captions of held-out images and save the model."""
    phases = parse_phases(ModelArguments, DataArguments, PhaseArguments, CaptionerTrainingArguments)
    model_args, data_args, phase_args, training_args = phases[0]
    if any(phase[:2] != phases[0][:2] for phase in phases):
        raise SystemExit(
            "All phases must have the same model and data arguments. Move these arguments out of `phases`, to the top "
            "level of the YAML file."
        )
    progress = check_phases([phase[-1].output_dir for phase in phases], phase_args.resume)
    if phase_args.cache_vision_features and not model_args.freeze_vision:
        raise SystemExit("`--cache_vision_features` requires a frozen vision tower. Set `--freeze_vision True`.")

    set_seed(training_args.seed)
    model, processor = new_model(model_args)
    with training_args.main_process_first():  # other processes read the cache of the first one
        tables = load_tables(data_args)
        if phase_args.cache_vision_features:
            model.get_encoder("image").to(training_args.device)
            tables = cache_tables(model, processor, tables, phase_args.cache_vision_features)
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
    """Build a captioner of two pretrained models and a new Q-Former, and add new start and end tokens if given."""
    fields = asdict(arguments)
    vision, text = fields.pop("vision"), fields.pop("text")
    tokens = {"bos_token": fields.pop("start_token"), "eos_token": fields.pop("end_token")}
    processor = QFormerCaptionerProcessor.from_vision_text_pretrained(
        vision, text, **{name: token for name, token in tokens.items() if token is not None}
    )
    return QFormerCaptioner.from_vision_text_pretrained(vision, text, processor=processor, **fields), processor


def cache_tables(model: PreTrainedModel, processor: ProcessorMixin, tables: DatasetDict, dtype: str) -> DatasetDict:
    """Replace the images of all tables by cached features of the frozen vision tower."""
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
    """Run one phase, from its last checkpoint if one exists, and save its model."""
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
    trainer.save_metrics("train", result.metrics)  # written last, because it marks the phase as finished
    trainer.accelerator.wait_for_everyone()  # other processes load the model that the first one saved


def score(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    tables: DatasetDict,
    data_args: DataArguments,
    phase: PhaseArguments,
    folder: Path,
) -> None:
    """Evaluate captions of the held-out images and write the metrics to the model card."""
    table = evaluation_split(tables)
    captions = caption_table(
        model, processor, table, do_sample=False, num_beams=phase.num_beams, max_new_tokens=phase.max_new_tokens
    )
    metrics = caption_metrics(captions, table["captions"])
    print(f"\n{len(table):,} held-out images" + "".join(f"{name:>9}" for name in SCORES))
    print(f"{'':20}" + percent(metrics))
    freeze_lower_blocks(
        model, fraction=phase.freeze_fraction, freeze_token_embeddings=phase.freeze_token_embeddings
    )  # the model card counts trained parameters
    model.describe(data=Path(data_args.data).name if data_args.data else "synthetic scenes", metrics=metrics)
    model.save_pretrained(folder)
    (folder / "test_metrics.json").write_text(json.dumps(metrics, indent=2))
    print("\nfirst captions:", *captions[:5], f"\noutput folder: {folder}", sep="\n")


if __name__ == "__main__":
    main()
