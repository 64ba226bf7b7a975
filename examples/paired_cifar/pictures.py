"""Plots of an aligner: confusions, most confident errors, embeddings, attention and occlusion maps."""

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

PATCHES_PER_IMAGE = 4  # number of patches along each side of an image, as in the ViT of the report


def draw_confusion(confusion: Tensor, class_names: Sequence[str]) -> Figure:
    """Plot the confusion matrix of the 20 superclasses."""
    merged = merge_classes(confusion, class_names=class_names, superclasses=CIFAR100_SUPERCLASSES)
    return confusion_heatmap(merged.numpy(), [name.replace("_", " ") for name in CIFAR100_SUPERCLASSES])


def draw_errors(pairs: ImagePairs, predicted: Tensor, probabilities: Tensor, count: int) -> Figure | None:
    """Plot the errors with the highest predicted probability. Return `None` if there are no errors."""
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
    """Plot the caption bank in gray and, on top, the pairs of the six most frequent classes of the left image."""
    left = pairs.caption_ids // pairs.num_classes
    shown = torch.isin(left, left.bincount().topk(6).indices).nonzero().flatten()
    points = project_embeddings(torch.cat([model.caption_embeds, embeds[shown]]).float().cpu(), method=method)
    names = [f"left: {pairs.class_names[left[row]]}".replace("_", " ") for row in shown]
    captions = len(model.caption_embeds)
    return embedding_map(points[captions:], series=names, background=points[:captions])


def draw_occlusion(model: PairedCifarAligner, pairs: ImagePairs, batch: dict[str, Tensor]) -> Figure:
    """Plot how much the similarity to a pair's own caption decreases if a patch is covered."""
    pixel_values = batch["pixel_values"].to(model.device)
    own_caption = model.caption_embeds[batch["caption_ids"].to(model.device)]

    def similarity(pixel_values: Tensor) -> Tensor:
        return (model(pixel_values).image_embeds * own_caption).sum(dim=1)

    maps = occlusion_map(similarity, pixel_values, patch_size=pixel_values.shape[2] // PATCHES_PER_IMAGE)
    return overlay(pairs, maps)


@torch.no_grad()
def draw_attention(model: PairedCifarAligner, pairs: ImagePairs, batch: dict[str, Tensor]) -> Figure | None:
    """Plot the attention rollout of a ViT that encodes both images jointly. Return `None` for other encoders."""
    vision_config = model.config.vision_config
    if vision_config.model_type != "vit" or model.config.vision_input != "pair":
        return None
    attentions = model(batch["pixel_values"].to(model.device), output_attentions=True).attentions
    height, width = vision_config.image_size
    patch = vision_config.patch_size
    down, across = (patch, patch) if isinstance(patch, int) else patch
    return overlay(pairs, attention_rollout(attentions, (height // down, width // across)))


def overlay(pairs: ImagePairs, maps: Tensor) -> Figure:
    """Plot heat maps `(N, h, w)` over the images of the first N pairs."""
    rows = range(len(maps))
    titles = [class_pair(pairs, int(pairs.caption_ids[row])) for row in rows]
    return heat_overlay([pair_image(pairs, row) for row in rows], maps.cpu().numpy(), titles=titles)


def pair_image(pairs: ImagePairs, row: int) -> Image.Image:
    """Return both images of a pair, side by side."""
    left, right = pairs[row]["images"]
    return Image.fromarray(torch.cat([left, right], dim=-1).permute(1, 2, 0).numpy())


def class_pair(pairs: ImagePairs, caption_id: int) -> str:
    """Return the names of both classes of a caption."""
    names = pairs.class_names[caption_id // pairs.num_classes], pairs.class_names[caption_id % pairs.num_classes]
    return ", ".join(names).replace("_", " ")
