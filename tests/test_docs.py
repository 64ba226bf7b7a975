"""The documentation tells the truth: its code runs, its commands exist, and it names everything public."""

import doctest
import importlib
import json
import os
import pkgutil
import re
import runpy
import shlex
import sys
from collections import defaultdict
from contextlib import suppress
from importlib.metadata import metadata
from pathlib import Path

import datasets
import pytest
import timm
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel, GPT2Model, LlamaForCausalLM

import vlmkit
from tests import tiny
from tests.conversion import multimodel_original, qformer_vlm_original
from tests.data.sources.flickr8k_folders import write_csv, write_images, write_lists
from vlmkit.cifar100_classes import CIFAR100_CLASSES
from vlmkit.compat.versions import TESTED_TRANSFORMERS

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
]
MODULES = [vlmkit.__name__, *(info.name for info in pkgutil.walk_packages(vlmkit.__path__, "vlmkit."))]
LIBRARY = [name for name in MODULES if not name.endswith("__main__")]  # importing it would be running it

VISION = "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"
IMAGE_SIDE, WIDTH = 32, 16


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Line number and code of each fenced block of a language."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in found]


# The code


def write_timm_model(folder: Path) -> None:
    """A ViT as timm publishes it, except for its size."""
    folder.mkdir(parents=True)
    sizes = {"img_size": IMAGE_SIDE, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_small_patch16_224", num_classes=0, **sizes)
    save_file(model.state_dict(), folder / "model.safetensors")
    preprocessing = {
        "input_size": [3, IMAGE_SIDE, IMAGE_SIDE],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    config = {
        "architecture": "vit_small_patch16_224",
        "num_classes": 0,
        "num_features": WIDTH,
        "global_pool": "token",
        "model_args": sizes,
        "pretrained_cfg": preprocessing,
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_flickr8k(folder: Path) -> None:
    """2,000 images for the protocol "paper", of which the published lists name a few."""
    folder.mkdir()
    names = [f"{number}.jpg" for number in range(2000)]
    write_images(folder / "Images", names[:36])
    for name in names[36:]:
        os.link(folder / "Images/0.jpg", folder / "Images" / name)
    words = tiny.WORDS
    write_csv(folder / "captions.txt", {name: [f"a {words[len(name)]}", f"the {name}"] for name in names})
    write_lists(folder, {"train": names[:16], "validation": names[16:26], "test": names[26:36]})


def write_cifar100(folder: Path) -> None:
    """Two images of each class to train on, one to validate with."""
    for split, per_class in (("train", 2), ("validation", 1)):
        labels = [row % 100 for row in range(100 * per_class)]
        columns = {
            "img": [tiny.photo(32, 32, seed=per_class * 1000 + row) for row in range(len(labels))],
            "fine_label": labels,
        }
        types = {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=list(CIFAR100_CLASSES))}
        folder.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns, datasets.Features(types)).to_parquet(folder / f"{split}.parquet")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder in which the hub ids, files and data sets of the pages are local folders, all of them tiny."""
    folder = tmp_path_factory.mktemp("place")
    write_timm_model(folder / VISION)
    GPT2Model(tiny.text_config()).save_pretrained(folder / "openai-community/gpt2")
    tiny.tokenizer().save_pretrained(folder / "openai-community/gpt2")
    bert = BertConfig(
        vocab_size=99, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(bert).save_pretrained(folder / "sentence-transformers/all-MiniLM-L6-v2")
    tiny.tokenizer(pad_token="<pad>").save_pretrained(folder / "sentence-transformers/all-MiniLM-L6-v2")

    clip = CLIPVisionConfig(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, image_size=IMAGE_SIDE)
    CLIPVisionModel(clip).save_pretrained(folder / "openai/clip-vit-base-patch32")
    tiny.image_processor().save_pretrained(folder / "openai/clip-vit-base-patch32")
    LlamaForCausalLM(tiny.llama_config()).save_pretrained(folder / "HuggingFaceTB/SmolLM2-135M-Instruct")
    chat = {"bos_token": "<|im_start|>", "pad_token": "<|im_end|>"}
    tiny.tokenizer(**chat).save_pretrained(folder / "HuggingFaceTB/SmolLM2-135M-Instruct")

    tiny.photo().save(folder / "photo.jpg")
    write_flickr8k(folder / "flickr8k")
    write_cifar100(folder / "cifar100")
    (folder / "checkpoints").mkdir()
    width = tiny.text_config().n_embd
    projection = {"projection.weight": torch.zeros(width, WIDTH), "projection.bias": torch.zeros(width)}
    torch.save(projection, folder / "checkpoints/vit_small_to_gpt2.pt")
    multimodel_original.write(folder, vision="openai/clip-vit-base-patch16", text="EleutherAI/gpt-neo-125m")
    qformer_vlm_original.write(folder, base="HuggingFaceTB/SmolLM-135M-Instruct")
    qformer_vlm_original.tokenizer().save_pretrained(folder / "HuggingFaceTB/SmolLM-135M-Instruct")
    qformer_vlm_original.write_vision_model(folder / "google/vit-base-patch16-224")
    tiny.tokenizer(pad_token="<pad>").save_pretrained(folder / "distilbert/distilbert-base-uncased")
    return folder


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=page_id)
def test_code_runs(page, place, tmp_path, monkeypatch):
    for entry in place.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    namespace: dict[str, object] = {"__name__": "page"}
    for line, code in blocks(page, "python"):
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("name", LIBRARY)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


# The commands


def commands(page: Path) -> list[list[str]]:
    """Words of each shell command of a page."""
    lines = [line for _, code in blocks(page, "bash") for line in code.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


def used_flags() -> dict[str, set[str]]:
    """The flags that any page gives to a script of the project, or to a module after `-m`."""
    flags: dict[str, set[str]] = defaultdict(set)
    for _, words in COMMANDS:
        for position, word in enumerate(words):
            if word.endswith(".py") or word == "vlmkit.conversion":
                flags[word] |= {later for later in words[position:] if later.startswith("--")}
    return {script: names for script, names in flags.items() if names}


def run_with_help(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if script == "vlmkit.conversion":
        for converter in ("dual-encoder", "multimodel", "qformer-vlm"):
            monkeypatch.setattr(sys, "argv", [script, converter, "--help"])
            with suppress(SystemExit):
                runpy.run_module(script, run_name="__main__", alter_sys=True)
        raise SystemExit
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.syspath_prepend(ROOT / Path(script).parent)
    runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize(("script", "flags"), used_flags().items(), ids=used_flags())
def test_flags_of_the_commands_exist(script, flags, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_with_help(script, monkeypatch)
    for neighbour in (ROOT / Path(script).parent).glob("*.py"):  # other folders have a `common` too
        sys.modules.pop(neighbour.stem, None)
    known = set(re.findall(r"--\w+", capsys.readouterr().out))
    assert flags <= known


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=lambda value: page_id(value) if isinstance(value, Path) else ""
)
def test_files_targets_and_extras_of_the_commands_exist(page, words):
    for word in words:
        if word.startswith(("examples/", "benchmarks/")) or word.startswith("constraints"):
            assert (ROOT / word).is_file(), word
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words[1]
    extras = metadata("vlmkit").get_all("Provides-Extra")
    for wanted in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(wanted.split(",")) <= set(extras)


@pytest.mark.parametrize("path", sorted((ROOT / "examples/accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_accepts_its_files(path):
    config = load_config_from_file(str(path))
    fsdp2, multi_node = path.stem.startswith("fsdp2"), path.stem.endswith("multi_node")
    assert config.distributed_type == (DistributedType.FSDP if fsdp2 else DistributedType.MULTI_GPU)
    assert (config.num_machines, config.num_processes) == ((2, 16) if multi_node else (1, 8))
    assert config.mixed_precision == "bf16"
    # accelerate does not look at the names in here, but hands them on as flags.
    options = config.fsdp_config or {}
    assert options.keys() <= vars(launch_command_parser().parse_args(["train.py"])).keys()
    assert options.get("fsdp_version") == (2 if fsdp2 else None)


# The names and links


def exported(name: str) -> dict[str, object]:
    """The public names of a module: those in `__all__`, else what it defines itself."""
    module = importlib.import_module(name)
    if hasattr(module, "__all__"):
        return {item: getattr(module, item) for item in module.__all__ if not item.startswith("__")}
    return {k: v for k, v in vars(module).items() if getattr(v, "__module__", None) == name and not k.startswith("_")}


def resolve(name: str) -> object:
    """The object with a dotted name, such as `vlmkit.data.load_flickr8k`. A function hides a module of its name."""
    parent, _, attribute = name.rpartition(".")
    return getattr(resolve(parent), attribute, None) or pkgutil.resolve_name(name) if parent else vlmkit


def documented() -> list[object]:
    """What the API pages describe: all names of a module, or single ones."""
    pages = "\n".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
    modules = re.findall(r"automodule:: ([\w.]+)\n +:members:", pages)
    single = re.findall(r"(?:auto(?:class|data|function)|py:data):: ([\w.]+)", pages)
    return [*(value for name in modules for value in exported(name).values()), *map(resolve, single)]


def test_every_public_name_is_on_an_api_page():
    described = documented()
    assert described
    for module in LIBRARY:
        if hasattr(importlib.import_module(module), "__all__") and not module.startswith("vlmkit.compat"):
            names = exported(module).items()
            missing = [name for name, value in names if not any(value is other for other in described)]
            assert not missing, f"{module}: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_names_within_vlmkit_exist(page):
    for name in set(re.findall(r"\bvlmkit(?:\.\w+)+", page.read_text(encoding="utf-8"))) - {"vlmkit.md"}:
        assert resolve(name) is not None, name


@pytest.mark.parametrize("page", ["README.md", "docs/installation.md"])
def test_installation_names_the_tested_versions(page):
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert f"tested with {'transformers ' if page != 'README.md' else ''}{' and '.join(TESTED_TRANSFORMERS)}" in text
    python = re.findall(r"Programming Language :: Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert f"Python {python[0]} to {python[-1]}" in text


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_pictures_have_alternative_text(page):
    for text in re.findall(r"!\[([^\]]*)\]\(", page.read_text(encoding="utf-8")):
        assert text.strip()
        assert "\n" not in text  # sphinx would join the lines without a space


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if "://" not in link and not link.startswith("#"):
            assert (page.parent / link.partition("#")[0]).exists(), link
