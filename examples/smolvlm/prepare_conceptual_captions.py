"""Filter a list of captions and URLs, tell how to download the images, and check what was downloaded.

    python examples/smolvlm/prepare_conceptual_captions.py --source Train_GCC-training.tsv --output cc3m.tsv
    python examples/smolvlm/prepare_conceptual_captions.py --check cc3m

Between the two runs the img2dataset command that the first one prints. The source is the published TSV, which has no
header, a .tsv or .csv that has one, a .parquet, or anything else that `datasets.load_dataset` reads.
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
ROWS_AT_ONCE = 10_000  # in a row group of Parquet
URL = re.compile(r"https?://[^\s/]+\S*", re.IGNORECASE)

Row = tuple[str, str]  # caption and URL


@dataclass
class PrepareArguments:
    """What is read, what is kept of it, and how it will be downloaded."""

    source: str | None = field(default=None, metadata={"help": "list of captions and URLs: a file, folder or hub id"})
    output: str = field(default="conceptual_captions.tsv", metadata={"help": "filtered list, .tsv or .parquet"})
    check: str | None = field(default=None, metadata={"help": "in place of --source: downloaded shards"})
    caption_column: str = field(default="caption", metadata={"help": "where the source has a header"})
    url_column: str = field(default="url", metadata={"help": "where the source has a header"})
    min_words: int = 1
    max_words: int | None = None
    max_repeats: int | None = field(default=None, metadata={"help": "rows that are kept of those with one caption"})
    max_rows: int | None = field(default=None, metadata={"help": "stop when so many are kept, or read by --check"})
    output_folder: str = field(default="cc3m", metadata={"help": "of the images that will be downloaded"})
    image_size: int = field(default=256, metadata={"help": "their shorter side in pixels; none is enlarged"})
    processes: int = field(default=os.cpu_count() or 1, metadata={"help": "of the download"})
    threads: int = field(default=64, metadata={"help": "of each of these processes"})
    num_shown: int = field(default=5, metadata={"help": "rows, and faults, that --check shows"})


@dataclass
class Report:
    """What was kept, and how much was dropped for which reason."""

    rows: int = 0
    words: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def keep(self, caption: str) -> None:
        """Count a row."""
        self.rows += 1
        self.words += len(caption.split())

    def show(self, name: str) -> None:
        """Print the counts.

        Raises:
            SystemExit: nothing was kept.
        """
        print(
            f"{name}: {self.rows:,} rows" + (f", {self.words / self.rows:.1f} words per caption" if self.rows else "")
        )
        for reason, count in self.dropped.most_common():
            print(f"{count:>12,} dropped: {reason}")
        if not self.rows:
            raise SystemExit(f"{name} has no row left")


def main() -> None:
    """Prepare or check."""
    [arguments] = parse_arguments(PrepareArguments)
    if (arguments.source is None) == (arguments.check is None):
        raise SystemExit("give either --source, a list of captions and URLs, or --check, a folder of downloaded shards")
    if arguments.source is None:
        check(arguments)
    else:
        prepare(arguments)


# The list


def prepare(arguments: PrepareArguments) -> None:
    """Write the rows that are kept, one after the other, and print the counts and the next command.

    Raises:
        SystemExit: the output exists or is of an unknown kind, or no row is kept.
    """
    output, report = Path(arguments.output), Report()
    if output.suffix not in (".tsv", ".parquet"):
        raise SystemExit(f"--output {output} ends in neither .tsv nor .parquet")
    if output.exists():
        raise SystemExit(f"{output} exists; delete it, or give another --output")
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
    print(f"\nNext, after pip install img2dataset:\n\n{download_command(arguments)}")


def read_rows(arguments: PrepareArguments, report: Report) -> Iterator[Row]:
    """The rows of the source.

    Raises:
        SystemExit: it does not exist, or lacks a column.
    """
    source, columns = str(arguments.source), (arguments.caption_column, arguments.url_column)
    path = Path(source).expanduser()
    if path.suffix in (*DELIMITERS, ".parquet") and not path.is_file():
        raise SystemExit(f"--source {source} does not exist")
    if path.suffix in DELIMITERS:
        return text_rows(path, columns, report)
    if path.suffix == ".parquet":
        return table_rows(load_dataset("parquet", data_files=str(path), split="train", streaming=True), columns, source)
    return table_rows(load_dataset(source, split="train", streaming=True), columns, source)


def text_rows(path: Path, columns: Row, report: Report) -> Iterator[Row]:
    """The rows of a text file: as a program wrote them if it has a header, else as they were published."""
    delimiter = DELIMITERS[path.suffix]
    # Bytes that are no UTF-8 become surrogates, by which `filtered` knows them.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        first = file.readline()
        header = next(csv.reader([first], delimiter=delimiter), [])
        if set(columns) <= set(header):
            places = [header.index(column) for column in columns]
            fields = csv.reader(file, delimiter=delimiter)
        elif path.suffix == ".csv":
            raise SystemExit(f"{path} has the columns {header}; name two with --caption_column and --url_column")
        else:  # in the published file a quotation mark is one, and may stand alone
            places, header = [0, 1], ["caption", "url"]
            fields = (line.rstrip("\r\n").split(delimiter) for line in chain([first], file))
        for row in fields:
            if len(row) == len(header):
                yield row[places[0]], row[places[1]]
            else:
                report.dropped[MALFORMED] += 1


def table_rows(table: Iterable[dict[str, Any]], columns: Row, source: str) -> Iterator[Row]:
    """The rows of a table of `datasets`."""
    for row in table:
        if not set(columns) <= row.keys():
            raise SystemExit(f"{source} has the columns {list(row)}; name two with --caption_column and --url_column")
        caption, url = (row[column] for column in columns)
        yield str(caption or ""), str(url or "")


def filtered(rows: Iterable[Row], arguments: PrepareArguments, report: Report) -> Iterator[Row]:
    """The rows that are kept, with single spaces between words.

    URLs and captions that were met are remembered by their hashes of 64 bits.
    """
    urls: set[int] = set()
    repeats: Counter[int] = Counter()
    for caption, url in rows:
        caption, url = " ".join(caption.split()), url.strip()
        reason = fault(caption, url, arguments)
        if reason is None and hash(url) in urls:
            reason = "repeated URL"
        if reason is None and arguments.max_repeats is not None:
            repeats[hash(caption)] += 1
            if repeats[hash(caption)] > arguments.max_repeats:
                reason = f"caption met more than {arguments.max_repeats} times"
        if reason is not None:
            report.dropped[reason] += 1
            continue
        urls.add(hash(url))
        report.keep(caption)
        yield caption, url


def fault(caption: str, url: str, arguments: PrepareArguments) -> str | None:
    """What is wrong with a row by itself."""
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
    return None if URL.fullmatch(url) else "no URL of http or https"


def write_tsv(path: Path, rows: Iterable[Row]) -> None:
    """Write a header and the rows, quoted where necessary."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["caption", "url"])
        writer.writerows(rows)


def write_parquet(path: Path, rows: Iterator[Row]) -> None:
    """Write the rows, a few thousand at a time."""
    schema = pyarrow.schema({"caption": pyarrow.string(), "url": pyarrow.string()})
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            columns = zip(*batch, strict=True)
            writer.write_table(pyarrow.table(dict(zip(schema.names, columns, strict=True)), schema=schema))


def download_command(arguments: PrepareArguments) -> str:
    """How img2dataset downloads the list into tar shards; its flags are those of version 1.47."""
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


# What was downloaded


class CountedFaults(Faults):
    """Counts faults, and prints the first ones.

    Args:
        report: which counts.
        num_shown: how many are printed.
    """

    def __init__(self, report: Report, num_shown: int):
        super().__init__("skip")
        self.report, self.num_shown = report, num_shown

    def add(self, kind: str, message: str, error: type[Exception] = ValueError) -> None:
        """Count a fault."""
        if self.report.dropped.total() < self.num_shown:
            print(f"dropped: {message}")
        self.report.dropped[kind] += 1


def check(arguments: PrepareArguments) -> None:
    """Read the shards from first to last, and print the counts.

    Raises:
        SystemExit: there is no shard, or no row in them.
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
    """Print how many images img2dataset could download, where its statistics lie beside the shards."""
    files = [shard.parent.parent / f"{shard_name(shard)}_stats.json" for shard in shards]
    stats = [json.loads(file.read_bytes()) for file in files if file.exists()]
    if stats:
        tried, downloaded = (sum(shard[name] for shard in stats) for name in ("count", "successes"))
        print(f"{downloaded:,} of {tried:,} images were downloaded")


if __name__ == "__main__":
    main()
