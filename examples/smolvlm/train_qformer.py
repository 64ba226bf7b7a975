"""Stage 1: train a Q-Former to match images with their captions.

    python examples/smolvlm/train_qformer.py examples/smolvlm/qformer_code.yaml --data coco

Flags override the YAML file. The vision tower is frozen. --learning_rate applies to the layers that the Q-Former
inherits from the text encoder, --new_learning_rate to new layers. --resume resumes an interrupted run from its last
complete epoch; the result is the same as without the interruption. Train on two GPUs:

    torchrun --nproc_per_node 2 examples/smolvlm/train_qformer.py ...
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from caption_sources import DataArguments, Tables, cached_tables, check_source, check_streaming, data_name, load_tables
from datasets import Dataset
from scores import CUTOFFS, score_retrieval
from torchvision.transforms import v2
from transformers import AutoModel, PreTrainedModel, ProcessorMixin, set_seed

from vlmkit import QFormerAligner, QFormerAlignerProcessor
from vlmkit.analysis.parameters import component_parameters, parameter_table
from vlmkit.analysis.plots import similarity_grid
from vlmkit.data import CaptionPairs, ContrastiveCollator, evaluation_split
from vlmkit.inference import TableEmbeddings, embed_table
from vlmkit.metrics import compute_retrieval_metrics
from vlmkit.training import (
    ContrastiveTrainingArguments,
    EvalCollatorTrainer,
    check_phases,
    optimizer_with_group_learning_rates,
    parse_arguments,
)

NEW_PARTS = {"query_tokens", "image_attention", "vision_projection", "matching_head", "captioning_head", "logit_scale"}


@dataclass
class ModelArguments:
    """Pretrained backbones, architecture and losses of the aligner."""

    vision: str = field(metadata={"help": "Folder or hub id of an image model."})
    text: str = field(metadata={"help": "Folder or hub id of a DistilBERT, BERT (MiniLM) or RoBERTa."})
    num_query_tokens: int = 32
    num_cross_attention_heads: int | None = field(
        default=None, metadata={"help": "Number of cross-attention heads. Defaults to the heads of the text encoder."}
    )
    cross_attention_frequency: int = field(
        default=2, metadata={"help": "Number of layers per cross-attention block: 2 adds one to every second layer."}
    )
    matching_loss_weight: float = 0.0
    captioning_loss_weight: float = 0.0
    temperature: float = 0.07
    learn_temperature: bool = False


@dataclass
class RunArguments:
    """Captions, caching, augmentation and resuming."""

    caption: Literal["first", "random"] = field(
        default="random", metadata={"help": "Caption used per image and epoch."}
    )
    cache_vision_features: Literal["float16", "float32", "no"] = field(
        default="no",
        metadata={"help": "Run the frozen vision tower once and cache its features on disk with this dtype."},
    )
    augmentation: bool = field(
        default=False, metadata={"help": "Randomly translate, enlarge and color-jitter training images."}
    )
    resume: bool = field(default=False, metadata={"help": "Resume an interrupted run."})


@dataclass
class AlignerTrainingArguments(ContrastiveTrainingArguments):
    """Training arguments with the recipe of the original as defaults.

    The learning rates are taken from the original's code. They give better results than the rates of its documentation.
    """

    output_dir: str = "runs/qformer"
    learning_rate: float = field(
        default=1e-5, metadata={"help": "Learning rate of layers inherited from the text encoder."}
    )
    new_learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of new layers."})
    lr_scheduler_type: str = "constant"
    weight_decay: float = 0.0  # AdamW without weight decay is the Adam of the original
    max_grad_norm: float = 0.0  # no clipping
    num_train_epochs: float = 10
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 64
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"  # resuming at epoch boundaries reproduces the same random captions
    save_total_limit: int | None = 1
    logging_steps: float = 50
    label_names: list[str] | None = field(default_factory=lambda: ["group_ids"])  # passed to compute_metrics
    # Every process reads separate shards of a stream.
    accelerator_config: dict | str | None = field(default_factory=lambda: {"dispatch_batches": False})


def main() -> None:
    """Train, evaluate on held-out images, save the model and push it to the Hub if `--push_to_hub` is set."""
    model_args, data_args, run_args, training_args = parse_arguments(
        ModelArguments, DataArguments, RunArguments, AlignerTrainingArguments
    )
    folder = Path(training_args.output_dir)
    [progress] = check_phases([folder], run_args.resume)
    check_source([data_args.dataset], data_args)
    check_streaming([data_args.dataset], training_args.max_steps, run_args.cache_vision_features)
    if run_args.cache_vision_features != "no" and run_args.augmentation:
        raise SystemExit(
            "`--augmentation` and `--cache_vision_features` cannot be combined: cached features are computed only once."
        )

    set_seed(training_args.seed)
    model, processor = new_model(model_args)
    with training_args.main_process_first():  # other processes read the cache of the first one
        image_tables = tables = load_tables(data_args.dataset, data_args)
        for name, table in tables.items():
            if name != "train" and len(table) < CUTOFFS[-1]:
                raise SystemExit(
                    f"The {name} split must contain at least {CUTOFFS[-1]} images for Recall@{CUTOFFS[-1]}, but got "
                    f"{len(table)}."
                )
        if run_args.cache_vision_features != "no":
            model.vision_tower.to(training_args.device)
            tables = cached_tables(model, processor, tables, run_args.cache_vision_features)
    if training_args.should_log:
        print("training is already finished" if progress.finished else parameter_table(component_parameters(model)))
    if not progress.finished:
        train(model, processor, tables, run_args, training_args, progress.checkpoint)
    if training_args.process_index == 0:
        model = AutoModel.from_pretrained(folder).to(training_args.device)
        embeds = embed_table(
            model, processor, evaluation_split(tables), batch_size=training_args.per_device_eval_batch_size
        )
        draw_similarity(embeds, evaluation_split(image_tables), folder / "similarity.png")
        metrics = score_retrieval(embeds)
        model.describe(data=data_name(data_args.dataset, data_args.data), metrics=metrics)
        model.save_pretrained(folder)
        (folder / "test_metrics.json").write_text(json.dumps(metrics, indent=2))
        print(f"\noutput folder: {folder}")
        if training_args.push_to_hub:
            model.push_to_hub(training_args.hub_model_id or folder.name)


def new_model(arguments: ModelArguments) -> tuple[QFormerAligner, QFormerAlignerProcessor]:
    """Build an aligner of a pretrained image model and a Q-Former initialized from a text encoder."""
    fields = asdict(arguments)
    vision, text = fields.pop("vision"), fields.pop("text")
    processor = QFormerAlignerProcessor.from_vision_text_pretrained(vision, text)
    return QFormerAligner.from_vision_text_pretrained(vision, text, processor=processor, **fields), processor


def train(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    tables: Tables,
    run_args: RunArguments,
    training_args: AlignerTrainingArguments,
    checkpoint: str | None,
) -> None:
    """Train, from the last checkpoint if one exists, and save the model."""
    trainer = EvalCollatorTrainer(
        model,
        training_args,
        data_collator=ContrastiveCollator(processor, run_args.caption, image_changes(run_args.augmentation)),
        eval_data_collator=ContrastiveCollator(processor),
        train_dataset=tables["train"],
        eval_dataset=CaptionPairs(tables["validation"] if "validation" in tables else tables["test"]),
        processing_class=processor,
        compute_metrics=compute_retrieval_metrics,
        optimizer_cls_and_kwargs=optimizer_with_group_learning_rates(
            training_args, model, parameter_groups=new_parameter_groups(model, training_args.new_learning_rate)
        ),
    )
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)  # written last, because it marks the training as finished
    trainer.accelerator.wait_for_everyone()  # other processes load the model that the first one saved


def new_parameter_groups(model: PreTrainedModel, rate: float) -> dict[str, float]:
    """Return the learning rates of new modules, by module name."""
    rates = {}
    for name, _ in model.named_parameters():
        words = name.split(".")
        rates.update({".".join(words[: index + 1]): rate for index, word in enumerate(words) if word in NEW_PARTS})
    return rates


def image_changes(augmentation: bool) -> v2.Transform | None:
    """Return random augmentations without flips, because captions mention left and right."""
    if not augmentation:
        return None
    bilinear = v2.InterpolationMode.BILINEAR
    affine = v2.RandomAffine(degrees=0, translate=(0.1, 0.1), scale=(1.0, 1.4), interpolation=bilinear)
    return v2.Compose([affine, v2.ColorJitter(0.2, 0.2, 0.2)])


def draw_similarity(embeds: TableEmbeddings, table: Dataset, path: Path, count: int = 8) -> None:
    """Plot the similarities of the first `count` images of a table and their first captions."""
    few = table.select(range(min(count, len(table))))
    first_captions = [(embeds.text_groups == row).nonzero()[0].item() for row in range(len(few))]
    similarity = embeds.image_embeds[: len(few)] @ embeds.text_embeds[first_captions].T
    captions = [captions[0] for captions in few["captions"]]
    similarity_grid(few["image"][:], captions, similarity=similarity.numpy()).savefig(path, dpi=120)


if __name__ == "__main__":
    main()
