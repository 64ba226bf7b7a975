"""Count loaded, computed and trained parameters of the paper's twelve combinations, in millions.

    python examples/dual_encoder/parameters.py

Nothing is downloaded. The models are built from their configurations on the meta device, which allocates no memory.
"""

import torch
from transformers import GPT2Config, TimmWrapperConfig

from vlmkit import DualEncoderConfig, DualEncoderModel
from vlmkit.analysis.parameters import dual_encoder_parameters

VISION = ("vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224")
TEXT = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
}


def main() -> None:
    """Print a Markdown table."""
    print("| vision | text | loaded | computed | trained |\n|---|---|---|---|---|")
    for vision in VISION:
        for text, sizes in TEXT.items():
            config = DualEncoderConfig(
                vision_config=TimmWrapperConfig(architecture=vision), text_config=GPT2Config(**sizes)
            )
            with torch.device("meta"):
                report = dual_encoder_parameters(DualEncoderModel(config))
            counts = " | ".join(f"{n / 1e6:.2f}" for n in (report.loaded, report.computed, report.trained))
            print(f"| {vision} | {text} | {counts} |")


if __name__ == "__main__":
    main()
