"""Converter for checkpoints of "Which side should we scale?"."""

import os
from pathlib import Path

from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from vlmkit.conversion.files import check_destination, check_weight_names, is_state_dict, read_torch_file
from vlmkit.models.dual_encoder import DualEncoderModel, DualEncoderProcessor

_PREFIX = "projection."
_EXPECTED = "a file checkpoints/{vision}_to_{language}.pt of the original code"
_CARD_DATA = (
    "Converted from `{file}` of the original code, which does not record its training data. The original training "
    "script uses the first captions of 1,800 Flickr8k photographs."
)


def convert_dual_encoder(
    projection_file: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    vision: str | os.PathLike,
    text: str | os.PathLike,
) -> DualEncoderModel:
    """Convert a trained projection, together with its two backbones, and save the model and its processor.

    The processor prepares inputs as the original code does:

    - Texts are truncated to 77 tokens, and padded with the end-of-text token of GPT-2.
    - The shorter side of an image is resized to 256 pixels (bilinear). A center crop of 224 pixels is normalized with
      the mean and standard deviation of ImageNet. The preprocessing that timm defines for these backbones differs
      (bicubic, crop of 90%, mean and standard deviation 0.5), but the projection was not trained with it.

    Pixel values differ from the original by at most one of 255 levels. The crop is shifted by one pixel for every other
    odd margin, because torchvision rounds half of the margin to the nearest even integer, and transformers rounds it
    down.

    Args:
        projection_file: Path of `checkpoints/{vision}_to_{language}.pt`, with `projection.weight (D_text, D_vision)`
            and `projection.bias (D_text,)`. Only tensors are unpickled.
        destination: Output folder, which must be new or empty.
        vision: Folder or Hub id of the image backbone, such as `"timm/vit_small_patch16_224.augreg_in21k_ft_in1k"`.
        text: Folder or Hub id of the text backbone, such as `"openai-community/gpt2"`.

    Returns:
        The saved model, in evaluation mode and with both backbones frozen.

    Raises:
        FileNotFoundError: If the projection file does not exist.
        FileExistsError: If `destination` is a file or a folder that is not empty.
        OSError: If a backbone cannot be found.
        ValueError: If the projection file is truncated, damaged or another kind of checkpoint, or its sizes do not
            match the backbones.

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
    """Load the weight and the bias of the projection."""
    state = read_torch_file(file, _EXPECTED)
    names = {f"{_PREFIX}weight", f"{_PREFIX}bias"}
    if not is_state_dict(state):
        raise ValueError(f"{file} must contain a dictionary of tensors with the names {sorted(names)}.")
    check_weight_names(
        file,
        kind="a projection",
        missing=names - state.keys(),
        unexpected=state.keys() - names,
        expected=_EXPECTED,
    )
    return {name.removeprefix(_PREFIX): value for name, value in state.items()}


def _load_projection(layer: nn.Linear, state: dict[str, Tensor], backbones: str) -> None:
    """Load the weights into a layer, and check their shapes."""
    for name, parameter in layer.named_parameters():
        if state[name].shape != parameter.shape:
            raise ValueError(
                f"{_PREFIX}{name} must have the shape {tuple(parameter.shape)} for {backbones}, but got "
                f"{tuple(state[name].shape)}. Pass the backbones that the projection was trained with. The name of "
                "the projection file contains them."
            )
    layer.load_state_dict(state)
