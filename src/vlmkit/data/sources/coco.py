"""COCO's captions, from local files or the hub, as tables of one row per image."""

from pathlib import Path
from typing import Literal

from datasets import DatasetDict

from vlmkit.data.sources.caption_tables import (
    ListedImage,
    build_caption_tables,
    build_image_table,
    load_image_table,
    select_usable_photos,
)
from vlmkit.data.sources.coco_layouts import is_coco_folder, read_coco_file, read_coco_folder
from vlmkit.data.sources.faults import Faults
from vlmkit.validation import check_at_least


def load_coco_captions(
    path_or_hub_id: str | Path,
    *,
    image_folder: str | Path | None = None,
    max_images: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> DatasetDict:
    """Load captions in COCO's formats as one row per image: `image`, `captions` (a list) and `image_id`, a string.

    What is loaded is one of

    - a folder with Karpathy's `dataset_coco.json` and the image folders `train2014` and `val2014`: his splits train
      (with what he calls restval), validation and test;
    - a folder with `annotations/captions_train2017.json`, `annotations/captions_val2017.json` and the image folders
      `train2017` and `val2017`, else the same of 2014: the splits train and validation, or the one that is there;
    - any captions file in COCO's format, a `.json`, with the `image_folder` that each `file_name` in it refers to: one
      split, train. Karpathy's file has his splits in this way, too;
    - a hub id or a folder that `datasets.load_dataset` reads, with a column `image` and the captions in `captions`,
      `caption`, `text`, or `caption_0`, `caption_1`, ...; it may hold one row per caption if a column `image_id` or
      `filename` tells the image.

    `image_id` is the file's name. All captions are read and all images decoded before the function returns; an image
    may have the same caption twice, as some do. Images of files are stored as paths; a file that is replaced changes
    the table's fingerprint, so that caches keyed by it notice.

    Args:
        path_or_hub_id: a folder, a captions file or a hub id.
        image_folder: where the images are; needed for a captions file, not allowed otherwise.
        max_images: keeps the first images of each split, in the order of the file; the others are not decoded and may
            be absent. Faulty ones among the first are not replaced. All images if not given.
        on_error: "raise" stops at the first fault (an empty caption, a malformed entry, an annotation of an unknown
            image, an image that is absent, cannot be decoded, has no caption or is listed twice); "skip" drops what is
            faulty, with one warning that counts it.

    Raises:
        FileNotFoundError: there is no data set; or a captions file, an image folder or an image is absent.
        ValueError: an unknown option, `image_folder` without a captions file or the reverse, a file that is not of its
            kind, a fault (the message names file and annotation, or the image), or no image left in a split.

    References:
        Chen et al., "Microsoft COCO Captions: Data Collection and Evaluation Server" (arXiv:1504.00325);
        Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions" (arXiv:1412.2306).

    Example:
        >>> import json, tempfile, PIL.Image
        >>> directory = tempfile.TemporaryDirectory()
        >>> folder = Path(directory.name)
        >>> PIL.Image.new("RGB", (8, 8)).save(folder / "night.jpg")
        >>> content = {
        ...     "images": [{"id": 7, "file_name": "night.jpg"}],
        ...     "annotations": [{"id": 1, "image_id": 7, "caption": "A dark night."}],
        ... }
        >>> _ = (folder / "captions.json").write_text(json.dumps(content))
        >>> load_coco_captions(folder / "captions.json", image_folder=folder)["train"].remove_columns("image")[0]
        {'captions': ['A dark night.'], 'image_id': 'night.jpg'}
    """
    check_at_least("max_images", max_images)
    faults = Faults(on_error)
    source = str(path_or_hub_id)
    listed = _listed(source, image_folder, faults)
    if listed is None:
        images, splits = load_image_table(source, faults=faults, repeats=True)
        splits = {split: photos[:max_images] for split, photos in splits.items()}
    else:
        images, splits = build_image_table({split: photos[:max_images] for split, photos in listed.items()}, faults)
    splits = select_usable_photos(images, splits=splits, faults=faults)
    faults.report(source)
    return build_caption_tables(images, splits=splits, source=source)


def _listed(source: str, image_folder: str | Path | None, faults: Faults) -> dict[str, list[ListedImage]] | None:
    """The images of a captions file or a folder by split; None of anything else."""
    path = Path(source).expanduser().resolve()
    if path.suffix == ".json":
        if image_folder is None:
            raise ValueError(f"{source} is a captions file; tell where its images are, image_folder=...")
        return read_coco_file(path, image_folder=Path(image_folder).expanduser().resolve(), faults=faults)
    if image_folder is not None:
        raise ValueError(f"image_folder goes with a captions file, and {source} is no .json; leave it out")
    return read_coco_folder(path, faults) if is_coco_folder(path) else None
