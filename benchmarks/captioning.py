"""Time of a caption, beside the original's algorithm and transformers' `Blip2ForConditionalGeneration`.

    python benchmarks/captioning.py

All sides have the original's full size, random weights in float32, and write greedily, exactly as many tokens as asked
for. The original runs vision encoder once and all else anew for every token, for one image at a time; it runs on our
model's own modules, and the script stops unless both write the same tokens. BLIP-2 gets the same vision encoder and
language model, and a Q-Former of as many queries and about as many parameters as ours. The sides take turns; medians
and ratios are printed. Needs 6 GB of memory.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import Blip2Config, Blip2ForConditionalGeneration, HfArgumentParser, set_seed

from vlmkit import QFormerCaptioner, QFormerCaptionerConfig

# Large enough that captions are no repetitions of one token, which any fault in a cache would leave as they are.
_INITIALIZER_RANGE = 0.1


@dataclass
class Arguments:
    """Size of the run."""

    num_tokens: list[int] = field(default_factory=lambda: [20, 30], metadata={"help": "lengths of the captions"})
    batch_size: int = field(default=16, metadata={"help": "beside single images"})
    repetitions: int = 3


def build_captioner() -> QFormerCaptioner:
    """The defaults are the original's sizes."""
    config = QFormerCaptionerConfig()
    config.text_config.initializer_range = _INITIALIZER_RANGE
    return QFormerCaptioner(config).eval()


def build_blip2() -> Blip2ForConditionalGeneration:
    """BLIP-2 with parts of the same size; eight of its Q-Former's layers have as many parameters as our two."""
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
    """Without a cache: for every token, Q-Former and all of the caption so far, up to the scores at each position.

    Args:
        model: whose modules run.
        pixel_values: `(1, 3, H, W)`.
        num_tokens: after the start token; the end token is not among them.

    Returns:
        `(1, 1 + num_tokens)`.
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
    """Captions of one length, greedily."""
    return model.generate(
        pixel_values=pixel_values, min_new_tokens=num_tokens, max_new_tokens=num_tokens, do_sample=False
    )


def race(sides: dict[str, Callable[[int], Tensor]], num_tokens: int, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each side's calls, in turn.

    Raises:
        RuntimeError: the original and ours write different tokens about the same image.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        captions = {}
        for name, write in sides.items():
            start = time.perf_counter()
            captions[name] = write(num_tokens)
            seconds[name].append(time.perf_counter() - start)
        reference = captions["original"][0]
        for name in ("vlmkit", "vlmkit, batch"):
            if not torch.equal(captions[name][0], reference):
                raise RuntimeError(f"{name} writes {captions[name][0].tolist()}, the original {reference.tolist()}")
    return seconds


def report(seconds: dict[str, list[float]], num_tokens: int, batch_size: int) -> None:
    """Medians per caption, and the median ratio of seconds measured one after the other."""
    images = {name: batch_size if name.endswith("batch") else 1 for name in seconds}
    print(f"\n{num_tokens} tokens{'ms a caption':>23}{'tokens a second':>18}")
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
    """Build both models, warm up, and let all sides write captions of each length."""
    [arguments] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    set_seed(0)
    captioner, blip2 = build_captioner(), build_blip2()
    images = torch.rand(arguments.batch_size, 3, 224, 224)
    print(f"vlmkit {captioner.num_parameters() / 1e6:.0f}M parameters, BLIP-2 {blip2.num_parameters() / 1e6:.0f}M")
    print(f"batches of {arguments.batch_size}, {torch.get_num_threads()} threads", flush=True)
    sides: dict[str, Callable[[int], Tensor]] = {
        "original": lambda num_tokens: caption_like_the_original(captioner, images[:1], num_tokens),
        "vlmkit": lambda num_tokens: generate(captioner, images[:1], num_tokens),
        "BLIP-2": lambda num_tokens: generate(blip2, images[:1], num_tokens),
        "vlmkit, batch": lambda num_tokens: generate(captioner, images, num_tokens),
        "BLIP-2, batch": lambda num_tokens: generate(blip2, images, num_tokens),
    }
    race(sides, num_tokens=2, repetitions=1)  # the first calls allocate
    for num_tokens in arguments.num_tokens:
        report(race(sides, num_tokens, arguments.repetitions), num_tokens, arguments.batch_size)


if __name__ == "__main__":
    main()
