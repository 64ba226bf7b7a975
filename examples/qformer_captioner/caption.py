"""Caption image files and folders of images.

    python examples/qformer_captioner/caption.py --model runs/qformer_captioner/phase_2 --images photos more/dog.jpg

The script writes captions.json, captions.csv and gallery.png. Images that cannot be read are reported and skipped.
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from caption_data import table_of_files
from transformers import AutoModel, AutoProcessor

import vlmkit  # noqa: F401 (registers the Auto classes)
from vlmkit.analysis.caption_plots import caption_gallery
from vlmkit.data import decodable_image_files, find_image_files, thumbnail
from vlmkit.inference import caption_table
from vlmkit.training import parse_arguments


@dataclass
class CaptionArguments:
    """Model, images, decoding and output folder."""

    model: str = field(metadata={"help": "Folder or hub id of a QFormerCaptioner."})
    images: list[str] = field(metadata={"help": "Image files and folders of images."})
    output_dir: str = field(
        default="runs/captions", metadata={"help": "Folder for captions.json, captions.csv and gallery.png."}
    )
    prompt: str = field(default="", metadata={"help": "Text with which every caption begins."})
    batch_size: int = 16
    num_beams: int = 3
    do_sample: bool = field(
        default=False, metadata={"help": "Sample with the settings of the model's generation_config."}
    )
    max_new_tokens: int = 30
    seed: int = 0
    gallery_size: int = field(default=24, metadata={"help": "Number of images in gallery.png."})


def main() -> None:
    """Load the images, generate captions and write the results."""
    [arguments] = parse_arguments(CaptionArguments)
    files, broken = decodable_image_files(find_image_files(arguments.images))
    for file, reason in broken.items():
        print(f"skipped {file}: {reason}")
    model = AutoModel.from_pretrained(arguments.model).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    torch.manual_seed(arguments.seed)
    captions = caption_table(
        model,
        processor,
        table_of_files(files),
        prompt=arguments.prompt,
        batch_size=arguments.batch_size,
        num_beams=1 if arguments.do_sample else arguments.num_beams,
        do_sample=arguments.do_sample,
        max_new_tokens=arguments.max_new_tokens,
    )

    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"image": str(file), "caption": caption} for file, caption in zip(files, captions, strict=True)]
    skipped = [{"image": str(file), "error": error} for file, error in broken.items()]
    results = {"captions": rows, "skipped": skipped}
    (folder / "captions.json").write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["image", "caption"])
        writer.writeheader()
        writer.writerows(rows)
    shown = files[: arguments.gallery_size]
    caption_gallery([thumbnail(file) for file in shown], captions[: len(shown)]).savefig(
        folder / "gallery.png", dpi=120
    )
    for row in rows:
        print(f"{row['image']}: {row['caption']}")
    print(f"\n{len(rows)} captioned, {len(skipped)} skipped: {folder}")


if __name__ == "__main__":
    main()
