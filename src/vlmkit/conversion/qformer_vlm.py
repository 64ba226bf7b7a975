"""The checkpoints of vlm-training."""

import copy
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    BaseImageProcessor,
    DistilBertConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ViTImageProcessor,
)

from vlmkit.base.modeling import VlmkitModel
from vlmkit.base.processing import VlmkitProcessor
from vlmkit.conversion.chat_templates import IMAGE_BEFORE_ANSWER
from vlmkit.conversion.files import (
    check_destination,
    check_weight_names,
    is_state_dict,
    read_json_file,
    read_safetensors_file,
    read_torch_file,
)
from vlmkit.conversion.renaming import original_names, renamed_weights
from vlmkit.models.qformer_aligner import QFormerAligner, QFormerAlignerConfig, QFormerAlignerProcessor
from vlmkit.models.smolvlm import SmolVLM, VlmkitSmolVLMConfig, VlmkitSmolVLMProcessor
from vlmkit.models.smolvlm.chat_template import supports_chatml
from vlmkit.modules.precomputed_vision import PrecomputedVisionConfig
from vlmkit.modules.towers import get_vision_config, load_backbone_config
from vlmkit.modules.vision_tower import VisionTower

_WANTED = "a folder with qformer/config.json, qformer/pytorch_model.bin, adapter.pt and lora_adapter"
_SIZES = "give qformer/config.json and qformer/pytorch_model.bin of the same training"
_ALIGNER = "qformer_aligner"
_NUMBERS = ("n_queries", "cross_every", "num_heads")
# What of DistilBERT's configuration counts; the original saves everything that transformers 4 knew.
_TEXT_FIELDS = (
    "vocab_size",
    "max_position_embeddings",
    "n_layers",
    "n_heads",
    "dim",
    "hidden_dim",
    "dropout",
    "attention_dropout",
    "activation",
    "pad_token_id",
)
_PACKED = re.compile(r"(cross_blocks\.\d+\.cross_attn)\.([qkv])_proj\.(weight|bias)")
_ADAPTER_NAMES = {"fc1.weight": "0.weight", "fc1.bias": "0.bias", "fc2.weight": "2.weight", "fc2.bias": "2.bias"}
_CARD_DATA = "Converted from the folder `{folder}` of the original code, which does not record it."


class _Original(NamedTuple):
    """What a checkpoint holds, read and checked as far as it can be by itself."""

    folder: Path
    config: dict[str, Any]
    qformer: dict[str, Tensor]
    adapter: dict[str, Tensor]


def convert_qformer_vlm(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    base_model: str | os.PathLike,
    vision_model: str | os.PathLike | None = None,
    text_tokenizer: str | os.PathLike | None = None,
) -> SmolVLM:
    """Turn a trained vision-language model, and the Q-Former in it, into two folders.

    `destination` becomes a [`SmolVLM`], with the LoRA merged into its language model by
    [peft](https://github.com/huggingface/peft), `destination/qformer_aligner` the [`QFormerAligner`] that the Q-Former
    is with its text side. Weights become float32. Replies are sampled as the original's were, unless `generate` is told
    otherwise.

    The placeholder of image embeddings is the tokenizer's `<image>`, or a new last token if the tokenizer has none or
    is missing. In chats, images stand where the original put them, between the question and the answer.

    Args:
        source: the original's folder: `qformer/config.json`, `qformer/pytorch_model.bin`, `adapter.pt` and
            `lora_adapter`. Without the last, the language model stays the base. Read without unpickling anything but
            tensors.
        destination: folder to write; new or empty.
        base_model: folder or hub id of the language model that the LoRA was trained on. A folder without a tokenizer
            gives a result without a processor.
        vision_model: folder or hub id of the image model that it was trained with (the original:
            `google/vit-base-patch16-224`), for its weights and its image processor. By default both models have no
            vision tower and take `vision_features`, and their processors prepare images as that model's does.
        text_tokenizer: folder or hub id of the Q-Former's tokenizer (the original:
            `distilbert/distilbert-base-uncased`). By default the aligner is written without a processor.

    Returns:
        The SmolVLM as it was saved, in evaluation mode, with the image model frozen.

    Raises:
        FileNotFoundError: a part is missing.
        FileExistsError: the destination is a file, or a folder that holds something.
        OSError: a model or tokenizer cannot be found.
        ImportError: there is a `lora_adapter`, but peft is not installed.
        ValueError: a file is truncated, damaged or no such checkpoint; the adapter belongs to another base; or the
            image model or the tokenizer does not fit.

    References:
        vlm-training (see `docs/papers.md`).

    Example:
        >>> model = convert_qformer_vlm(
        ...     "checkpoint",
        ...     "smolvlm",
        ...     base_model="HuggingFaceTB/SmolLM-135M-Instruct",
        ...     vision_model="google/vit-base-patch16-224",
        ... )  # doctest: +SKIP
    """
    destination, original = check_destination(destination), _read(Path(source))
    aligner = _aligner(original, vision_model)
    language_model = _language_model(original.folder / "lora_adapter", base_model)
    tokenizer = _tokenizer(base_model)
    image_processor = ViTImageProcessor() if vision_model is None else AutoImageProcessor.from_pretrained(vision_model)
    processor = aligner_processor = None
    if tokenizer is not None:
        processor = _processor(image_processor, tokenizer, aligner.config.num_query_tokens)
    if text_tokenizer is not None:
        aligner_processor = _aligner_processor(image_processor, text_tokenizer, aligner)
    model = _smolvlm(original, aligner=aligner, language_model=language_model, processor=processor)
    _save(destination, model=model, processor=processor, source=original.folder)
    _save(destination / _ALIGNER, model=aligner, processor=aligner_processor, source=original.folder)
    return model


def _read(source: Path) -> _Original:
    """The Q-Former and the layers behind it."""
    config = read_json_file(source / "qformer/config.json", _WANTED)
    text = config.get("bert_config")
    if not all(isinstance(config.get(name), int) for name in _NUMBERS) or not isinstance(text, dict):
        raise ValueError(f"{source}/qformer/config.json does not tell {[*_NUMBERS, 'bert_config']}; give {_WANTED}")
    if config["cross_every"] not in (1, 2):
        raise ValueError(
            f"cross_every is {config['cross_every']} in {source}/qformer/config.json; only checkpoints with 1 or 2 can "
            "be converted, as the original begins with another layer otherwise"
        )
    states = []
    for file in (source / "qformer/pytorch_model.bin", source / "adapter.pt"):
        state = read_torch_file(file, _WANTED)
        if not is_state_dict(state):
            raise ValueError(f"{file} holds no dictionary of tensors; give {_WANTED}")
        states.append(state)
    qformer, adapter = states
    wanted = set(_ADAPTER_NAMES.values())
    missing, unexpected = wanted - adapter.keys(), adapter.keys() - wanted
    check_weight_names(
        source / "adapter.pt",
        kind="pair of layers behind a Q-Former",
        missing=missing,
        unexpected=unexpected,
        advice=_WANTED,
    )
    return _Original(source, config, qformer, adapter)


def _aligner(original: _Original, vision_model: str | os.PathLike | None) -> QFormerAligner:
    """The Q-Former with its text side, behind an image model or none."""
    numbers, text = original.config, original.config["bert_config"]
    text_config = DistilBertConfig(**{name: text[name] for name in _TEXT_FIELDS if name in text})
    width = text_config.dim
    config = QFormerAlignerConfig(
        vision_config=(
            PrecomputedVisionConfig(hidden_size=width)
            if vision_model is None
            else load_backbone_config(vision_model, get_vision_config)
        ),
        text_config=text_config,
        num_query_tokens=numbers["n_queries"],
        num_cross_attention_heads=numbers["num_heads"],
        cross_attention_frequency=numbers["cross_every"],
        original_causal_mask=True,
    )
    aligner = QFormerAligner(config).eval()
    if aligner.vision_tower.hidden_size != width:
        raise ValueError(
            f"the tokens of {vision_model} are {aligner.vision_tower.hidden_size} wide, but the Q-Former in "
            f"{original.folder} looks at tokens of width {width}; give the image model that it was trained with"
        )
    if vision_model is not None:
        aligner.vision_tower.set_backbone(VisionTower.load_backbone(vision_model, aligner.config.vision_config))
    weights = _renamed_qformer(original, aligner)
    aligner.load_state_dict({**aligner.state_dict(), **weights})
    return aligner


def _renamed_qformer(original: _Original, aligner: QFormerAligner) -> dict[str, Tensor]:
    """The Q-Former's weights under the aligner's names, after a check of names and sizes."""
    state = {name: value for name, value in aligner.state_dict().items() if not name.startswith("vision_tower.")}
    origins = original_names(state, modules=_original_modules(len(aligner.qformer.layers)), packed=_PACKED)
    needed, found = {name for name, _ in origins.values()}, original.qformer.keys()
    file = original.folder / "qformer/pytorch_model.bin"
    check_weight_names(
        file, kind="Q-Former of its config.json", missing=needed - found, unexpected=found - needed, advice=_WANTED
    )
    return renamed_weights(file, weights=original.qformer, model=state, origins=origins, advice=_SIZES)


def _original_modules(num_layers: int) -> dict[str, str]:
    """Beginnings of the aligner's names, and what the original has in their place."""
    modules = {
        "qformer.query_tokens": "query_embeddings",
        "text_embeddings.": "embeddings.",
        "text_embeddings.norm.": "embeddings.LayerNorm.",
    }
    for layer in range(num_layers):
        ours, text, cross = f"qformer.layers.{layer}", f"encoder_layers.{layer}", f"cross_blocks.{layer}"
        for letter in "qkv":
            modules[f"{ours}.self_attention.attention.{letter}_proj."] = f"{text}.attention.{letter}_lin."
        modules |= {
            f"{ours}.self_attention.attention.out_proj.": f"{text}.attention.out_lin.",
            f"{ours}.self_attention.norm.": f"{text}.sa_layer_norm.",
            f"{ours}.feed_forward.mlp.fc1.": f"{text}.ffn.lin1.",
            f"{ours}.feed_forward.mlp.fc2.": f"{text}.ffn.lin2.",
            f"{ours}.feed_forward.norm.": f"{text}.output_layer_norm.",
            f"{ours}.image_attention.cross_attention.attention.": f"{cross}.cross_attn.",
            f"{ours}.image_attention.cross_attention.norm.": f"{cross}.layernorm.",
            f"{ours}.image_attention.feed_forward.mlp.fc1.": f"{cross}.ffn.0.",
            f"{ours}.image_attention.feed_forward.mlp.fc2.": f"{cross}.ffn.2.",
            f"{ours}.image_attention.feed_forward.norm.": f"{cross}.ln2.",
        }
    return modules


def _language_model(adapter: Path, base_model: str | os.PathLike) -> PreTrainedModel:
    """The base, with the adapter in its weights if there is one."""
    if not adapter.exists():
        return AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    trained_on = read_json_file(adapter / "adapter_config.json", _WANTED).get("base_model_name_or_path")
    if trained_on and not os.path.isdir(base_model) and Path(trained_on).name != Path(base_model).name:
        raise ValueError(
            f"the adapter in {adapter} was trained on {trained_on}, not on {base_model}; give that base, or its folder "
            "if it has another name"
        )
    names = read_safetensors_file(adapter / "adapter_model.safetensors", _WANTED).keys()
    unexpected = [name for name in names if ".lora_" not in name]
    check_weight_names(adapter, kind="LoRA", missing=[], unexpected=unexpected, advice=_WANTED)
    try:
        from vlmkit.training.adapters import load_lora
    except ImportError as error:
        raise ImportError('merging a lora_adapter needs peft: pip install "vlmkit[train]"') from error
    language_model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    return load_lora(language_model, adapter).merge_and_unload()


def _tokenizer(base_model: str | os.PathLike) -> PreTrainedTokenizerBase | None:
    """The base's tokenizer; `None` for a folder without one."""
    folder = Path(base_model)
    if folder.is_dir() and not any((folder / f"{name}.json").exists() for name in ("tokenizer", "tokenizer_config")):
        return None
    return AutoTokenizer.from_pretrained(base_model)


def _processor(
    image_processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase, num_image_tokens: int
) -> VlmkitSmolVLMProcessor:
    """The chat processor, which puts images where the original had them if the tokenizer knows the original's turns."""
    template = IMAGE_BEFORE_ANSWER if supports_chatml(tokenizer) else None
    return VlmkitSmolVLMProcessor(image_processor, tokenizer, num_image_tokens, chat_template=template)


def _aligner_processor(
    image_processor: BaseImageProcessor, text_tokenizer: str | os.PathLike, aligner: QFormerAligner
) -> QFormerAlignerProcessor:
    """The aligner's processor, after a check of the tokenizer's size."""
    tokenizer, num_rows = AutoTokenizer.from_pretrained(text_tokenizer), aligner.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_rows:
        raise ValueError(
            f"the tokenizer of {text_tokenizer} has {len(tokenizer)} tokens, but the Q-Former knows {num_rows}; give "
            "the tokenizer that it was trained with"
        )
    return QFormerAlignerProcessor(image_processor, tokenizer)


def _smolvlm(
    original: _Original,
    *,
    aligner: QFormerAligner,
    language_model: PreTrainedModel,
    processor: VlmkitSmolVLMProcessor | None,
) -> SmolVLM:
    """Join the parts."""
    num_rows = language_model.get_input_embeddings().num_embeddings
    image_token_id = num_rows if processor is None else processor.image_token_id
    if image_token_id >= num_rows:
        language_model.resize_token_embeddings(image_token_id + 1)
    text_config = copy.deepcopy(language_model.config)
    text_config._name_or_path = ""  # the weights are not from there alone
    first = copy.deepcopy(aligner.config)
    config = VlmkitSmolVLMConfig(
        vision_config=first.vision_config,
        qformer_config=first.text_config,
        text_config=text_config,
        image_token_id=image_token_id,
        num_query_tokens=first.num_query_tokens,
        num_cross_attention_heads=first.num_cross_attention_heads,
        cross_attention_frequency=first.cross_attention_frequency,
    )
    model = SmolVLM(config).eval()
    connector = model.model.connector
    layers = {name: value for name, value in connector.state_dict().items() if name.startswith("fc")}
    origins: dict[str, tuple[str, int | None]] = {name: (_ADAPTER_NAMES[name], None) for name in layers}
    advice = "give the base_model that it was trained with"
    file = original.folder / "adapter.pt"
    adapter = renamed_weights(file, weights=original.adapter, model=layers, origins=origins, advice=advice)
    connector.load_state_dict({**connector.state_dict(), **adapter})
    connector.qformer.load_state_dict(aligner.qformer.state_dict())
    model.model.language_model.load_state_dict(language_model.get_decoder().state_dict())
    model.lm_head.load_state_dict(language_model.get_output_embeddings().state_dict())
    model.model.vision_tower.set_backbone(aligner.vision_tower.backbone)
    base = language_model.generation_config
    model.generation_config = GenerationConfig(
        **{name: getattr(base, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        suppress_tokens=[image_token_id],  # a placeholder without an image
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        repetition_penalty=1.2,
        max_new_tokens=100,
    )
    return model


def _save(folder: Path, *, model: VlmkitModel, processor: VlmkitProcessor | None, source: Path) -> None:
    """Save a model, and its processor unless it is `None`."""
    model.describe(data=_CARD_DATA.format(folder=source.name))
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
