"""Sphinx configuration: MyST pages, and API pages made from the docstrings."""

import re
from typing import Any

import vlmkit
from vlmkit.base import VlmkitConfig

project = "vlmkit"
author = "The vlmkit authors"
copyright = "The vlmkit authors"
release = version = vlmkit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
# What transformers and huggingface_hub add to every class, or read from it.
autodoc_default_options = {"exclude-members": "config_class, valid_processor_kwargs, validate"}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_use_rtype = False
napoleon_use_ivar = True  # a property described under Attributes appears once
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"vlmkit {release}"

_CODE = re.compile(r"\[`(?P<reference>[\w.]+)`\]|`(?P<literal>[^`]+)`")


def markdown_to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn the docstrings' [`Name`] into links and their `code` into literals."""
    text = "\n".join(lines)
    lines[:] = _CODE.sub(
        lambda m: f":py:obj:`.{m['reference']}`" if m["reference"] else f"``{m['literal']}``", text
    ).split("\n")


def own_fields_only(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Leave the fields that every transformers configuration has out of a configuration's signature."""
    if what == "class" and issubclass(obj, VlmkitConfig):
        return "(*, " + signature.partition("*, ")[2], returns
    return None


def setup(app: Any) -> None:
    """Run before napoleon, which has the default priority of 500."""
    app.connect("autodoc-process-signature", own_fields_only)
    app.connect("autodoc-process-docstring", markdown_to_rst, priority=400)
