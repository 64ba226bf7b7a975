"""Caption image files and folders with a SmolVLM, or answer a question about each image.

    python examples/smolvlm/generate.py --model runs/smolvlm/merged --images photos more/dog.jpg
    python examples/smolvlm/generate.py --model runs/smolvlm/merged --images photos --prompt "Is there a dog?"

The script writes captions.csv and collage.png. Images that cannot be read are reported and skipped.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor

import vlmkit  # noqa: F401 (registers the Auto classes)
from vlmkit.analysis.caption_plots import caption_gallery
from vlmkit.data import CAPTION_PROMPTS, decodable_image_files, find_image_files, thumbnail, user_message
from vlmkit.inference import reply_to_chats
from vlmkit.training import parse_arguments


@dataclass
class GenerationArguments:
    """Model, images, prompt, decoding and output folder."""

    model: str = field(metadata={"help": "Folder or hub id of a SmolVLM."})
    images: list[str] = field(metadata={"help": "Image files and folders of images."})
    prompt: str = field(default=CAPTION_PROMPTS[0], metadata={"help": "Prompt for every image."})
    output_dir: str = field(
        default="runs/smolvlm_captions", metadata={"help": "Folder for captions.csv and collage.png."}
    )
    batch_size: int = 16
    num_beams: int = 1
    do_sample: bool = field(
        default=False, metadata={"help": "Sample with the settings of the model's generation_config."}
    )
    max_new_tokens: int = 40
    seed: int = 0
    collage_size: int = field(default=24, metadata={"help": "Number of images in collage.png."})


def main() -> None:
    """Load the images, generate replies and write the results."""
    [arguments] = parse_arguments(GenerationArguments)
    files, broken = decodable_image_files(find_image_files(arguments.images))
    for file, reason in broken.items():
        print(f"skipped {file}: {reason}")
    model = AutoModel.from_pretrained(arguments.model).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    processor = AutoProcessor.from_pretrained(arguments.model)
    torch.manual_seed(arguments.seed)
    captions = reply_to_chats(
        model,
        processor,
        [{"messages": [user_message(arguments.prompt, image=str(file))]} for file in files],
        batch_size=arguments.batch_size,
        num_beams=1 if arguments.do_sample else arguments.num_beams,
        do_sample=arguments.do_sample,
        max_new_tokens=arguments.max_new_tokens,
    )

    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "caption"])
        writer.writerows(zip(files, captions, strict=True))
    shown = [thumbnail(file) for file in files[: arguments.collage_size]]
    caption_gallery(shown, captions[: len(shown)]).savefig(folder / "collage.png", dpi=120)
    for file, caption in zip(files, captions, strict=True):
        print(f"{file}: {caption}")
    print(f"\n{len(files)} captioned, {len(broken)} skipped: {folder}")


if __name__ == "__main__":
    main()
