"""Analyze a captioner: attention heat maps per word, token similarities and parameter counts.

    python examples/qformer_captioner/analyze.py --model runs/qformer_captioner/phase_2 --images photos

The script writes NAME_words.png, NAME_words.npz (the heat maps as arrays) and NAME_similarity.png for each image, and
parameters.md for the model.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

import vlmkit  # noqa: F401 (registers the Auto classes)
from vlmkit.analysis.caption_plots import similarity_figure, word_heatmap_figure
from vlmkit.analysis.parameters import component_parameters, parameter_table
from vlmkit.analysis.token_similarity import discriminative_power, token_similarity
from vlmkit.analysis.word_heatmaps import WordMap, join_words, word_heatmaps
from vlmkit.data import decodable_image_files, find_image_files
from vlmkit.images import denormalized_image, rgb_images
from vlmkit.training import freeze_lower_blocks, parse_arguments


@dataclass
class AnalysisArguments:
    """Model, images and output folder."""

    model: str = field(metadata={"help": "Folder or hub id of a QFormerCaptioner."})
    images: list[str] = field(metadata={"help": "Image files and folders of images."})
    output_dir: str = field(default="runs/captioner_analysis", metadata={"help": "Folder for plots and tables."})
    head: int | None = field(
        default=None, metadata={"help": "Head of the text-to-query attention. Defaults to the mean over all heads."}
    )
    query_head: int | None = field(
        default=None, metadata={"help": "Head of the query-to-patch attention. Defaults to the mean over all heads."}
    )
    layer: int = field(default=-1, metadata={"help": "Index of the Q-Former layer."})
    num_beams: int = 3
    max_new_tokens: int = 30
    freeze_fractions: list[float] = field(
        default_factory=lambda: [0.4, 0.5, 0.7],
        metadata={"help": "Fractions of frozen blocks for which parameters.md lists trained parameters."},
    )


def main() -> None:
    """Caption each image and plot the attention of each word and the token similarities."""
    [arguments] = parse_arguments(AnalysisArguments)
    files, broken = decodable_image_files(find_image_files(arguments.images))
    for file, reason in broken.items():
        print(f"skipped {file}: {reason}")
    # Only eager attention returns the attention weights of the language model.
    model = AutoModel.from_pretrained(arguments.model, attn_implementation={"text_config": "eager"})
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)

    global_tokens = []
    for number, file in enumerate(files):
        outputs, words, image, grid = analyze_image(model, processor, rgb_images(file), arguments)
        similarity = token_similarity(outputs.query_embeds, outputs.image_hidden_states)
        global_tokens.append(outputs.query_embeds[0, 0])
        name = f"{number:03}_{file.stem}"
        if words:
            word_heatmap_figure(image, words).savefig(folder / f"{name}_words.png", dpi=120)
            names, maps = zip(*words, strict=True)
            np.savez(folder / f"{name}_words.npz", words=names, maps=maps)
        image_similarities = [cosines[0].cpu()[-math.prod(grid) :] for cosines in similarity[1:]]
        similarity_figure(image, similarity.global_to_query[0].cpu(), *image_similarities, grid=grid).savefig(
            folder / f"{name}_similarity.png", dpi=120
        )
        print(f"{file}: {' '.join(word for word, _ in words) or 'no caption'}")
    if len(files) > 1:
        print(f"\ndiscriminative power of the global token: {discriminative_power(torch.stack(global_tokens)):.3f}")
    (folder / "parameters.md").write_text(parameter_report(model, arguments.freeze_fractions))
    print(f"output folder: {folder}")


@torch.no_grad()
def analyze_image(
    model: PreTrainedModel, processor: ProcessorMixin, image: Image.Image, arguments: AnalysisArguments
) -> tuple[dict, list[WordMap], Image.Image, tuple[int, int]]:
    """Caption an image and compute the attention map of each word.

    Returns:
        Model outputs for the generated caption, words and their maps, the preprocessed image, and the patch grid as
        `(rows, columns)`.
    """
    inputs = processor(images=image, text="", return_tensors="pt").to(model.device)
    caption = model.generate(
        **inputs, do_sample=False, num_beams=arguments.num_beams, max_new_tokens=arguments.max_new_tokens
    )
    outputs = model(input_ids=caption, pixel_values=inputs["pixel_values"], output_attentions=True)
    grid = patch_grid(outputs.image_hidden_states.shape[1], len(model.config.vision_layers or [-1]))
    maps = word_heatmaps(
        outputs.cross_attentions,
        query_attentions=outputs.query_attentions,
        grid=grid,
        layer=arguments.layer,
        head=arguments.head,
        query_head=arguments.query_head,
    ).cpu()
    start = inputs["input_ids"].shape[1]
    words = join_words(processor.tokenizer, caption[0, start:], maps=maps[0, start - 1 : -1])
    return outputs, words, denormalized_image(inputs["pixel_values"][0], processor.image_processor), grid


def patch_grid(num_tokens: int, num_layers: int) -> tuple[int, int]:
    """Return the rows and columns of the patch grid of a square image."""
    side = math.isqrt(num_tokens // num_layers)
    if side * side * num_layers != num_tokens:
        raise SystemExit(
            f"The number of patches must be a square number, but got {num_tokens} vision tokens of {num_layers} "
            "layers. Use a vision tower with square images and without prefix tokens."
        )
    return side, side


def parameter_report(model: PreTrainedModel, fractions: list[float]) -> str:
    """Return Markdown tables of trained parameters by component, one per fraction of frozen blocks."""
    sections, blocks = [], model.config.text_config.num_hidden_layers
    for fraction in fractions:
        frozen = freeze_lower_blocks(model, fraction=fraction)
        heading = f"## {fraction:.0%} of the blocks frozen ({frozen} of {blocks})"
        sections.append(f"{heading}\n\n{parameter_table(component_parameters(model))}")
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    main()
