"""The loading shim of a vlmkit checkpoint.

transformers finds a class that it does not know through `auto_map`, which names a Python file next to the weights. That
file is a shim that imports vlmkit, so `AutoModel.from_pretrained(..., trust_remote_code=True)` works without
`import vlmkit`. Once vlmkit is imported, the installed classes take precedence and no trust is needed.
"""

import os
from pathlib import Path
from typing import Any, ClassVar

from vlmkit.compat.uploads import UploadMixin

SHIM_NAME = "vlmkit_shim"

_SHIM = '''"""Finds the classes of this checkpoint in the installed vlmkit package."""

try:
    from vlmkit import {names}
except ImportError as error:
    raise ImportError("This checkpoint needs vlmkit. Run `pip install vlmkit`.") from error
'''


class ShimMixin(UploadMixin):
    """Mixin of configurations and processors that write `auto_map` and the shim when they are saved.

    Attributes:
        shim_map: Maps each Auto class to `vlmkit_shim.<class>`. [`vlmkit.registration`] sets it.
    """

    shim_map: ClassVar[dict[str, str]]

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """Save the files as transformers does, and write the shim."""
        # With push_to_hub, transformers requires a string.
        result = super().save_pretrained(os.fspath(save_directory), *args, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_main_process", True):
            self._write_shim(save_directory)
        return result

    def prepare_upload(self, folder: str | os.PathLike, repo_id: str) -> None:
        """Write the shim into a folder that is about to be pushed."""
        self._write_shim(folder)

    def _write_shim(self, folder: str | os.PathLike) -> None:
        names = sorted(reference.partition(".")[2] for reference in set(self.shim_map.values()))
        Path(folder, f"{SHIM_NAME}.py").write_text(_SHIM.format(names=", ".join(names)), encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Return the dictionary that is saved, which includes `auto_map`."""
        return {**super().to_dict(), "auto_map": self.shim_map}  # type: ignore[misc]

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Do nothing: transformers would copy the source files of this package into the checkpoint."""
