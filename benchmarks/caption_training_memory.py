"""Training of `QFormerCaptioner`: its speed beside transformers' BLIP-2, and what forward passes leave in memory.

    python benchmarks/caption_training_memory.py

Small models of equal parts with a frozen vision encoder: steps of the two alternate, ours also on vision features
computed beforehand; medians and ratios are printed. Then the tensors that are alive after one forward pass with
attention maps and after 50 more are counted, once as training calls the model and once keeping a map of each pass, as
the original does.
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
    """Size of the run."""

    batch_size: int = 8
    num_tokens: int = 20
    steps: int = 20
    passes: int = 50
    hidden_size: int = field(default=256, metadata={"help": "a multiple of 64, the width of a head"})
    num_layers: int = 4
    num_queries: int = 64


def build_models(arguments: Arguments) -> tuple[QFormerCaptioner, Blip2ForConditionalGeneration]:
    """Ours and BLIP-2, whose Q-Former has about as many parameters as our two layers and attention to the queries."""
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
    """The same captions and images for each side; BLIP-2 wants a placeholder before the caption for each query."""
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
    """Seconds of one forward pass, backward pass and update."""
    start = time.perf_counter()
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start


def live_tensors() -> int:
    """Tensors that anything in this process still refers to."""
    gc.collect()
    return sum(issubclass(type(item), Tensor) for item in gc.get_objects())


def left_behind(model: QFormerCaptioner, batch: dict[str, Tensor], passes: int, keep: bool) -> int:
    """Additional tensors alive after some forward passes, the attention maps among them if they are kept."""
    model(**batch, output_attentions=True)  # the first may build what lasts
    before = live_tensors()
    kept = []
    for _ in range(passes):
        outputs = model(**batch, output_attentions=True)
        if keep:
            kept.append(outputs.cross_attentions.detach())
    del outputs  # of the last pass
    return live_tensors() - before


def main() -> None:
    """Alternate steps, compare their medians, and count tensors."""
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
            if number >= 2:  # the first steps allocate
                seconds[name].append(duration)

    print(f"vlmkit {ours.num_parameters() / 1e6:.1f}M parameters, BLIP-2 {theirs.num_parameters() / 1e6:.1f}M")
    for name, durations in seconds.items():
        print(f"{name:24}{arguments.batch_size / statistics.median(durations):8.1f} samples a second")
    for name in ("vlmkit", "vlmkit, vision features"):
        ratio = statistics.median(b / a for a, b in zip(seconds[name], seconds["BLIP-2"], strict=True))
        print(f"speed ratio {name} / BLIP-2: {ratio:.2f} (median over pairs of steps)")
    for label, keep in (("as it is", False), ("keeping attention, as the original does", True)):
        count = left_behind(ours, batches["vlmkit"], arguments.passes, keep)
        print(f"{arguments.passes} forward passes {label}: {count:+d} tensors alive")


if __name__ == "__main__":
    main()
