"""Compare the training speed of `QFormerCaptioner` with transformers' BLIP-2, and look for memory leaks.

    python benchmarks/caption_training_memory.py

Speed: two small models with components of equal size and a frozen vision encoder take optimizer steps in turn.
`QFormerCaptioner` is also timed on precomputed vision features. Medians and ratios are printed.

Memory: live tensors are counted before and after 50 forward passes that return attention maps. They are counted once
for the plain forward pass, and once while the attention map of every pass is kept, as the original implementation does.
"""

import gc
import statistics
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPVisionConfig,
    GPTNeoConfig,
    HfArgumentParser,
    set_seed,
)

from vlmkit import QFormerCaptioner, QFormerCaptionerConfig

_START, _END, _PAD = 0, 1, 2


@dataclass
class Arguments:
    """Sizes of the models and the number of measurements."""

    batch_size: int = 8
    num_tokens: int = field(default=20, metadata={"help": "Number of caption tokens after the start token."})
    steps: int = field(default=20, metadata={"help": "Number of timed optimizer steps per model."})
    passes: int = field(default=50, metadata={"help": "Number of forward passes of the memory measurement."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the layers, a multiple of the head size of 64."})
    num_layers: int = field(default=4, metadata={"help": "Number of layers of each backbone."})
    num_queries: int = field(default=64, metadata={"help": "Number of learned queries."})


def build_models(arguments: Arguments) -> tuple[QFormerCaptioner, Blip2ForConditionalGeneration]:
    """Build a `QFormerCaptioner` and a BLIP-2 whose Q-Former has a similar number of parameters."""
    sizes = {"hidden_size": arguments.hidden_size, "num_attention_heads": arguments.hidden_size // 64}
    layers = {"num_hidden_layers": arguments.num_layers, "intermediate_size": 4 * arguments.hidden_size}
    text = {
        "hidden_size": arguments.hidden_size,
        "num_heads": arguments.hidden_size // 64,
        "num_layers": arguments.num_layers,
        "attention_types": [[["global"], arguments.num_layers]],
        "vocab_size": 10_000,
        "bos_token_id": _START,
        "eos_token_id": _END,
        "pad_token_id": _PAD,
    }
    ours = QFormerCaptioner(
        QFormerCaptionerConfig(
            vision_config=CLIPVisionConfig(**sizes, **layers),
            text_config=GPTNeoConfig(**text),
            num_query_tokens=arguments.num_queries,
            num_attention_heads=sizes["num_attention_heads"],
        )
    )
    theirs = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config={**sizes, **layers, "patch_size": 32, "initializer_range": 0.02},
            qformer_config={**sizes, "num_hidden_layers": 4, "intermediate_size": layers["intermediate_size"]},
            text_config=GPTNeoConfig(**text),
            num_query_tokens=arguments.num_queries,
            image_token_index=_PAD,
        )
    )
    theirs.vision_model.requires_grad_(False)
    return ours.train(), theirs.train()


def build_batches(model: QFormerCaptioner, arguments: Arguments) -> dict[str, dict[str, Tensor]]:
    """Build the same batch for each model. BLIP-2 expects one placeholder token per query before the caption."""
    images = torch.rand(arguments.batch_size, 3, 224, 224)
    captions = torch.randint(
        _PAD + 1, model.config.text_config.vocab_size, (arguments.batch_size, 1 + arguments.num_tokens)
    )
    captions[:, 0], captions[:, -1] = _START, _END
    placeholders = torch.full((arguments.batch_size, arguments.num_queries), _PAD)
    texts = {"input_ids": captions, "labels": captions}
    with torch.no_grad():
        vision_features = model.get_encoder("image")(images).last_hidden_state
    return {
        "vlmkit": {"pixel_values": images, **texts},
        "vlmkit, vision features": {"vision_features": vision_features, **texts},
        "BLIP-2": {
            "pixel_values": images,
            "input_ids": torch.cat([placeholders, captions], dim=1),
            "labels": torch.cat([torch.full_like(placeholders, -100), captions], dim=1),
        },
    }


def step(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Return the seconds of one forward pass, backward pass and optimizer update."""
    start = time.perf_counter()
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start


def live_tensors() -> int:
    """Count the tensors that are still referenced in this process."""
    gc.collect()
    return sum(issubclass(type(item), Tensor) for item in gc.get_objects())


def count_leaked_tensors(model: QFormerCaptioner, batch: dict[str, Tensor], passes: int, keep: bool) -> int:
    """Count the tensors that `passes` forward passes leave alive. With `keep`, this includes their attention maps."""
    model(**batch, output_attentions=True)  # the first pass may create buffers that persist
    before = live_tensors()
    kept = []
    for _ in range(passes):
        outputs = model(**batch, output_attentions=True)
        if keep:
            kept.append(outputs.cross_attentions.detach())
    del outputs
    return live_tensors() - before


def main() -> None:
    """Time alternating optimizer steps, then count leaked tensors."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    set_seed(0)
    ours, theirs = build_models(arguments)
    batches = build_batches(ours, arguments)
    optimizers = {
        model: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
        for model in (ours, theirs)
    }
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    for number in range(arguments.steps + 2):
        for name, batch in batches.items():
            model = theirs if name == "BLIP-2" else ours
            duration = step(model, batch, optimizers[model])
            if number >= 2:  # skip warm-up steps
                seconds[name].append(duration)

    print(f"vlmkit {ours.num_parameters() / 1e6:.1f}M parameters, BLIP-2 {theirs.num_parameters() / 1e6:.1f}M")
    for name, durations in seconds.items():
        print(f"{name:24}{arguments.batch_size / statistics.median(durations):8.1f} samples per second")
    for name in ("vlmkit", "vlmkit, vision features"):
        ratio = statistics.median(b / a for a, b in zip(seconds[name], seconds["BLIP-2"], strict=True))
        print(f"speed ratio {name} / BLIP-2: {ratio:.2f} (median over pairs of steps)")
    for label, keep in (("without keeping outputs", False), ("keeping attention maps, as the original does", True)):
        count = count_leaked_tensors(ours, batches["vlmkit"], arguments.passes, keep)
        print(f"{arguments.passes} forward passes {label}: {count:+d} live tensors")


if __name__ == "__main__":
    main()
