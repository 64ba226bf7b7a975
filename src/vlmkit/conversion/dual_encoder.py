"""The checkpoints of "Which side should we scale?"."""

import os
from pathlib import Path

from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from vlmkit.conversion.files import check_destination, check_weight_names, is_state_dict, read_torch_file
from vlmkit.models.dual_encoder import DualEncoderModel, DualEncoderProcessor

_PREFIX = "projection."
_WANTED = "a checkpoints/{vision}_to_{language}.pt"
_CARD_DATA = (
    "Converted from `{file}` of the original code, which does not record it; its training script uses the first "
    "captions of 1,800 Flickr8k photographs."
)


def convert_dual_encoder(
    projection_file: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    vision: str | os.PathLike,
    text: str | os.PathLike,
) -> DualEncoderModel:
    """Join a trained projection with its two backbones, and save model and processor as one folder.

    Texts are cut at 77 tokens, and padded with GPT-2's end-of-text token. Images are prepared as the original did:
    shorter side to 256 pixels (bilinear), centre crop of 224, mean and standard deviation of ImageNet. timm's own
    preprocessing of these backbones (bicubic, crop of 90 %, 0.5) is another, but the projection was trained on features
    of the former. Pixels agree within one level of 255, except that every other odd margin is cropped one pixel off:
    torchvision rounds its half to even, transformers down.

    Args:
        projection_file: `checkpoints/{vision}_to_{language}.pt`, which holds `projection.weight (D_text, D_vision)` and
            `projection.bias (D_text,)`. Read without unpickling anything but tensors.
        destination: folder to write; new or empty.
        vision: folder or hub id of the image backbone, such as `"timm/vit_small_patch16_224.augreg_in21k_ft_in1k"`.
        text: folder or hub id of the text backbone, such as `"openai-community/gpt2"`.

    Returns:
        The model as it was saved, in evaluation mode, with both backbones frozen.

    Raises:
        FileNotFoundError: there is no such file.
        FileExistsError: the destination is a file, or a folder that holds something.
        OSError: a backbone cannot be found.
        ValueError: the file is truncated, damaged, or no such checkpoint; or its sizes are not those of the backbones.

    References:
        "Which side should we scale?" (see `docs/papers.md`).

    Example:
        >>> model = convert_dual_encoder(
        ...     "checkpoints/vit_small_to_gpt2.pt",
        ...     "vit-small-gpt2",
        ...     vision="timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
        ...     text="openai-community/gpt2",
        ... )  # doctest: +SKIP
    """
    destination = check_destination(destination)
    projection = _read_projection(Path(projection_file))
    model = DualEncoderModel.from_vision_text_pretrained(vision, text)
    _load_projection(model.vision_projection, projection, f"{vision} and {text}")
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": 256},
        resample=PILImageResampling.BILINEAR,
        crop_size={"height": 224, "width": 224},
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )
    processor = DualEncoderProcessor(image_processor, AutoTokenizer.from_pretrained(text))
    model.describe(data=_CARD_DATA.format(file=Path(projection_file).name))
    model.save_pretrained(destination)
    processor.save_pretrained(destination)
    return model


def _read_projection(file: Path) -> dict[str, Tensor]:
    """`weight` and `bias` of the projection."""
    state = read_torch_file(file, _WANTED)
    expected = {f"{_PREFIX}weight", f"{_PREFIX}bias"}
    if not is_state_dict(state):
        raise ValueError(f"{file} holds no dictionary of tensors; give one with {sorted(expected)}")
    check_weight_names(
        file,
        kind="checkpoint of a projection",
        missing=expected - state.keys(),
        unexpected=state.keys() - expected,
        advice=_WANTED,
    )
    return {name.removeprefix(_PREFIX): value for name, value in state.items()}


def _load_projection(layer: nn.Linear, state: dict[str, Tensor], backbones: str) -> None:
    """Copy the weights, after a check of their sizes."""
    for name, parameter in layer.named_parameters():
        if state[name].shape != parameter.shape:
            raise ValueError(
                f"{_PREFIX}{name} is {tuple(state[name].shape)}, but {backbones} need {tuple(parameter.shape)} "
                "(text width first); give the backbones that the file was trained with, which its name tells"
            )
    layer.load_state_dict(state)
