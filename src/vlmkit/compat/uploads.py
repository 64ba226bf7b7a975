"""Adding files to a folder before transformers pushes it to the Hub.

`save_pretrained(push_to_hub=True)` and `push_to_hub` upload a temporary folder through the private method
`_upload_modified_files`, in every supported release. There is no public hook.
"""

import os
from typing import Any


class UploadMixin:
    """Mixin of classes with `push_to_hub` that calls `prepare_upload` before the folder is pushed."""

    def prepare_upload(self, folder: str | os.PathLike, repo_id: str) -> None:
        """Write additional files into the folder. Subclasses implement this method."""
        raise NotImplementedError

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        self.prepare_upload(working_dir, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)  # type: ignore[misc]
