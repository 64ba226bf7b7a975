"""Results that must not depend on the process, such as the keys of caches."""

import json

from tests.data.sources.flickr8k_folders import write_csv, write_images, write_lists
from tests.subprocesses import run_python

from vlmkit.data import caption_chat, load_flickr8k

COMPUTE = """
import json, sys
from tests.data.test_other_processes import fingerprints, requests
print(json.dumps({"fingerprints": fingerprints(sys.argv[1]), "requests": requests()}))
"""


def fingerprints(folder) -> list[str]:
    return [table._fingerprint for table in load_flickr8k(folder).values()]


def requests() -> list[str]:
    """Return the request for a caption in conversations of 60 images."""
    rows = [{"image_id": f"{number}.jpg", "captions": ["x"], "vision_features": [[0.0]]} for number in range(60)]
    return [caption_chat(row)["messages"][0]["content"][-1]["text"] for row in rows]


def test_fingerprints_and_requests_are_the_same_in_another_process(tmp_path):
    names = [f"{number}.jpg" for number in range(6)]
    write_images(tmp_path / "Images", names)
    write_csv(tmp_path / "captions.txt", {name: [f"caption of {name}"] for name in names})
    write_lists(tmp_path, {"train": names[:2], "validation": names[2:4], "test": names[4:]})
    other = json.loads(run_python("-c", COMPUTE, tmp_path))
    assert other == {"fingerprints": fingerprints(tmp_path), "requests": requests()}
