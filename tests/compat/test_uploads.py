from pathlib import Path

import pytest

from vlmkit.compat.uploads import UploadMixin


class Pushed:
    """As `PushToHubMixin`, which uploads the files that are in the folder."""

    def _upload_modified_files(self, working_dir, repo_id, files_timestamps, token=None):
        return repo_id, sorted(path.name for path in Path(working_dir).iterdir()), files_timestamps, token


class WithNote(UploadMixin, Pushed):
    def prepare_upload(self, folder, repo_id):
        Path(folder, "note.txt").write_text(repo_id)


def test_files_are_added_before_the_folder_is_pushed(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    pushed = WithNote()._upload_modified_files(tmp_path, "me/tiny", {"config.json": 1.0}, token="secret")
    assert pushed == ("me/tiny", ["config.json", "note.txt"], {"config.json": 1.0}, "secret")
    assert (tmp_path / "note.txt").read_text() == "me/tiny"


def test_a_subclass_must_say_what_it_adds(tmp_path):
    with pytest.raises(NotImplementedError):
        UploadMixin().prepare_upload(tmp_path, "me/tiny")
