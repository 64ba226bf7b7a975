"""Train a dual encoder on images and captions.

The paper's recipe, with frozen features computed once:

    python examples/dual_encoder/train.py --vision timm/vit_small_patch16_224.augreg_in21k_ft_in1k \
        --text openai-community/gpt2 --data jxie/flickr8k --cache_features

On two GPUs (or two CPU processes, with --use_cpu): torchrun --nproc_per_node 2 examples/dual_encoder/train.py ...
A YAML file of the same names can come first: python examples/dual_encoder/train.py recipe.yaml --seed 1
On drawn scenes (no --data), these recalls count a scene's own captions only; evaluate.py judges by the scene graph.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from retrieval_data import DataArguments, DualEncoderTrainingArguments, cache_features, load_tables
from torchvision.transforms import v2
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from vlmkit import DualEncoderModel, DualEncoderProcessor
from vlmkit.data import CaptionPairs, ContrastiveCollator
from vlmkit.metrics import compute_retrieval_metrics
from vlmkit.training import EvalCollatorTrainer, parse_arguments


@dataclass
class ModelArguments:
    """Which backbones, and how they are joined; the defaults are the paper's."""

    vision: str = field(metadata={"help": "folder or hub id of an image model"})
    text: str = field(metadata={"help": "folder or hub id of a text model"})
    text_features: Literal["token_embeddings", "encoder"] = "token_embeddings"
    text_pooling: Literal["mean", "cls", "last"] = "mean"
    projection: Literal["vision_to_text", "shared"] = "vision_to_text"
    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    temperature: float = 0.07
    learn_temperature: bool = False
    freeze_vision: bool = True
    freeze_text: bool = True


@dataclass
class FeatureArguments:
    """What happens to images on the way to the model."""

    cache_features: bool = field(default=False, metadata={"help": "compute frozen features once, not in every epoch"})
    augment: bool = field(default=False, metadata={"help": "random crops and colours in training"})


def main() -> None:
    """Train, evaluate on the held-out split, save and (with --push_to_hub) publish."""
    model_args, data_args, feature_args, training_args = parse_arguments(
        ModelArguments, DataArguments, FeatureArguments, DualEncoderTrainingArguments
    )
    if feature_args.cache_features and feature_args.augment:
        raise SystemExit("--augment changes the images in every epoch, --cache_features encodes them once: drop one")
    if feature_args.cache_features and not (model_args.freeze_vision and model_args.freeze_text):
        raise SystemExit("--cache_features needs frozen towers: drop it, or leave both towers frozen")

    folder = Path(training_args.output_dir)
    checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
    if checkpoint and not training_args.resume_from_checkpoint:
        raise SystemExit(f"{folder} holds a run: --resume_from_checkpoint {checkpoint}, or another --output_dir")

    set_seed(training_args.seed)
    config = {name: value for name, value in vars(model_args).items() if name not in ("vision", "text")}
    processor = DualEncoderProcessor.from_vision_text_pretrained(model_args.vision, model_args.text)
    model = DualEncoderModel.from_vision_text_pretrained(
        model_args.vision, model_args.text, processor=processor, **config
    )
    with training_args.main_process_first():  # the others read what the first one computed
        tables = load_tables(data_args)
        if feature_args.cache_features:
            model.to(training_args.device)
            tables = {split: cache_features(model, processor, table) for split, table in tables.items()}
    augmentation = augmentation_for(processor) if feature_args.augment else None

    trainer = EvalCollatorTrainer(
        model,
        training_args,
        data_collator=ContrastiveCollator(processor, augmentation=augmentation),
        eval_data_collator=ContrastiveCollator(processor),
        train_dataset=CaptionPairs(tables["train"]),
        eval_dataset=CaptionPairs(tables.get("validation", tables["test"])),
        processing_class=processor,
        compute_metrics=compute_retrieval_metrics,
    )
    print(f"training in {training_args.world_size} processes")
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)

    metrics = trainer.evaluate(CaptionPairs(tables["test"]), metric_key_prefix="test")
    trainer.log_metrics("test", metrics)
    trainer.save_metrics("test", metrics)
    recalls = {name.removeprefix("test_"): value for name, value in metrics.items() if "recall@" in name}
    model.describe(data=f"{data_args.data or 'drawn scenes'}, protocol {data_args.protocol!r}", metrics=recalls)
    trainer.save_model()
    if training_args.push_to_hub and trainer.is_world_process_zero():
        model.push_to_hub(trainer.hub_model_id)  # our model card in place of Trainer's


def augmentation_for(processor: DualEncoderProcessor) -> v2.Compose:
    """Random crops and colours, at the side that the processor gives images; a flip would swap left and right."""
    image_processor = processor.image_processor
    size = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
    side = size.get("height") or size["shortest_edge"]
    return v2.Compose([v2.RandomResizedCrop(side, scale=(0.6, 1)), v2.ColorJitter(0.2, 0.2, 0.2)])


if __name__ == "__main__":
    main()
