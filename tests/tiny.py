"""Tiny configurations, tokenizers, processors and inputs, built in memory."""

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    CLIPImageProcessor,
    DistilBertConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    ViTConfig,
)

from vlmkit import (
    DualEncoderConfig,
    DualEncoderProcessor,
    PairedCifarAligner,
    PairedCifarAlignerConfig,
    PairedCifarAlignerProcessor,
    QFormerAlignerConfig,
    QFormerAlignerProcessor,
    QFormerCaptionerConfig,
    QFormerCaptionerProcessor,
    VlmkitSmolVLMConfig,
    VlmkitSmolVLMImageProcessor,
    VlmkitSmolVLMProcessor,
)
from vlmkit.models.smolvlm.image_token_counts import fixed_num_image_tokens

_WORDS = (
    "a the red green blue small large circle square star to left right of above and dog cat runs on grass photo is this"
    " apple bus maple tree"
)
WORDS = _WORDS.split()
NEEDS_FULL_GRAPHS = pytest.mark.skipif(
    Version(torch.__version__).release < (2, 14), reason="torch before 2.14 cannot trace `torch._check_tensor_all`"
)
SENTENCES = ["a small red circle", "the dog runs on the grass to the left of a cat", "this is a photo"]


def tokenizer(**special_tokens: str) -> PreTrainedTokenizerFast:
    """One token per word; like GPT-2's, without a padding token unless given."""
    vocab = {word: row for row, word in enumerate(["<unk>", "<eos>", *WORDS, *special_tokens.values()])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>", model_max_length=64, **special_tokens
    )


def image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def photo(width: int = 48, height: int = 40, seed: int = 0) -> Image.Image:
    """Soft random blobs with a little noise: like a photograph, most of it is smooth."""
    generator = np.random.default_rng(seed)
    blobs = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    noisy = smooth + generator.normal(0, 4, smooth.shape)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def vision_config(**kwargs) -> ViTConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTConfig(**{**sizes, "image_size": 32, "patch_size": 16, **kwargs})


def text_config(**kwargs) -> GPT2Config:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 99}
    return GPT2Config(**{**sizes, "bos_token_id": 1, "eos_token_id": 1, **kwargs})


def dual_encoder_config(**kwargs) -> DualEncoderConfig:
    return DualEncoderConfig(**{"vision_config": vision_config(), "text_config": text_config(), **kwargs})


def dual_encoder_processor() -> DualEncoderProcessor:
    return DualEncoderProcessor(image_processor(), tokenizer())


def dual_encoder_inputs() -> dict[str, torch.Tensor]:
    """Three pairs; the texts differ in length and are padded on the right."""
    photos = [photo(seed=row) for row in range(len(SENTENCES))]
    return dict(dual_encoder_processor()(images=photos, text=SENTENCES, return_tensors="pt"))


CLASSES = ["dog", "cat", "red_star"]


def text_encoder(width: int = 12) -> BertModel:
    """A sentence encoder in which no two captions are alike."""
    config = BertConfig(
        vocab_size=99,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    return BertModel(config, add_pooling_layer=False).eval()


def paired_cifar_config(**kwargs) -> PairedCifarAlignerConfig:
    sizes = {"vision_config": vision_config(image_size=(16, 32), patch_size=8), "text_embed_dim": 12}
    return PairedCifarAlignerConfig(**{**sizes, "class_names": CLASSES, **kwargs})


def build_caption_bank(model: PairedCifarAligner) -> None:
    model.build_caption_bank(text_encoder(model.config.text_embed_dim), tokenizer(pad_token="<pad>"))


def paired_cifar_processor() -> PairedCifarAlignerProcessor:
    return PairedCifarAlignerProcessor.for_cifar100(image_size=16)


def paired_cifar_inputs() -> dict[str, torch.Tensor]:
    """Three pairs with their captions; the last one shows the same class twice."""
    pairs = [[photo(seed=row), photo(seed=row + 10)] for row in range(3)]
    inputs = paired_cifar_processor()(images=pairs, return_tensors="pt")
    return {**inputs, "caption_ids": torch.tensor([1, 5, 8])}


def gpt_neo_config(**kwargs) -> GPTNeoConfig:
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
    tokens = {"vocab_size": 99, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return GPTNeoConfig(**{**sizes, "window_size": 4, "max_position_embeddings": 64, **tokens, **kwargs})


def llama_config(**kwargs) -> LlamaConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    tokens = {"vocab_size": 99, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return LlamaConfig(**{**sizes, "intermediate_size": 32, "max_position_embeddings": 64, **tokens, **kwargs})


def qformer_captioner_config(**kwargs) -> QFormerCaptionerConfig:
    sizes = {"vision_config": vision_config(), "text_config": gpt_neo_config()}
    return QFormerCaptionerConfig(**{**sizes, "num_query_tokens": 3, "num_attention_heads": 2, **kwargs})


def qformer_captioner_processor() -> QFormerCaptionerProcessor:
    return QFormerCaptionerProcessor(image_processor(), tokenizer(bos_token="<unk>"))


def qformer_captioner_inputs() -> dict[str, torch.Tensor]:
    """Three images with captions of different lengths, padded on the right."""
    photos = [photo(seed=row) for row in range(len(SENTENCES))]
    return dict(qformer_captioner_processor()(photos, SENTENCES, return_labels=True, return_tensors="pt"))


def distilbert_config(**kwargs) -> DistilBertConfig:
    sizes = {"dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64}
    return DistilBertConfig(**{**sizes, "vocab_size": 99, **kwargs})


def qformer_aligner_config(**kwargs) -> QFormerAlignerConfig:
    sizes = {"vision_config": vision_config(), "text_config": distilbert_config()}
    return QFormerAlignerConfig(**{**sizes, "num_query_tokens": 3, "num_cross_attention_heads": 4, **kwargs})


def qformer_aligner_processor() -> QFormerAlignerProcessor:
    return QFormerAlignerProcessor(image_processor(), tokenizer(pad_token="<pad>"))


def qformer_aligner_inputs() -> dict[str, torch.Tensor]:
    """Three pairs; the texts differ in length and are padded on the right."""
    photos = [photo(seed=row) for row in range(len(SENTENCES))]
    return dict(qformer_aligner_processor()(images=photos, text=SENTENCES, return_tensors="pt"))


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word and per line break; pads with the end of a turn, as SmolLM's does."""
    special = ["<unk>", "<|im_start|>", "<|im_end|>"]
    vocab = {word: row for row, word in enumerate([*special, "\n", "system", "user", "assistant", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    lines, words = pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")
    backend.pre_tokenizer = pre_tokenizers.Sequence([lines, words])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )


def smolvlm_processor(**kwargs) -> VlmkitSmolVLMProcessor:
    return VlmkitSmolVLMProcessor(image_processor(), chat_tokenizer(), **{"num_image_tokens": 3, **kwargs})


IMAGE_TOKEN_ID = len(chat_tokenizer())  # the first after its words, of the 99 rows that the tiny language models have
TURN_START, TURN_END = 1, 2
CHAT_TOKENS = {"bos_token_id": TURN_START, "eos_token_id": TURN_END, "pad_token_id": TURN_END}


def smolvlm_config(**kwargs) -> VlmkitSmolVLMConfig:
    text = llama_config(**CHAT_TOKENS, tie_word_embeddings=True)
    sizes = {"vision_config": vision_config(), "qformer_config": distilbert_config(), "text_config": text}
    return VlmkitSmolVLMConfig(**{**sizes, "image_token_id": IMAGE_TOKEN_ID, "num_query_tokens": 3, **kwargs})


def crops_processor(config: VlmkitSmolVLMConfig, **images) -> VlmkitSmolVLMProcessor:
    """For any design; images are squashed to 32 x 32 by default."""
    factor = config.pixel_shuffle_factor if config.connector == "pixel_shuffle" else 1
    settings = {"size": {"height": 32, "width": 32}, "size_divisor": config.vision_config.patch_size * factor, **images}
    num_image_tokens = fixed_num_image_tokens(
        config.connector, fusion=config.fusion, num_query_tokens=config.num_query_tokens
    )
    return VlmkitSmolVLMProcessor(VlmkitSmolVLMImageProcessor(**settings), chat_tokenizer(), num_image_tokens)


def turn(role: str, text: str, *images: object) -> dict:
    """What one says, behind images; `True` stands for one that is not given."""
    parts = [{"type": "image"} if image is True else {"type": "image", "image": image} for image in images]
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def conversations() -> list[list[dict]]:
    """About one image, about two in two turns, and about none."""
    one = [turn("user", "is this a dog", photo()), turn("assistant", "a small red circle")]
    first = [turn("user", "a photo", photo(seed=1)), turn("assistant", "a cat")]
    second = [turn("user", "and this", photo(seed=2)), turn("assistant", "the dog runs on grass")]
    none = [turn("system", "the"), turn("user", "is a tree green"), turn("assistant", "a tree")]
    return [one, first + second, none]


def smolvlm_inputs() -> dict[str, torch.Tensor]:
    """Three conversations with one, two and no images, padded on the right."""
    return dict(smolvlm_processor().apply_chat_template(conversations(), return_labels=True))
