"""Speed of SmolVLM's replies beside transformers' `SmolVLMForConditionalGeneration` of equally large parts.

    python benchmarks/smolvlm_generation.py

Both have a ViT of the same sizes, which sees the same undivided image, and the same language model, with random weights
in float32. Theirs makes 49 tokens of an image of 14 x 14 patches (2 x 2 become one; 7 x 7 would be the next); ours gets
as many queries by default, more than the original's 32, so that the language models read prompts of the same length.
Both write greedily, exactly as many tokens as asked for. The first token, with all that it takes to see the image and
to read the prompt, is timed apart from the others. The sides take turns; medians and ratios are printed. Needs 3 GB of
memory.
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
    """Size of the run."""

    num_tokens: list[int] = field(default_factory=lambda: [32, 64], metadata={"help": "lengths of the replies"})
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8])
    prompt_length: int = field(default=40, metadata={"help": "tokens of text, half of them before the image"})
    num_query_tokens: int = field(default=49, metadata={"help": "ours; the original's are 32"})
    repetitions: int = 5
    num_layers: int | None = field(default=None, metadata={"help": "of each part, to try the script with few"})


class Stopwatch(LogitsProcessor):
    """Notes when the scores of each token are known.

    Attributes:
        marks: seconds since the stopwatch was made.
    """

    def __init__(self):
        self.start = time.perf_counter()
        self.marks: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Note the time and leave the scores as they are."""
        self.marks.append(time.perf_counter() - self.start)
        return scores


def build_theirs(ours: VlmkitSmolVLMConfig) -> SmolVLMForConditionalGeneration:
    """Theirs with parts of the same sizes: in place of the Q-Former, one linear layer joins neighbouring patches."""
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
    """Texts of random tokens with the image tokens in the middle, for the largest batch."""
    shape = max(arguments.batch_sizes), arguments.prompt_length
    text = torch.randint(config.text_config.eos_token_id + 1, config.image_token_id, shape)
    image_tokens = torch.full((len(text), num_image_tokens), config.image_token_id)
    middle = arguments.prompt_length // 2
    input_ids = torch.cat([text[:, :middle], image_tokens, text[:, middle:]], dim=1)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def reply(
    model: SmolVLM | SmolVLMForConditionalGeneration, prompts: dict[str, Tensor], num_tokens: int, batch_size: int
) -> tuple[float, float]:
    """Let a model write.

    Returns:
        Seconds up to the first token, and from there to the last.

    Raises:
        RuntimeError: it wrote more or fewer tokens than asked for.
    """
    stopwatch = Stopwatch()
    written = model.generate(
        **{name: tensor[:batch_size] for name, tensor in prompts.items()},
        min_new_tokens=num_tokens,
        max_new_tokens=num_tokens,
        do_sample=False,
        logits_processor=[stopwatch],
    )
    asked = (batch_size, prompts["input_ids"].shape[1] + num_tokens)
    if tuple(written.shape) != asked or len(stopwatch.marks) != num_tokens:
        raise RuntimeError(f"{type(model).__name__} wrote {tuple(written.shape)} in {len(stopwatch.marks)} steps")
    return stopwatch.marks[0], stopwatch.marks[-1] - stopwatch.marks[0]


def race(
    sides: dict[str, tuple], num_tokens: int, batch_size: int, repetitions: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each side's replies, in turn."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, (model, prompts) in sides.items():
            seconds[name].append(reply(model, prompts, num_tokens, batch_size))
    return seconds


def report(seconds: dict[str, list[tuple[float, float]]], num_tokens: int, batch_size: int) -> None:
    """Medians, and the median ratios of replies written one after the other."""
    title = f"{num_tokens} tokens, batch {batch_size}"
    print(f"\n{title:24}{'first token, ms':>16}{'others, tokens a second':>26}{'all, tokens a second':>22}")
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
    """Build both models, warm up, and let them write replies of each length and batch size."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    set_seed(0)
    config = model_config(arguments.num_layers)
    config.num_query_tokens = arguments.num_query_tokens
    ours, theirs = SmolVLM(config).eval(), build_theirs(config)
    images = torch.rand(max(arguments.batch_sizes), 3, 224, 224)
    num_tokens = {"vlmkit": config.num_query_tokens, "transformers": theirs.model.image_seq_len}
    inputs = {"vlmkit": {"pixel_values": images}, "transformers": {"pixel_values": images[:, None]}}
    sides = {}
    for name, model in (("vlmkit", ours), ("transformers", theirs)):
        sides[name] = model, {**inputs[name], **build_prompts(config, num_tokens[name], arguments)}
        size = f"{model.num_parameters() / 1e6:.0f}M parameters"
        print(f"{name:14}{size}, {num_tokens[name]} tokens of an image, {arguments.prompt_length} of the prompt's text")
    print(f"{torch.get_num_threads()} threads", flush=True)
    race(sides, 2, max(arguments.batch_sizes), repetitions=1)  # the first calls allocate
    for batch_size in arguments.batch_sizes:
        for length in arguments.num_tokens:
            report(race(sides, length, batch_size, arguments.repetitions), length, batch_size)


if __name__ == "__main__":
    main()
