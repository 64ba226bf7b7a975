"""Train a dual encoder on images and captions.

Train with the hyperparameters of the paper on cached features of the frozen towers:

    python examples/dual_encoder/train.py --vision timm/vit_small_patch16_224.augreg_in21k_ft_in1k \
        --text openai-community/gpt2 --data jxie/flickr8k --cache_features

Train on two GPUs, or on two CPU processes with --use_cpu:

    torchrun --nproc_per_node 2 examples/dual_encoder/train.py ...

Read arguments from a YAML file and override some of them:

    python examples/dual_encoder/train.py recipe.yaml --seed 1

Without --data, the model is trained on synthetic scenes. The recalls of this script then count only the captions of the
same scene as correct; evaluate.py counts every caption that is true according to the scene graph.
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
    """Backbones, projection and loss, with the choices of the paper as defaults."""

    vision: str = field(metadata={"help": "Folder or hub id of an image model."})
    text: str = field(metadata={"help": "Folder or hub id of a text model."})
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
    """Feature caching and augmentation."""

    cache_features: bool = field(
        default=False, metadata={"help": "Compute the features of the frozen towers once instead of in every epoch."}
    )
    augment: bool = field(default=False, metadata={"help": "Apply random crops and color jitter to training images."})


def main() -> None:
    """Train, evaluate on the test split, save the model and push it to the Hub if `--push_to_hub` is set."""
    model_args, data_args, feature_args, training_args = parse_arguments(
        ModelArguments, DataArguments, FeatureArguments, DualEncoderTrainingArguments
    )
    check_feature_arguments(feature_args, model_args)

    folder = Path(training_args.output_dir)
    checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
    if checkpoint and not training_args.resume_from_checkpoint:
        raise SystemExit(
            f"The output folder {folder} already contains a run. Pass `--resume_from_checkpoint {checkpoint}` to "
            "resume it, or choose another `--output_dir`."
        )

    set_seed(training_args.seed)
    config = {name: value for name, value in vars(model_args).items() if name not in ("vision", "text")}
    processor = DualEncoderProcessor.from_vision_text_pretrained(model_args.vision, model_args.text)
    model = DualEncoderModel.from_vision_text_pretrained(
        model_args.vision, model_args.text, processor=processor, **config
    )
    with training_args.main_process_first():  # other processes read the cache of the first one
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
    model.describe(data=f"{data_args.data or 'synthetic scenes'}, protocol {data_args.protocol!r}", metrics=recalls)
    trainer.save_model()
    if training_args.push_to_hub and trainer.is_world_process_zero():
        model.push_to_hub(trainer.hub_model_id)  # replaces the model card of Trainer


def check_feature_arguments(feature_args: FeatureArguments, model_args: ModelArguments) -> None:
    """Check that cached features are not combined with augmentation or trained towers.

    Raises:
        SystemExit: If the flags are incompatible.
    """
    if feature_args.cache_features and feature_args.augment:
        raise SystemExit(
            "`--augment` and `--cache_features` cannot be combined: cached features are computed only once."
        )
    if feature_args.cache_features and not (model_args.freeze_vision and model_args.freeze_text):
        raise SystemExit("`--cache_features` requires frozen towers. Set `--freeze_vision True --freeze_text True`.")


def augmentation_for(processor: DualEncoderProcessor) -> v2.Compose:
    """Return random crops and color jitter for training images.

    The crops are resized to the input size of the processor. Images are not flipped, because captions mention left and
    right.
    """
    image_processor = processor.image_processor
    size = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
    side = size.get("height") or size["shortest_edge"]
    return v2.Compose([v2.RandomResizedCrop(side, scale=(0.6, 1)), v2.ColorJitter(0.2, 0.2, 0.2)])


if __name__ == "__main__":
    main()
