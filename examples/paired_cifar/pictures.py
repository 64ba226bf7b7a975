"""Pictures of an aligner: confusions, the surest errors, embeddings, and where it looks."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vlmkit import PairedCifarAligner
from vlmkit.analysis.attention_maps import attention_rollout, occlusion_map
from vlmkit.analysis.pair_plots import confusion_heatmap, embedding_map, error_gallery, heat_overlay
from vlmkit.analysis.projection import project_embeddings
from vlmkit.data import CIFAR100_SUPERCLASSES, ImagePairs
from vlmkit.metrics import merge_classes

PATCHES_PER_IMAGE = 4  # along each side, as the report's ViT has them


def draw_confusion(confusion: Tensor, class_names: Sequence[str]) -> Figure:
    """Confusions of the 20 superclasses."""
    merged = merge_classes(confusion, class_names=class_names, superclasses=CIFAR100_SUPERCLASSES)
    return confusion_heatmap(merged.numpy(), [name.replace("_", " ") for name in CIFAR100_SUPERCLASSES])


def draw_errors(pairs: ImagePairs, predicted: Tensor, probabilities: Tensor, count: int) -> Figure | None:
    """The errors that the model is surest of; `None` if it makes none."""
    wrong = (predicted != pairs.caption_ids).nonzero().flatten()
    surest = wrong[probabilities[wrong].argsort(descending=True)][:count].tolist()
    if not surest:
        return None
    return error_gallery(
        [pair_image(pairs, row) for row in surest],
        true_captions=[class_pair(pairs, int(pairs.caption_ids[row])) for row in surest],
        predicted_captions=[class_pair(pairs, int(predicted[row])) for row in surest],
        probabilities=probabilities[surest].tolist(),
    )


def draw_embeddings(model: PairedCifarAligner, pairs: ImagePairs, embeds: Tensor, method: str) -> Figure:
    """The caption bank in grey, and upon it the pairs whose left image is of one of six classes."""
    left = pairs.caption_ids // pairs.num_classes
    shown = torch.isin(left, left.bincount().topk(6).indices).nonzero().flatten()
    points = project_embeddings(torch.cat([model.caption_embeds, embeds[shown]]).float().cpu(), method=method)
    names = [f"left: {pairs.class_names[left[row]]}".replace("_", " ") for row in shown]
    captions = len(model.caption_embeds)
    return embedding_map(points[captions:], series=names, background=points[:captions])


def draw_occlusion(model: PairedCifarAligner, pairs: ImagePairs, batch: dict[str, Tensor]) -> Figure:
    """By how much each patch, when covered, lowers the similarity to the pair's own caption."""
    pixel_values = batch["pixel_values"].to(model.device)
    own = model.caption_embeds[batch["caption_ids"].to(model.device)]

    def similarity(pixel_values: Tensor) -> Tensor:
        return (model(pixel_values).image_embeds * own).sum(dim=1)

    maps = occlusion_map(similarity, pixel_values, patch_size=pixel_values.shape[2] // PATCHES_PER_IMAGE)
    return overlay(pairs, maps)


@torch.no_grad()
def draw_attention(model: PairedCifarAligner, pairs: ImagePairs, batch: dict[str, Tensor]) -> Figure | None:
    """What reaches the class token of a ViT that sees both images; `None` for other encoders."""
    vision_config = model.config.vision_config
    if vision_config.model_type != "vit" or model.config.vision_input != "pair":
        return None
    attentions = model(batch["pixel_values"].to(model.device), output_attentions=True).attentions
    height, width = vision_config.image_size
    patch = vision_config.patch_size
    down, across = (patch, patch) if isinstance(patch, int) else patch
    return overlay(pairs, attention_rollout(attentions, (height // down, width // across)))


def overlay(pairs: ImagePairs, maps: Tensor) -> Figure:
    """Heat maps `(N, h, w)` over the first N pairs."""
    rows = range(len(maps))
    titles = [class_pair(pairs, int(pairs.caption_ids[row])) for row in rows]
    return heat_overlay([pair_image(pairs, row) for row in rows], maps.cpu().numpy(), titles=titles)


def pair_image(pairs: ImagePairs, row: int) -> Image.Image:
    """Both images of a pair, side by side."""
    left, right = pairs[row]["images"]
    return Image.fromarray(torch.cat([left, right], dim=-1).permute(1, 2, 0).numpy())


def class_pair(pairs: ImagePairs, caption_id: int) -> str:
    """Both classes of a caption."""
    names = pairs.class_names[caption_id // pairs.num_classes], pairs.class_names[caption_id % pairs.num_classes]
    return ", ".join(names).replace("_", " ")
