"""Compare time and memory of an optimizer step of SmolVLM's second stage with the original implementation.

    python benchmarks/smolvlm_training_step.py

Both variants have the sizes and the recipe of the original, with random weights: LoRA in all linear layers of the
language model, a fully trained Q-Former and adapter, AdamW and gradient clipping.

- original: Runs the frozen vision tower image by image in every step and computes the logits of all positions. It is
  reimplemented on the modules of vlmkit's model.
- vlmkit: Uses precomputed vision features, whose computation is not timed, and computes the logits of labeled positions
  only.

The variants run in turn, each measurement in a separate process. The script raises an error if their losses differ. It
needs 7 GB of memory.

On a GPU, the script also prints samples per second, peak memory and model FLOPs utilization (MFU) of both stages for
several batch sizes.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import HfArgumentParser, set_seed
from transformers.loss.loss_utils import ForCausalLMLoss

from retrieval_memory import resident_bytes
from vlmkit import QFormerAligner, QFormerAlignerConfig, SmolVLM, VlmkitSmolVLMConfig
from vlmkit.training import adapt_backbones

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_PREFIX_LENGTH, _NUM_LABELS = 36, 20  # text tokens before and after the 32 image tokens, 88 positions in total
_CAPTION_LENGTH = 20  # caption tokens of stage 1
_MB = 1e6


@dataclass
class Arguments:
    """Sizes of the models and the number of measurements."""

    batch_size: int = 8
    dtype: str = field(default="float32", metadata={"help": "float32, or bfloat16 for autocast."})
    steps: int = field(default=3, metadata={"help": "Number of timed steps per process, after one warm-up step."})
    repetitions: int = field(default=3, metadata={"help": "Number of processes per variant."})
    num_layers: int | None = field(
        default=None,
        metadata={"help": "Number of layers of each component (at least 2), for a quick test of this script."},
    )
    gpu_batch_sizes: list[int] = field(default_factory=lambda: [8, 16, 32, 64, 128, 256])
    peak_tflops: float = field(
        default=989.0, metadata={"help": "Peak TFLOP/s of the GPU in this dtype. The default is an H100 in bfloat16."}
    )
    side: str | None = field(
        default=None, metadata={"help": "Internal: measure only 'original' or 'vlmkit', in this process."}
    )


def model_config(num_layers: int | None) -> VlmkitSmolVLMConfig:
    """Return the default configuration, which has the sizes of the original, with `num_layers` layers if given."""
    config = VlmkitSmolVLMConfig()
    if num_layers is not None:
        config.vision_config.num_hidden_layers = config.text_config.num_hidden_layers = num_layers
        config.qformer_config.n_layers = num_layers
    return config


def build_aligner(num_layers: int | None) -> QFormerAligner:
    """Build the model of stage 1."""
    config = model_config(num_layers)
    return QFormerAligner(QFormerAlignerConfig(vision_config=config.vision_config, text_config=config.qformer_config))


def build_adapted(num_layers: int | None) -> nn.Module:
    """Build the model of stage 2 with the LoRA configuration of the original."""
    return adapt_backbones(SmolVLM(model_config(num_layers)))


def build_batch(config: VlmkitSmolVLMConfig, batch_size: int) -> dict[str, Tensor]:
    """Build texts of a prefix, the image tokens and a reply. Only the reply has labels."""
    length = _PREFIX_LENGTH + config.num_query_tokens + _NUM_LABELS
    input_ids = torch.randint(config.text_config.eos_token_id + 1, config.image_token_id, (batch_size, length))
    input_ids[:, _PREFIX_LENGTH:-_NUM_LABELS] = config.image_token_id
    labels = input_ids.clone()
    labels[:, :-_NUM_LABELS] = -100
    batch = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
    return {name: tensor.to(DEVICE) for name, tensor in batch.items()}


@torch.no_grad()
def encode_one_by_one(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """Compute float32 vision features `(B, N, D)` image by image, like the dataset class of the original."""
    tower = model.get_base_model().get_encoder("image")
    return torch.cat([tower(image[None]).last_hidden_state for image in pixel_values])


def original_loss(model: nn.Module, pixel_values: Tensor, texts: dict[str, Tensor], dtype: str) -> Tensor:
    """Compute the loss from pixels and the logits of all positions."""
    vision_features = encode_one_by_one(model, pixel_values)
    inputs = {name: tensor for name, tensor in texts.items() if name != "labels"}
    with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = model(**inputs, vision_features=vision_features, use_cache=False).logits
        return ForCausalLMLoss(logits, texts["labels"], vocab_size=logits.shape[-1])


def vlmkit_loss(model: nn.Module, vision_features: Tensor, texts: dict[str, Tensor], dtype: str) -> Tensor:
    """Compute the loss from vision features and the logits of labeled positions."""
    with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
        return model(**texts, vision_features=vision_features, use_cache=False).loss


def loss_without_dropout(model: nn.Module, loss: Callable[[], Tensor]) -> float:
    """Compute the loss without dropout.

    All modules are in evaluation mode except the outermost one, so that the model takes its training code path.
    """
    model.eval()
    model.get_base_model().training = True
    with torch.no_grad():
        value = loss().item()
    model.train()
    return value


def new_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW over the trainable parameters."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Return the seconds of one forward pass, backward pass, gradient clipping and optimizer update."""
    start = now()
    loss().backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return now() - start


def now() -> float:
    """Return the current time after pending GPU work has finished."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak() -> int:
    """Reset the memory peak.

    Returns:
        Bytes currently in use.
    """
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return resident_bytes("VmRSS")


def peak_bytes() -> int:
    """Return the peak memory of the GPU, or of the process if there is no GPU, in bytes."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else resident_bytes("VmHWM")


def measure_side(arguments: Arguments) -> dict[str, float]:
    """Build the model and time the steps of one variant."""
    set_seed(0)
    model = build_adapted(arguments.num_layers).to(DEVICE).train()
    texts = build_batch(model.get_base_model().config, arguments.batch_size)
    pixel_values = torch.rand(arguments.batch_size, 3, 224, 224).to(DEVICE)
    if arguments.side == "original":

        def loss() -> Tensor:
            return original_loss(model, pixel_values, texts, arguments.dtype)
    else:
        vision_features = encode_one_by_one(model, pixel_values)

        def loss() -> Tensor:
            return vlmkit_loss(model, vision_features, texts, arguments.dtype)

    value = loss_without_dropout(model, loss)
    optimizer = new_optimizer(model)
    built = reset_peak()
    seconds = [step(loss, optimizer) for _ in range(1 + arguments.steps)][1:]
    peak = peak_bytes()
    return {"loss": value, "seconds": statistics.median(seconds), "peak": peak, "above": peak - built}


def measure_in_turn(arguments: Arguments) -> dict[str, list[dict[str, float]]]:
    """Measure both variants in turn, each in a separate process.

    Raises:
        RuntimeError: If the losses of the variants differ.
    """
    measured: dict[str, list[dict[str, float]]] = {"original": [], "vlmkit": []}
    tolerance = 1e-5 if arguments.dtype == "float32" else 1e-3
    for _ in range(arguments.repetitions):
        for side, results in measured.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results.append(json.loads(output.splitlines()[-1]))
        original, ours = (results[-1]["loss"] for results in measured.values())
        if not math.isclose(original, ours, rel_tol=tolerance):
            raise RuntimeError(f"The losses of both variants must agree, but got {ours} (vlmkit) and {original}.")
    return measured


def report(measured: dict[str, list[dict[str, float]]]) -> None:
    """Print the medians of each variant and the median ratios of consecutive processes."""
    print(f"{'':12}{'ms per step':>12}{'peak MB':>12}{'peak minus model, MB':>28}{'loss':>10}")
    for side, results in measured.items():
        loss, seconds, peak, above = (statistics.median(row[name] for row in results) for name in results[0])
        print(f"{side:12}{1000 * seconds:12.0f}{peak / _MB:12.0f}{above / _MB:28.0f}{loss:10.4f}")
    pairs = list(zip(measured["original"], measured["vlmkit"], strict=True))
    for title, name in (("speed", "seconds"), ("peak memory", "peak"), ("peak minus model", "above")):
        ratio = statistics.median(original[name] / ours[name] for original, ours in pairs)
        print(f"{title} ratio original / vlmkit: {ratio:.2f}")


def report_stages(arguments: Arguments) -> None:
    """Print the training speed of both stages on vision features. MFU counts the FLOPs of all matrix products."""
    config = model_config(arguments.num_layers)
    num_tokens = 1 + (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    print(f"\n{'':10}{'batch':>8}{'samples per second':>20}{'peak MB':>12}{'MFU':>8}")
    for stage, build in (("stage 1", build_aligner), ("stage 2", build_adapted)):
        model = build(arguments.num_layers).to(DEVICE).train()
        optimizer = new_optimizer(model)
        for batch_size in arguments.gpu_batch_sizes:
            texts = build_batch(config, batch_size)
            if stage == "stage 1":
                texts = {"input_ids": torch.randint(1, 30_000, (batch_size, _CAPTION_LENGTH), device=DEVICE)}
            vision_features = torch.randn(batch_size, num_tokens, config.vision_config.hidden_size, device=DEVICE)

            def loss(model: nn.Module = model, images: Tensor = vision_features, texts: dict = texts) -> Tensor:
                with torch.autocast(DEVICE, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
                    return model(**texts, vision_features=images).loss

            with FlopCounterMode(display=False) as counter:
                step(loss, optimizer)
            reset_peak()
            seconds = statistics.median([step(loss, optimizer) for _ in range(2 + arguments.steps)][2:])
            utilization = counter.get_total_flops() / seconds / (1e12 * arguments.peak_tflops)
            speed, peak = batch_size / seconds, peak_bytes() / _MB
            print(f"{stage:10}{batch_size:8}{speed:20.1f}{peak:12.0f}{utilization:8.1%}", flush=True)


def main() -> None:
    """Compare both variants, then measure both stages if there is a GPU."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if arguments.side is not None:
        print(json.dumps(measure_side(arguments)))
        return
    length = _PREFIX_LENGTH + model_config(arguments.num_layers).num_query_tokens + _NUM_LABELS
    print(f"{arguments.batch_size} texts of {length} positions, {_NUM_LABELS} of them labeled, ", end="")
    print(f"{arguments.dtype}, {DEVICE}, {torch.get_num_threads()} threads", flush=True)
    report(measure_in_turn(arguments))
    if DEVICE == "cuda":
        report_stages(arguments)


if __name__ == "__main__":
    main()
