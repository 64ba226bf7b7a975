"""Compare the generation speed of `SmolVLM` with transformers' `SmolVLMForConditionalGeneration` of the same size.

    python benchmarks/smolvlm_generation.py

Both models have a ViT of the same size, which encodes the image without cropping, and the same language model. They use
random float32 weights and greedy decoding, and generate a fixed number of tokens. The model of transformers merges
2 x 2 of 14 x 14 patches into one token, which gives 49 image tokens. vlmkit's model uses 49 queries by default (the
original has 32), so that both language models process prompts of the same length.

The time to the first token, which includes the image encoder and the prompt, is reported separately from the time of
the other tokens. The models are timed in turn; medians and ratios are printed. The script needs 3 GB of memory.
"""

import statistics
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import (
    HfArgumentParser,
    LogitsProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    set_seed,
)

from smolvlm_training_step import model_config
from vlmkit import SmolVLM, VlmkitSmolVLMConfig

_SCALE_FACTOR = 2


@dataclass
class Arguments:
    """Sizes of the models and the number of measurements."""

    num_tokens: list[int] = field(default_factory=lambda: [32, 64], metadata={"help": "Reply lengths in tokens."})
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8])
    prompt_length: int = field(
        default=40, metadata={"help": "Number of text tokens in the prompt. Half of them precede the image."}
    )
    num_query_tokens: int = field(
        default=49, metadata={"help": "Number of image tokens of vlmkit's model. The original uses 32."}
    )
    repetitions: int = field(default=5, metadata={"help": "Number of measurements per model, length and batch size."})
    num_layers: int | None = field(
        default=None,
        metadata={"help": "Number of layers of each component (at least 2), for a quick test of this script."},
    )


class Stopwatch(LogitsProcessor):
    """Logits processor that records the time of each generated token.

    Attributes:
        marks: Seconds from the construction of the stopwatch to the logits of each token.
    """

    def __init__(self):
        self.start = time.perf_counter()
        self.marks: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Record the time and return the scores unchanged."""
        self.marks.append(time.perf_counter() - self.start)
        return scores


def build_theirs(ours: VlmkitSmolVLMConfig) -> SmolVLMForConditionalGeneration:
    """Build transformers' SmolVLM with the same sizes. A linear layer over blocks of patches replaces the Q-Former."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    config = SmolVLMConfig(
        vision_config={name: getattr(ours.vision_config, name) for name in names},
        text_config=ours.text_config.to_dict(),
        image_token_id=ours.image_token_id,
        tie_word_embeddings=ours.tie_word_embeddings,
        scale_factor=_SCALE_FACTOR,
    )
    return SmolVLMForConditionalGeneration(config).eval()


def build_prompts(config: VlmkitSmolVLMConfig, num_image_tokens: int, arguments: Arguments) -> dict[str, Tensor]:
    """Build prompts of random tokens with the image tokens in the middle, for the largest batch size."""
    shape = max(arguments.batch_sizes), arguments.prompt_length
    text = torch.randint(config.text_config.eos_token_id + 1, config.image_token_id, shape)
    image_tokens = torch.full((len(text), num_image_tokens), config.image_token_id)
    middle = arguments.prompt_length // 2
    input_ids = torch.cat([text[:, :middle], image_tokens, text[:, middle:]], dim=1)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def reply(
    model: SmolVLM | SmolVLMForConditionalGeneration, prompts: dict[str, Tensor], num_tokens: int, batch_size: int
) -> tuple[float, float]:
    """Generate replies of exactly `num_tokens` tokens.

    Returns:
        Seconds to the first token, and seconds from the first to the last token.

    Raises:
        RuntimeError: If the model generates another number of tokens.
    """
    stopwatch = Stopwatch()
    sequences = model.generate(
        **{name: tensor[:batch_size] for name, tensor in prompts.items()},
        min_new_tokens=num_tokens,
        max_new_tokens=num_tokens,
        do_sample=False,
        logits_processor=[stopwatch],
    )
    expected = (batch_size, prompts["input_ids"].shape[1] + num_tokens)
    if tuple(sequences.shape) != expected or len(stopwatch.marks) != num_tokens:
        raise RuntimeError(
            f"{type(model).__name__} must generate sequences of shape {expected} in {num_tokens} steps, but got "
            f"{tuple(sequences.shape)} in {len(stopwatch.marks)} steps."
        )
    return stopwatch.marks[0], stopwatch.marks[-1] - stopwatch.marks[0]


def time_in_turn(
    models: dict[str, tuple], num_tokens: int, batch_size: int, repetitions: int
) -> dict[str, list[tuple[float, float]]]:
    """Let the models generate in turn and return the seconds to the first token and of the others for every reply."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(repetitions):
        for name, (model, prompts) in models.items():
            seconds[name].append(reply(model, prompts, num_tokens, batch_size))
    return seconds


def report(seconds: dict[str, list[tuple[float, float]]], num_tokens: int, batch_size: int) -> None:
    """Print the medians and the median speed ratios of consecutive replies."""
    title = f"{num_tokens} tokens, batch {batch_size}"
    print(f"\n{title:24}{'first token, ms':>16}{'others, tokens per s':>26}{'all, tokens per s':>22}")
    for name, durations in seconds.items():
        first = statistics.median(first for first, _ in durations)
        others = batch_size * (num_tokens - 1) / statistics.median(others for _, others in durations)
        whole = batch_size * num_tokens / statistics.median(sum(both) for both in durations)
        print(f"{name:24}{1000 * first:16.0f}{others:26.1f}{whole:22.1f}")
    pairs = list(zip(seconds["vlmkit"], seconds["transformers"], strict=True))
    first = statistics.median(theirs[0] / ours[0] for ours, theirs in pairs)
    others = statistics.median(theirs[1] / ours[1] for ours, theirs in pairs)
    whole = statistics.median(sum(theirs) / sum(ours) for ours, theirs in pairs)
    print(f"speed ratio vlmkit / transformers: first token {first:.2f}, ", end="")
    print(f"others {others:.2f}, all {whole:.2f}", flush=True)


@torch.no_grad()
def main() -> None:
    """Time both models for every reply length and batch size after a warm-up."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    set_seed(0)
    config = model_config(arguments.num_layers)
    config.num_query_tokens = arguments.num_query_tokens
    ours, theirs = SmolVLM(config).eval(), build_theirs(config)
    images = torch.rand(max(arguments.batch_sizes), 3, 224, 224)
    num_tokens = {"vlmkit": config.num_query_tokens, "transformers": theirs.model.image_seq_len}
    inputs = {"vlmkit": {"pixel_values": images}, "transformers": {"pixel_values": images[:, None]}}
    models = {}
    for name, model in (("vlmkit", ours), ("transformers", theirs)):
        models[name] = model, {**inputs[name], **build_prompts(config, num_tokens[name], arguments)}
        size = f"{model.num_parameters() / 1e6:.0f}M parameters"
        print(f"{name:14}{size}, {num_tokens[name]} image tokens, {arguments.prompt_length} text tokens in the prompt")
    print(f"{torch.get_num_threads()} threads", flush=True)
    time_in_turn(models, 2, max(arguments.batch_sizes), repetitions=1)  # warm-up
    for batch_size in arguments.batch_sizes:
        for length in arguments.num_tokens:
            report(time_in_turn(models, length, batch_size, arguments.repetitions), length, batch_size)


if __name__ == "__main__":
    main()
