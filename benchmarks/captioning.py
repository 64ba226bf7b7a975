"""Compare the captioning speed of `QFormerCaptioner` with the original algorithm and transformers' BLIP-2.

    python benchmarks/captioning.py

All models have the full size of the original, use random float32 weights and greedy decoding, and generate a fixed
number of tokens.

- original: The decoding algorithm of the original implementation, run on the modules of vlmkit's model. It encodes the
  image once and recomputes Q-Former and language model for every token, one image at a time. The script raises an error
  if the tokens differ from vlmkit's.
- BLIP-2: `Blip2ForConditionalGeneration` with the same vision encoder and language model, and a Q-Former with the same
  number of queries and a similar number of parameters.

The models are timed in turn; medians and ratios are printed. The script needs 6 GB of memory.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import Blip2Config, Blip2ForConditionalGeneration, HfArgumentParser, set_seed

from vlmkit import QFormerCaptioner, QFormerCaptionerConfig

# With a smaller range, random models repeat one token, and the comparison of tokens could not detect cache errors.
_INITIALIZER_RANGE = 0.1


@dataclass
class Arguments:
    """Caption lengths, batch size and number of measurements."""

    num_tokens: list[int] = field(default_factory=lambda: [20, 30], metadata={"help": "Caption lengths in tokens."})
    batch_size: int = field(default=16, metadata={"help": "Batch size, measured in addition to single images."})
    repetitions: int = field(default=3, metadata={"help": "Number of measurements per model and caption length."})


def build_captioner() -> QFormerCaptioner:
    """Build a captioner with the default configuration, which has the sizes of the original."""
    config = QFormerCaptionerConfig()
    config.text_config.initializer_range = _INITIALIZER_RANGE
    return QFormerCaptioner(config).eval()


def build_blip2() -> Blip2ForConditionalGeneration:
    """Build a BLIP-2 with components of the same sizes.

    Its Q-Former needs eight layers to have about the same number of parameters as the two layers of vlmkit's.
    """
    ours = QFormerCaptionerConfig()
    ours.text_config.initializer_range = _INITIALIZER_RANGE
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    config = Blip2Config(
        vision_config={name: getattr(ours.vision_config, name) for name in names} | {"initializer_range": 0.02},
        qformer_config={"num_hidden_layers": 8},
        text_config=ours.text_config,
        num_query_tokens=ours.num_query_tokens,
        image_token_index=ours.text_config.pad_token_id,
    )
    return Blip2ForConditionalGeneration(config).eval()


@torch.no_grad()
def caption_like_the_original(model: QFormerCaptioner, pixel_values: Tensor, num_tokens: int) -> Tensor:
    """Generate a caption greedily without a key/value cache.

    Every step recomputes the Q-Former, the hidden states of all previous tokens and the logits of all positions.

    Args:
        model: Captioner whose modules are used.
        pixel_values: Image, `(1, 3, H, W)`.
        num_tokens: Number of tokens to generate after the start token. The end token is suppressed.

    Returns:
        Token ids, start token included, `(1, 1 + num_tokens)`.
    """
    headless = model.model
    vision_features = headless.vision_tower(pixel_values).last_hidden_state
    token_ids = torch.tensor([[model.config.text_config.bos_token_id]])
    for _ in range(num_tokens):
        queries = headless.connector(vision_features).last_hidden_state
        embeddings = model.get_input_embeddings()(token_ids)
        hidden_states = model.get_decoder()(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        key_values = headless.cross_attention.attention.key_values(queries)
        hidden_states, _ = headless.cross_attention(hidden_states, key_values)
        scores = model.get_output_embeddings()(hidden_states)[:, -1]
        scores[:, model.config.text_config.eos_token_id] = -torch.inf
        token_ids = torch.cat([token_ids, scores.argmax(dim=-1, keepdim=True)], dim=1)
    return token_ids


def generate(model: QFormerCaptioner | Blip2ForConditionalGeneration, pixel_values: Tensor, num_tokens: int) -> Tensor:
    """Generate `num_tokens` tokens per image with greedy decoding."""
    return model.generate(
        pixel_values=pixel_values, min_new_tokens=num_tokens, max_new_tokens=num_tokens, do_sample=False
    )


def time_in_turn(
    methods: dict[str, Callable[[int], Tensor]], num_tokens: int, repetitions: int
) -> dict[str, list[float]]:
    """Call the methods in turn and return the seconds of every call.

    Raises:
        RuntimeError: If vlmkit and the original algorithm generate different tokens for the same image.
    """
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repetitions):
        captions = {}
        for name, method in methods.items():
            start = time.perf_counter()
            captions[name] = method(num_tokens)
            seconds[name].append(time.perf_counter() - start)
        reference = captions["original"][0]
        for name in ("vlmkit", "vlmkit, batch"):
            if not torch.equal(captions[name][0], reference):
                raise RuntimeError(
                    f"{name!r} must generate the tokens of the original algorithm, {reference.tolist()}, but got "
                    f"{captions[name][0].tolist()}."
                )
    return seconds


def report(seconds: dict[str, list[float]], num_tokens: int, batch_size: int) -> None:
    """Print the median time per caption and the median speed ratios of consecutive calls."""
    images = {name: batch_size if name.endswith("batch") else 1 for name in seconds}
    print(f"\n{num_tokens} tokens{'ms per caption':>23}{'tokens per second':>18}")
    for name, durations in seconds.items():
        duration = statistics.median(durations) / images[name]
        print(f"{name:20}{1000 * duration:12.0f}{num_tokens / duration:18.1f}")
    for ours, theirs in (
        ("vlmkit", "original"),
        ("vlmkit, batch", "original"),
        ("vlmkit", "BLIP-2"),
        ("vlmkit, batch", "BLIP-2, batch"),
    ):
        pairs = zip(seconds[ours], seconds[theirs], strict=True)
        ratio = statistics.median((b / images[theirs]) / (a / images[ours]) for a, b in pairs)
        print(f"speed ratio {ours} / {theirs}: {ratio:.2f}")


def main() -> None:
    """Time all methods for every caption length after a warm-up."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    set_seed(0)
    captioner, blip2 = build_captioner(), build_blip2()
    images = torch.rand(arguments.batch_size, 3, 224, 224)
    print(f"vlmkit {captioner.num_parameters() / 1e6:.0f}M parameters, BLIP-2 {blip2.num_parameters() / 1e6:.0f}M")
    print(f"batches of {arguments.batch_size}, {torch.get_num_threads()} threads", flush=True)
    methods: dict[str, Callable[[int], Tensor]] = {
        "original": lambda num_tokens: caption_like_the_original(captioner, images[:1], num_tokens),
        "vlmkit": lambda num_tokens: generate(captioner, images[:1], num_tokens),
        "BLIP-2": lambda num_tokens: generate(blip2, images[:1], num_tokens),
        "vlmkit, batch": lambda num_tokens: generate(captioner, images, num_tokens),
        "BLIP-2, batch": lambda num_tokens: generate(blip2, images, num_tokens),
    }
    time_in_turn(methods, num_tokens=2, repetitions=1)  # warm-up
    for num_tokens in arguments.num_tokens:
        report(time_in_turn(methods, num_tokens, arguments.repetitions), num_tokens, arguments.batch_size)


if __name__ == "__main__":
    main()
