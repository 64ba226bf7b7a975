"""The command line of the converters: `python -m vlmkit.conversion dual-encoder --help`."""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser, PreTrainedModel

from vlmkit.conversion import convert_dual_encoder, convert_multimodel, convert_qformer_vlm


@dataclass
class DualEncoderArguments:
    """Convert a checkpoint of "Which side should we scale?"."""

    projection_file: str = field(metadata={"help": "checkpoints/{vision}_to_{language}.pt of the original code"})
    destination: str = field(metadata={"help": "folder to write, new or empty"})
    vision: str = field(metadata={"help": "folder or hub id of the image backbone"})
    text: str = field(metadata={"help": "folder or hub id of the text backbone"})


@dataclass
class MultiModelArguments:
    """Convert a checkpoint of MultiModel."""

    source: str = field(metadata={"help": "checkpoint.pth of the original code, or a folder in its hub's layout"})
    destination: str = field(metadata={"help": "folder to write, new or empty"})
    vision_config: str | None = field(default=None, metadata={"help": "folder or hub id; default: CLIP ViT-B/32's"})
    text_config: str | None = field(default=None, metadata={"help": "folder or hub id; default: GPT-Neo of 356M"})
    tokenizer: str | None = field(default=None, metadata={"help": "folder or hub id; default: GPT-Neo's"})


@dataclass
class QFormerVlmArguments:
    """Convert a checkpoint of vlm-training."""

    source: str = field(metadata={"help": "folder with qformer, adapter.pt and lora_adapter, as the original saves it"})
    destination: str = field(metadata={"help": "folder to write, new or empty"})
    base_model: str = field(metadata={"help": "folder or hub id of the language model that the LoRA was trained on"})
    vision_model: str | None = field(
        default=None, metadata={"help": "folder or hub id; default: none, images are given as tokens"}
    )
    text_tokenizer: str | None = field(
        default=None, metadata={"help": "folder or hub id; default: none, the aligner has no processor"}
    )


# Name, arguments and function of each command; the fields are the function's parameters.
COMMANDS: dict[str, tuple[type, Callable[..., PreTrainedModel]]] = {
    "dual-encoder": (DualEncoderArguments, convert_dual_encoder),
    "multimodel": (MultiModelArguments, convert_multimodel),
    "qformer-vlm": (QFormerVlmArguments, convert_qformer_vlm),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert a checkpoint, and tell how to load the result.

    Args:
        arguments: of the command line; those of the process if not given.

    Raises:
        SystemExit: the arguments are wrong, or the checkpoint cannot be converted; the reason is printed.
    """
    parser = ArgumentParser(
        "python -m vlmkit.conversion", description="Turn a published checkpoint into a vlmkit folder."
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
    """Print code for what was written, which is no processor where the checkpoint came without a tokenizer."""
    parts = {"model": "AutoModel"}
    if Path(folder, "processor_config.json").exists():
        parts["processor"] = "AutoProcessor"
    print(f"Wrote a {name}{' and its processor' if 'processor' in parts else ''} to {folder}. To load it:\n")
    print(f"import vlmkit\nfrom transformers import {', '.join(parts.values())}\n")
    print("\n".join(f"{part} = {auto}.from_pretrained({folder!r})" for part, auto in parts.items()))


if __name__ == "__main__":
    main()
