"""Compare a training step of `DualEncoderModel` with transformers' `VisionTextDualEncoderModel`.

    python benchmarks/dual_encoder_step.py

Both models have the same towers, receive the same batch and train all parameters with the in-batch contrastive loss.
They take optimizer steps in turn; the median time per step and the ratio are printed.
"""

import statistics
import time
from dataclasses import dataclass, field

import torch
from transformers import (
    BertConfig,
    HfArgumentParser,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
)

from vlmkit import DualEncoderConfig, DualEncoderModel


@dataclass
class Arguments:
    """Sizes of the models and the number of measurements."""

    batch_size: int = 16
    steps: int = field(default=20, metadata={"help": "Number of timed optimizer steps per model."})
    hidden_size: int = field(default=192, metadata={"help": "Width of both towers, a multiple of the head size of 64."})
    num_layers: int = field(default=4, metadata={"help": "Number of layers of each tower."})


def step(model: torch.nn.Module, batch: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Return the seconds of one forward pass, backward pass and optimizer update."""
    start = time.perf_counter()
    model(**batch, return_loss=True).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start


def main() -> None:
    """Time alternating steps of both models and compare the medians."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    sizes = {
        "hidden_size": arguments.hidden_size,
        "num_hidden_layers": arguments.num_layers,
        "num_attention_heads": arguments.hidden_size // 64,
        "intermediate_size": 4 * arguments.hidden_size,
    }
    towers = {"vision_config": ViTConfig(**sizes), "text_config": BertConfig(**sizes)}
    ours = DualEncoderModel(
        DualEncoderConfig(
            **{name: type(config)(**config.to_dict()) for name, config in towers.items()},
            text_features="encoder",
            text_pooling="cls",
            projection="shared",
            freeze_vision=False,
            freeze_text=False,
            learn_temperature=True,
        )
    )
    theirs = VisionTextDualEncoderModel(VisionTextDualEncoderConfig(**towers))
    batch = {
        "pixel_values": torch.rand(arguments.batch_size, 3, 224, 224),
        "input_ids": torch.randint(1, 30000, (arguments.batch_size, 32)),
        "attention_mask": torch.ones(arguments.batch_size, 32, dtype=torch.long),
    }
    seconds: dict[str, list[float]] = {"vlmkit": [], "transformers": []}
    runs = {
        name: (model.train(), batch, torch.optim.AdamW(model.parameters(), lr=1e-5))
        for name, model in (("vlmkit", ours), ("transformers", theirs))
    }
    for number in range(arguments.steps + 2):
        for name, run in runs.items():
            duration = step(*run)
            if number >= 2:  # skip warm-up steps
                seconds[name].append(duration)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    for name, durations in seconds.items():
        print(f"{name:14}{1000 * statistics.median(durations):8.1f} ms per step of {arguments.batch_size} pairs")
    print(f"throughput ratio vlmkit / transformers: {statistics.median(ratios):.2f} (median over pairs of steps)")


if __name__ == "__main__":
    main()
