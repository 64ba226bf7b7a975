"""Command line of the converters: `python -m vlmkit.conversion dual-encoder --help`."""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser, PreTrainedModel

from vlmkit.conversion import convert_dual_encoder, convert_multimodel, convert_qformer_vlm


@dataclass
class DualEncoderArguments:
    """Convert a checkpoint of "Which side should we scale?"."""

    projection_file: str = field(metadata={"help": "File checkpoints/{vision}_to_{language}.pt."})
    destination: str = field(metadata={"help": "Output folder, which must be new or empty."})
    vision: str = field(metadata={"help": "Folder or Hub id of the image backbone."})
    text: str = field(metadata={"help": "Folder or Hub id of the text backbone."})


@dataclass
class MultiModelArguments:
    """Convert a checkpoint of MultiModel."""

    source: str = field(metadata={"help": "File checkpoint.pth, or a folder with safetensors files."})
    destination: str = field(metadata={"help": "Output folder, which must be new or empty."})
    vision_config: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the image backbone. Default: CLIP ViT-B/32."}
    )
    text_config: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of the language model. Default: GPT-Neo with 356M parameters."},
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the tokenizer. Default: EleutherAI/gpt-neo-125m."}
    )


@dataclass
class QFormerVlmArguments:
    """Convert a checkpoint of vlm-training."""

    source: str = field(metadata={"help": "Folder with qformer, adapter.pt and lora_adapter."})
    destination: str = field(metadata={"help": "Output folder, which must be new or empty."})
    base_model: str = field(metadata={"help": "Folder or Hub id of the language model that LoRA adapts."})
    vision_model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the image model. Default: none, for cached features."}
    )
    text_tokenizer: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of the Q-Former's tokenizer. Default: none, without an aligner processor."},
    )


# Maps a command to its arguments and its function. The fields of the arguments are the parameters of the function.
COMMANDS: dict[str, tuple[type, Callable[..., PreTrainedModel]]] = {
    "dual-encoder": (DualEncoderArguments, convert_dual_encoder),
    "multimodel": (MultiModelArguments, convert_multimodel),
    "qformer-vlm": (QFormerVlmArguments, convert_qformer_vlm),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert a checkpoint, and print code that loads the result.

    Args:
        arguments: Command-line arguments. Defaults to `sys.argv[1:]`.

    Raises:
        SystemExit: If the arguments are invalid or the checkpoint cannot be converted. The reason is printed.
    """
    parser = ArgumentParser(
        "python -m vlmkit.conversion",
        description="Convert a checkpoint of an original system to a folder for from_pretrained.",
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=HfArgumentParser)
    for name, (fields, _) in COMMANDS.items():
        commands.add_parser(name, dataclass_types=fields, description=fields.__doc__, help=fields.__doc__)
    options = vars(parser.parse_args(arguments))
    _, convert = COMMANDS[options.pop("command")]
    try:
        model = convert(**options)
    except (ImportError, OSError, ValueError) as error:
        parser.exit(status=1, message=f"{error}\n")
    _print_loading_code(type(model).__name__, options["destination"])


def _print_loading_code(name: str, folder: str) -> None:
    """Print code that loads the saved model, and its processor if the checkpoint had a tokenizer."""
    parts = {"model": "AutoModel"}
    if Path(folder, "processor_config.json").exists():
        parts["processor"] = "AutoProcessor"
    print(f"Wrote a {name}{' and its processor' if 'processor' in parts else ''} to {folder}. To load it:\n")
    print(f"import vlmkit\nfrom transformers import {', '.join(parts.values())}\n")
    print("\n".join(f"{part} = {auto}.from_pretrained({folder!r})" for part, auto in parts.items()))


if __name__ == "__main__":
    main()
