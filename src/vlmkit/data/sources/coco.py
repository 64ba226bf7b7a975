"""Loader of captions in the formats of COCO."""

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
    """Load captions in the formats of COCO, with one row per image.

    The source is one of

    - a folder with Karpathy's `dataset_coco.json` and the image folders `train2014` and `val2014`. It has Karpathy's
      splits train (including "restval"), validation and test.
    - a folder with `annotations/captions_train2017.json`, `annotations/captions_val2017.json`, `train2017` and
      `val2017`, or the same files of 2014. It has the splits train and validation, or one of them.
    - a captions file (`.json`) and its `image_folder`. It has the split train, or Karpathy's splits if the file is
      `dataset_coco.json`.
    - another folder or a Hub id, loaded by `datasets.load_dataset`. Its tables need a column `image`, and the captions
      in `captions`, `caption`, `text`, or numbered columns such as `caption_0`. They may have one row per caption if a
      column `image_id`, `filename`, `file_name` or `image_name` identifies the image.

    The function reads all captions and decodes all images once to validate them. Repeated captions of an image are
    kept. Local images are stored as paths, and replacing a file changes the fingerprint of the table.

    Args:
        path_or_hub_id: Folder, captions file or Hub id.
        image_folder: Folder that the file names in the captions file are relative to. Required for a captions file,
            and not allowed otherwise.
        max_images: Maximum number of images per split. The first images of the file are kept, and the others are not
            decoded and may be missing. Invalid images are not replaced by others. Defaults to all images.
        on_error: `"raise"` raises an exception for invalid data: an empty caption, a malformed entry, an annotation
            that is listed twice or belongs to an unknown image, or an image that is missing, cannot be decoded, has no
            caption or is listed twice. `"skip"` drops invalid data and issues one warning with the counts.

    Returns:
        A `DatasetDict` whose tables have the columns `image`, `captions` (a list of strings) and `image_id`, the file
        name for local files.

    Raises:
        FileNotFoundError: If the data set does not exist, or a captions file, an image folder or an image is missing.
        ValueError: If an option is unknown, `image_folder` is missing for a captions file or given for another source,
            a file has another format, the data are invalid, or a split does not have any valid images.

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
    listed = _list_images(source, image_folder, faults)
    if listed is None:
        images, splits = load_image_table(source, faults=faults, repeats=True)
        splits = {split: photos[:max_images] for split, photos in splits.items()}
    else:
        images, splits = build_image_table({split: photos[:max_images] for split, photos in listed.items()}, faults)
    splits = select_usable_photos(images, splits=splits, faults=faults)
    faults.report(source)
    return build_caption_tables(images, splits=splits, source=source)


def _list_images(source: str, image_folder: str | Path | None, faults: Faults) -> dict[str, list[ListedImage]] | None:
    """List the images of each split of a captions file or COCO folder. Return `None` for other sources."""
    path = Path(source).expanduser().resolve()
    if path.suffix == ".json":
        if image_folder is None:
            raise ValueError(
                f"`image_folder` is required for the captions file {source}. Pass the folder of its images."
            )
        return read_coco_file(path, image_folder=Path(image_folder).expanduser().resolve(), faults=faults)
    if image_folder is not None:
        raise ValueError(f"`image_folder` must be `None`, because {source} is not a captions file (.json). Remove it.")
    return read_coco_folder(path, faults) if is_coco_folder(path) else None
