"""Filter a list of captions and URLs, print a command that downloads the images, and check the downloaded shards.

    python examples/smolvlm/prepare_conceptual_captions.py --source Train_GCC-training.tsv --output cc3m.tsv
    python examples/smolvlm/prepare_conceptual_captions.py --check cc3m

The first run prints an img2dataset command, which has to be run before the second. The source is the published TSV file
without a header, a .tsv or .csv file with a header, a .parquet file, or any dataset for `datasets.load_dataset`.
"""

import csv
import io
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import load_dataset
from datasets.utils import tqdm
from PIL import Image

from vlmkit.data.sources.faults import Faults
from vlmkit.data.sources.web_shard_layouts import find_shards, shard_name
from vlmkit.data.sources.web_shards import read_shard
from vlmkit.training import parse_arguments

DELIMITERS = {".tsv": "\t", ".csv": ","}
MALFORMED = "malformed row"
ROWS_AT_ONCE = 10_000  # size of a row group in Parquet
URL = re.compile(r"https?://[^\s/]+\S*", re.IGNORECASE)

Row = tuple[str, str]  # caption and URL


@dataclass
class PrepareArguments:
    """Source, filters and settings of the download."""

    source: str | None = field(default=None, metadata={"help": "List of captions and URLs: a file, folder or hub id."})
    output: str = field(
        default="conceptual_captions.tsv", metadata={"help": "File of the filtered list, .tsv or .parquet."}
    )
    check: str | None = field(default=None, metadata={"help": "Downloaded shards to check, instead of --source."})
    caption_column: str = field(default="caption", metadata={"help": "Caption column of a source with a header."})
    url_column: str = field(default="url", metadata={"help": "URL column of a source with a header."})
    min_words: int = 1
    max_words: int | None = None
    max_repeats: int | None = field(default=None, metadata={"help": "Maximum number of rows with the same caption."})
    max_rows: int | None = field(
        default=None, metadata={"help": "Maximum number of rows to keep, or to read with --check."}
    )
    output_folder: str = field(default="cc3m", metadata={"help": "Folder of the downloaded images."})
    image_size: int = field(
        default=256, metadata={"help": "Length of the shorter image side in pixels. Smaller images are not enlarged."}
    )
    processes: int = field(default=os.cpu_count() or 1, metadata={"help": "Number of download processes."})
    threads: int = field(default=64, metadata={"help": "Number of threads per download process."})
    num_shown: int = field(default=5, metadata={"help": "Number of rows and of errors printed by --check."})


@dataclass
class Report:
    """Number of kept rows, and number of dropped rows by reason.

    Attributes:
        rows: Number of kept rows.
        words: Number of words in the kept captions.
        dropped: Number of dropped rows by reason.
    """

    rows: int = 0
    words: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def keep(self, caption: str) -> None:
        """Count a kept row."""
        self.rows += 1
        self.words += len(caption.split())

    def show(self, name: str) -> None:
        """Print the counts.

        Raises:
            SystemExit: If no row was kept.
        """
        print(
            f"{name}: {self.rows:,} rows" + (f", {self.words / self.rows:.1f} words per caption" if self.rows else "")
        )
        for reason, count in self.dropped.most_common():
            print(f"{count:>12,} dropped: {reason}")
        if not self.rows:
            raise SystemExit(f"{name} contains no valid rows.")


def main() -> None:
    """Filter a list, or check downloaded shards."""
    [arguments] = parse_arguments(PrepareArguments)
    if (arguments.source is None) == (arguments.check is None):
        raise SystemExit(
            "Exactly one of `--source` and `--check` must be set. Pass a list of captions and URLs as `--source`, or a "
            "folder of downloaded shards as `--check`."
        )
    if arguments.source is None:
        check(arguments)
    else:
        prepare(arguments)


# Filtering


def prepare(arguments: PrepareArguments) -> None:
    """Filter the rows as a stream, and print the counts and the download command.

    Raises:
        SystemExit: If the output file exists or has an unknown extension, or no row is kept.
    """
    output, report = Path(arguments.output), Report()
    if output.suffix not in (".tsv", ".parquet"):
        raise SystemExit(f"`--output` must end in .tsv or .parquet, but got {output}.")
    if output.exists():
        raise SystemExit(f"The output file {output} already exists. Delete it, or choose another `--output`.")
    rows = tqdm(read_rows(arguments, report), desc="Filtering", unit="row", delay=2)
    kept = islice(filtered(rows, arguments, report), arguments.max_rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f"{output.name}.part")
    if output.suffix == ".tsv":
        write_tsv(unfinished, kept)
    else:
        write_parquet(unfinished, kept)
    report.show(str(output))
    unfinished.replace(output)
    print(f"\nNext step, after pip install img2dataset:\n\n{download_command(arguments)}")


def read_rows(arguments: PrepareArguments, report: Report) -> Iterator[Row]:
    """Iterate over the rows of the source.

    Raises:
        SystemExit: If the source does not exist or a column is missing.
    """
    source, columns = str(arguments.source), (arguments.caption_column, arguments.url_column)
    path = Path(source).expanduser()
    if path.suffix in (*DELIMITERS, ".parquet") and not path.is_file():
        raise SystemExit(f"`--source` must be an existing file, but got {source}.")
    if path.suffix in DELIMITERS:
        return text_rows(path, columns, report)
    if path.suffix == ".parquet":
        return table_rows(load_dataset("parquet", data_files=str(path), split="train", streaming=True), columns, source)
    return table_rows(load_dataset(source, split="train", streaming=True), columns, source)


def text_rows(path: Path, columns: Row, report: Report) -> Iterator[Row]:
    """Iterate over the rows of a text file.

    Files with a header follow the CSV quoting rules. The published file has no header and no quoting.
    """
    delimiter = DELIMITERS[path.suffix]
    # Invalid UTF-8 becomes surrogates, which `find_error` detects.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        first = file.readline()
        header = next(csv.reader([first], delimiter=delimiter), [])
        if set(columns) <= set(header):
            places = [header.index(column) for column in columns]
            fields = csv.reader(file, delimiter=delimiter)
        elif path.suffix == ".csv":
            raise SystemExit(missing_columns(str(path), header, columns))
        else:  # quotation marks are part of the captions of the published file
            places, header = [0, 1], ["caption", "url"]
            fields = (line.rstrip("\r\n").split(delimiter) for line in chain([first], file))
        for row in fields:
            if len(row) == len(header):
                yield row[places[0]], row[places[1]]
            else:
                report.dropped[MALFORMED] += 1


def table_rows(table: Iterable[dict[str, Any]], columns: Row, source: str) -> Iterator[Row]:
    """Iterate over the rows of a table of `datasets`."""
    for row in table:
        if not set(columns) <= row.keys():
            raise SystemExit(missing_columns(source, list(row), columns))
        caption, url = (row[column] for column in columns)
        yield str(caption or ""), str(url or "")


def missing_columns(source: str, found: list[str], columns: Row) -> str:
    """Return an error message about missing columns."""
    expected = list(columns)
    return f"{source} must contain the columns {expected}, but got {found}. Set `--caption_column` and `--url_column`."


def filtered(rows: Iterable[Row], arguments: PrepareArguments, report: Report) -> Iterator[Row]:
    """Iterate over the valid rows, with normalized white space.

    Previous URLs and captions are stored as 64-bit hashes.
    """
    urls: set[int] = set()
    repeats: Counter[int] = Counter()
    for caption, url in rows:
        caption, url = " ".join(caption.split()), url.strip()
        reason = find_error(caption, url, arguments)
        if reason is None and hash(url) in urls:
            reason = "repeated URL"
        if reason is None and arguments.max_repeats is not None:
            repeats[hash(caption)] += 1
            if repeats[hash(caption)] > arguments.max_repeats:
                reason = f"caption repeated more than {arguments.max_repeats} times"
        if reason is not None:
            report.dropped[reason] += 1
            continue
        urls.add(hash(url))
        report.keep(caption)
        yield caption, url


def find_error(caption: str, url: str, arguments: PrepareArguments) -> str | None:
    """Return the reason why a single row is invalid, or `None`."""
    num_words = len(caption.split())
    if not (caption + url).isascii():
        try:
            (caption + url).encode()
        except UnicodeEncodeError:
            return MALFORMED
    if not caption:
        return "empty caption"
    if num_words < arguments.min_words:
        return f"fewer than {arguments.min_words} words"
    if arguments.max_words is not None and num_words > arguments.max_words:
        return f"more than {arguments.max_words} words"
    return None if URL.fullmatch(url) else "not an http or https URL"


def write_tsv(path: Path, rows: Iterable[Row]) -> None:
    """Write a header and the rows, with quotes where necessary."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["caption", "url"])
        writer.writerows(rows)


def write_parquet(path: Path, rows: Iterator[Row]) -> None:
    """Write the rows in row groups."""
    schema = pyarrow.schema({"caption": pyarrow.string(), "url": pyarrow.string()})
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            columns = zip(*batch, strict=True)
            writer.write_table(pyarrow.table(dict(zip(schema.names, columns, strict=True)), schema=schema))


def download_command(arguments: PrepareArguments) -> str:
    """Return the command that downloads the list into tar shards, with the flags of img2dataset 1.47."""
    flags = {
        "url_list": arguments.output,
        "input_format": Path(arguments.output).suffix[1:],
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "output_folder": arguments.output_folder,
        "image_size": arguments.image_size,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "number_sample_per_shard": 10_000,
        "processes_count": arguments.processes,
        "thread_count": arguments.threads,
    }
    return " \\\n    ".join(["img2dataset", *(f"--{name} {shlex.quote(str(value))}" for name, value in flags.items())])


# Checking


class CountedFaults(Faults):
    """Count invalid rows and print the first ones.

    Args:
        report: Report that counts the errors.
        num_shown: Number of errors to print.
    """

    def __init__(self, report: Report, num_shown: int):
        super().__init__("skip")
        self.report, self.num_shown = report, num_shown

    def add(self, kind: str, message: str, error: type[Exception] = ValueError) -> None:
        """Count an invalid row."""
        if self.report.dropped.total() < self.num_shown:
            print(f"dropped: {message}")
        self.report.dropped[kind] += 1


def check(arguments: PrepareArguments) -> None:
    """Read all shards and print the counts.

    Raises:
        SystemExit: If no shards exist or they contain no valid rows.
    """
    try:
        shards = find_shards(arguments.check)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(f"{len(shards):,} shards")
    report = Report()
    faults = CountedFaults(report, arguments.num_shown)
    rows = chain.from_iterable(read_shard(shard, faults) for shard in shards)
    for row in islice(tqdm(rows, desc="Checking", unit="row", delay=2), arguments.max_rows):
        [caption] = row["captions"]
        if report.rows < arguments.num_shown:
            width, height = Image.open(io.BytesIO(row["image"]["bytes"])).size
            print(f"{row['image_id']}  {width} x {height}  {caption}")
        report.keep(caption)
    show_downloads(shards)
    report.show(str(arguments.check))


def show_downloads(shards: Iterable[Path]) -> None:
    """Print the number of downloaded images, if the statistics of img2dataset exist."""
    files = [shard.parent.parent / f"{shard_name(shard)}_stats.json" for shard in shards]
    stats = [json.loads(file.read_bytes()) for file in files if file.exists()]
    if stats:
        attempted, downloaded = (sum(shard[name] for shard in stats) for name in ("count", "successes"))
        print(f"{downloaded:,} of {attempted:,} images were downloaded")


if __name__ == "__main__":
    main()
