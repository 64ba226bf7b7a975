"""Pictures of an aligner: confusions, the surest errors, embeddings, and where it looks."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vlmkit import PairedCifarAligner, PredictedCaption
from vlmkit.analysis.attention import attention_rollout, occlusion_map
from vlmkit.analysis.embedding_map import project_embeddings
from vlmkit.analysis.pair_plots import confusion_heatmap, embedding_map, error_gallery, heat_overlay
from vlmkit.data import CIFAR100_CLASSES, CIFAR100_SUPERCLASSES, ImagePairs
from vlmkit.metrics import merge_classes

PATCHES_PER_IMAGE = 4  # along each side, as the report's ViT has them


def draw_confusion(confusion: Tensor, class_names: Sequence[str]) -> Figure:
    """Confusions of the 20 superclasses of CIFAR-100, or of the classes of other data."""
    if tuple(class_names) != CIFAR100_CLASSES:
        return confusion_heatmap(confusion.numpy(), class_names)
    merged = merge_classes(confusion, class_names, CIFAR100_SUPERCLASSES)
    return confusion_heatmap(merged.numpy(), [name.replace("_", " ") for name in CIFAR100_SUPERCLASSES])


def draw_errors(pairs: ImagePairs, predicted: Tensor, best: Sequence[PredictedCaption], count: int) -> Figure | None:
    """The errors that the model is surest of; `None` if it makes none."""
    wrong = (predicted != pairs.caption_ids).nonzero().flatten().tolist()
    surest = sorted(wrong, key=lambda row: -best[row].probability)[:count]
    if not surest:
        return None
    return error_gallery(
        [pair_image(pairs, row) for row in surest],
        [class_pair(pairs, row) for row in surest],
        [f"{best[row].left}, {best[row].right}" for row in surest],
        [best[row].probability for row in surest],
    )


def draw_embeddings(model: PairedCifarAligner, pairs: ImagePairs, embeds: Tensor, method: str) -> Figure:
    """The caption bank in grey, and upon it the pairs whose left image is of one of six classes."""
    left = pairs.caption_ids // pairs.num_classes
    shown = (left < 6).nonzero().flatten()
    points = project_embeddings(torch.cat([model.caption_embeds, embeds[shown]]).float().cpu(), method)
    names = [f"left: {pairs.class_names[left[row]]}".replace("_", " ") for row in shown]
    captions = len(model.caption_embeds)
    return embedding_map(points[captions:], names, background=points[:captions])


def draw_occlusion(model: PairedCifarAligner, pairs: ImagePairs, batch: dict[str, Tensor]) -> Figure:
    """By how much each patch, when covered, lowers the similarity to the pair's own caption."""
    pixel_values = batch["pixel_values"].to(model.device)
    own = model.caption_embeds[batch["caption_ids"].to(model.device)]

    def similarity(pixel_values: Tensor) -> Tensor:
        return (model(pixel_values).image_embeds * own).sum(dim=1)

    maps = occlusion_map(similarity, pixel_values, pixel_values.shape[2] // PATCHES_PER_IMAGE)
    return overlay(pairs, maps)


@torch.no_grad()
def draw_attention(model: PairedCifarAligner, pairs: ImagePairs, batch: dict[str, Tensor]) -> Figure | None:
    """What reaches the class token of a ViT that sees both images; `None` for other encoders."""
    vision_config = model.config.vision_config
    if vision_config.model_type != "vit" or model.config.vision_input != "pair":
        return None
    attentions = model(batch["pixel_values"].to(model.device), output_attentions=True).attentions
    height, width = vision_config.image_size
    grid = height // vision_config.patch_size, width // vision_config.patch_size
    return overlay(pairs, attention_rollout(attentions, grid))


def overlay(pairs: ImagePairs, maps: Tensor) -> Figure:
    """Heat maps `(N, h, w)` over the first N pairs."""
    rows = range(len(maps))
    return heat_overlay(
        [pair_image(pairs, row) for row in rows], maps.cpu().numpy(), [class_pair(pairs, row) for row in rows]
    )


def pair_image(pairs: ImagePairs, row: int) -> Image.Image:
    """Both images of a pair, side by side."""
    left, right = pairs[row]["images"]
    return Image.fromarray(torch.cat([left, right], dim=-1).permute(1, 2, 0).numpy())


def class_pair(pairs: ImagePairs, row: int) -> str:
    """Both classes of a pair."""
    return ", ".join(pairs.class_names[label] for label in pairs[row]["labels"]).replace("_", " ")
