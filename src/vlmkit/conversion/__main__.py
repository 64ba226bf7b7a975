"""The command line of the converters: `python -m vlmkit.conversion dual-encoder --help`."""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transformers import HfArgumentParser, PreTrainedModel

from vlmkit.conversion import convert_dual_encoder, convert_multimodel


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


# Name, arguments and function of each command; the fields are the function's parameters.
COMMANDS: dict[str, tuple[type, Callable[..., PreTrainedModel]]] = {
    "dual-encoder": (DualEncoderArguments, convert_dual_encoder),
    "multimodel": (MultiModelArguments, convert_multimodel),
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
    except (OSError, ValueError) as error:
        parser.exit(status=1, message=f"{error}\n")
    folder = options["destination"]
    print(f"Wrote a {type(model).__name__} and its processor to {folder}. To load it:\n")
    print("import vlmkit\nfrom transformers import AutoModel, AutoProcessor\n")
    print(f"model = AutoModel.from_pretrained({folder!r})\nprocessor = AutoProcessor.from_pretrained({folder!r})")


if __name__ == "__main__":
    main()
