"""Time and memory of an optimiser step of SmolVLM's stage 2, beside what the original does in one.

    python benchmarks/smolvlm_training_step.py

The original's sizes and recipe, random weights: LoRA in all linear layers of the language model, Q-Former and adapter
trained whole, AdamW, clipped gradients. In each of its steps, the original runs the frozen vision tower image by image
and computes the scores of all positions; it runs on our model's own modules. Ours takes vision features that were
computed beforehand, once and not counted here, and scores only positions with a label. Each measurement has a process
of its own, and the sides take turns; the script stops unless both have the same loss. Needs 7 GB of memory.

On a GPU, samples per second, peak memory and model FLOP utilisation of both stages follow, for several batch sizes.
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
_PREFIX_LENGTH, _NUM_LABELS = 36, 20  # with 32 image tokens between them: 88 positions
_CAPTION_LENGTH = 20  # of stage 1
_MB = 1e6


@dataclass
class Arguments:
    """Size of the run."""

    batch_size: int = 8
    dtype: str = field(default="float32", metadata={"help": "or bfloat16, by autocast"})
    steps: int = field(default=3, metadata={"help": "of a process, after a first one that allocates"})
    repetitions: int = field(default=3, metadata={"help": "processes of each side"})
    num_layers: int | None = field(default=None, metadata={"help": "of each part, to try the script with few"})
    gpu_batch_sizes: list[int] = field(default_factory=lambda: [8, 16, 32, 64, 128, 256])
    peak_tflops: float = field(default=989.0, metadata={"help": "of the GPU in this dtype, here an H100's in bfloat16"})
    side: str | None = field(default=None, metadata={"help": "original or vlmkit: measure this one, in this process"})


def model_config(num_layers: int | None) -> VlmkitSmolVLMConfig:
    """The defaults are the original's sizes."""
    config = VlmkitSmolVLMConfig()
    if num_layers is not None:
        config.vision_config.num_hidden_layers = config.text_config.num_hidden_layers = num_layers
        config.qformer_config.n_layers = num_layers
    return config


def build_aligner(num_layers: int | None) -> QFormerAligner:
    """Stage 1."""
    config = model_config(num_layers)
    return QFormerAligner(QFormerAlignerConfig(vision_config=config.vision_config, text_config=config.qformer_config))


def build_adapted(num_layers: int | None) -> nn.Module:
    """Stage 2, with the original's LoRA."""
    return adapt_backbones(SmolVLM(model_config(num_layers)))


def build_batch(config: VlmkitSmolVLMConfig, batch_size: int) -> dict[str, Tensor]:
    """Texts of a prefix, the image tokens, and the assistant's part, on which alone there are labels."""
    length = _PREFIX_LENGTH + config.num_query_tokens + _NUM_LABELS
    input_ids = torch.randint(config.text_config.eos_token_id + 1, config.image_token_id, (batch_size, length))
    input_ids[:, _PREFIX_LENGTH:-_NUM_LABELS] = config.image_token_id
    labels = input_ids.clone()
    labels[:, :-_NUM_LABELS] = -100
    batch = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
    return {name: tensor.to(DEVICE) for name, tensor in batch.items()}


@torch.no_grad()
def encode_one_by_one(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """Vision features `(B, N, D)`, in float32, as the original's data set computes them."""
    tower = model.get_base_model().get_encoder("image")
    return torch.cat([tower(image[None]).last_hidden_state for image in pixel_values])


def original_loss(model: nn.Module, pixel_values: Tensor, texts: dict[str, Tensor], dtype: str) -> Tensor:
    """From pixels, by the scores of all positions."""
    vision_features = encode_one_by_one(model, pixel_values)
    inputs = {name: tensor for name, tensor in texts.items() if name != "labels"}
    with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = model(**inputs, vision_features=vision_features, use_cache=False).logits
        return ForCausalLMLoss(logits, texts["labels"], vocab_size=logits.shape[-1])


def vlmkit_loss(model: nn.Module, vision_features: Tensor, texts: dict[str, Tensor], dtype: str) -> Tensor:
    """From vision features, by the scores of labelled positions."""
    with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
        return model(**texts, vision_features=vision_features, use_cache=False).loss


def loss_without_dropout(model: nn.Module, loss: Callable[[], Tensor]) -> float:
    """The loss of the way that training takes, with all modules but the outermost in evaluation mode."""
    model.eval()
    model.get_base_model().training = True
    with torch.no_grad():
        value = loss().item()
    model.train()
    return value


def new_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW on all that is trained."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Seconds of one forward pass, backward pass, clipping and update."""
    start = now()
    loss().backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return now() - start


def now() -> float:
    """The time, once all that was asked of a GPU is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak() -> int:
    """Forget the peak of memory so far.

    Returns:
        Bytes in use at present.
    """
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return resident_bytes("VmRSS")


def peak_bytes() -> int:
    """The peak of memory, the GPU's if there is one."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else resident_bytes("VmHWM")


def measure_side(arguments: Arguments) -> dict[str, float]:
    """Build the model, and let one side take steps."""
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


def race(arguments: Arguments) -> dict[str, list[dict[str, float]]]:
    """Measurements of both sides, in turn.

    Raises:
        RuntimeError: the sides have different losses.
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
            raise RuntimeError(f"the loss of vlmkit is {ours}, the original's {original}")
    return measured


def report(measured: dict[str, list[dict[str, float]]]) -> None:
    """Medians of each side, and the median ratios of processes that ran one after the other."""
    print(f"{'':12}{'ms a step':>12}{'peak MB':>12}{'above the built model, MB':>28}{'loss':>10}")
    for side, results in measured.items():
        loss, seconds, peak, above = (statistics.median(row[name] for row in results) for name in results[0])
        print(f"{side:12}{1000 * seconds:12.0f}{peak / _MB:12.0f}{above / _MB:28.0f}{loss:10.4f}")
    pairs = list(zip(measured["original"], measured["vlmkit"], strict=True))
    for what, name in (("speed", "seconds"), ("peak memory", "peak"), ("memory above the built model", "above")):
        ratio = statistics.median(original[name] / ours[name] for original, ours in pairs)
        print(f"{what} ratio: {ratio:.2f} in favour of vlmkit")


def report_stages(arguments: Arguments) -> None:
    """Samples per second of both stages on vision features; FLOPs are those of all matrix products of a step."""
    config = model_config(arguments.num_layers)
    num_tokens = 1 + (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    print(f"\n{'':10}{'batch':>8}{'samples a second':>20}{'peak MB':>12}{'MFU':>8}")
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
            utilisation = counter.get_total_flops() / seconds / (1e12 * arguments.peak_tflops)
            speed, peak = batch_size / seconds, peak_bytes() / _MB
            print(f"{stage:10}{batch_size:8}{speed:20.1f}{peak:12.0f}{utilisation:8.1%}", flush=True)


def main() -> None:
    """Let the sides take turns and compare them; then measure both stages if there is a GPU."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if arguments.side is not None:
        print(json.dumps(measure_side(arguments)))
        return
    length = _PREFIX_LENGTH + model_config(arguments.num_layers).num_query_tokens + _NUM_LABELS
    print(f"{arguments.batch_size} texts of {length} positions, {_NUM_LABELS} of them with a label, ", end="")
    print(f"{arguments.dtype}, {DEVICE}, {torch.get_num_threads()} threads", flush=True)
    report(race(arguments))
    if DEVICE == "cuda":
        report_stages(arguments)


if __name__ == "__main__":
    main()
