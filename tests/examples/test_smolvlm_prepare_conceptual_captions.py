"""A list of captions and URLs is filtered, and downloaded shards are checked."""

import csv
import shlex
from pathlib import Path

import datasets
import pytest
from pyarrow import csv as pyarrow_csv
from pyarrow import parquet
from tests.data.sources.web_shard_folders import key, shard_files, write_folders, write_tar, write_tars
from tests.examples.smolvlm_runs import run

SCRIPT = "prepare_conceptual_captions.py"
ROWS = [
    ('a "dog" on  the\u00a0grass', "http://a.com/1.jpg"),
    ("café at night", "HTTPS://b.com/2?x=1"),
    ('the sign says "', "http://a.com/3.jpg"),
    ("a cat", "http://a.com/4.jpg"),
]
KEPT = [(" ".join(caption.split()), url) for caption, url in ROWS]


def write_published(path: Path, rows=ROWS, more: bytes = b"") -> None:
    """Without a header or quoting."""
    path.write_bytes("".join(f"{caption}\t{url}\n" for caption, url in rows).encode() + more)


def kept(path: Path) -> list[tuple[str, str]]:
    """The rows as img2dataset reads them."""
    if path.suffix == ".parquet":
        table = parquet.read_table(path)
    else:
        table = pyarrow_csv.read_csv(path, parse_options=pyarrow_csv.ParseOptions(delimiter="\t"))
    assert table.column_names == ["caption", "url"]
    return list(zip(*table.to_pydict().values(), strict=True))


@pytest.mark.parametrize("output", ["kept.tsv", "lists/kept.parquet"])
def test_the_published_list(tmp_path, output):
    write_published(tmp_path / "Train_GCC-training.tsv")
    printed = run(tmp_path, SCRIPT, "--source", "Train_GCC-training.tsv", "--output", output)
    assert kept(tmp_path / output) == KEPT
    assert f"{output}: 4 rows, 3.5 words per caption" in printed
    assert "dropped" not in printed
    assert not list((tmp_path / output).parent.glob("*.part"))


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "folder"])
def test_other_lists(tmp_path, kind):
    columns = {"link": [url for _, url in ROWS], "n": list(range(4)), "text": [caption for caption, _ in ROWS]}
    source = f"list.{kind}"
    if kind in ("csv", "tsv"):
        with open(tmp_path / source, "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file, delimiter="," if kind == "csv" else "\t")
            writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
    else:
        source = source if kind == "parquet" else "folder"
        (tmp_path / "folder").mkdir()
        path = tmp_path / ("folder/train.parquet" if kind == "folder" else source)
        datasets.Dataset.from_dict(columns).to_parquet(path)
    run(
        tmp_path, SCRIPT, "--source", source, "--output", "kept.tsv", "--caption_column", "text", "--url_column", "link"
    )
    assert kept(tmp_path / "kept.tsv") == KEPT
    with (
        pytest.raises(
            SystemExit,
            match=r"the columns \['caption', 'url'\], but got \['link', 'n', 'text'\]. Set `--caption_column`",
        )
        if (kind != "tsv")
        else pytest.raises(SystemExit, match="contains no valid rows")
    ):
        run(tmp_path, SCRIPT, "--source", source, "--output", "other.tsv")
    assert not (tmp_path / "other.tsv").exists()


def test_what_was_written_is_read_again(tmp_path):
    write_published(tmp_path / "list.tsv")
    run(tmp_path, SCRIPT, "--source", "list.tsv", "--output", "once.tsv")
    run(tmp_path, SCRIPT, "--source", "once.tsv", "--output", "twice.tsv")
    assert (tmp_path / "twice.tsv").read_bytes() == (tmp_path / "once.tsv").read_bytes()


def test_reasons_to_drop(tmp_path):
    rows = [
        *ROWS,
        ("one two three four five six", "http://a.com/5.jpg"),
        ("one", "http://a.com/6.jpg"),
        (" ", "http://a.com/7.jpg"),
        ("no scheme", "a.com/8.jpg"),
        ("another scheme", "ftp://a.com/9.jpg"),
        ("no host", "http:///10.jpg"),
        ("a white space", "http://a.com/a b.jpg"),
        ("the same URL", ROWS[0][1]),
        ("a cat", "http://a.com/11.jpg"),
        ("a cat", "http://a.com/12.jpg"),
        ("long enough now", "http://a.com/6.jpg"),
    ]
    write_published(tmp_path / "list.tsv", rows, b"no tab\na\tb\tc\ncaf\xe9 noir\thttp://a.com/13.jpg\n")
    flags = ["--min_words", 2, "--max_words", 5, "--max_repeats", 2]
    printed = run(tmp_path, SCRIPT, "--source", "list.tsv", "--output", "kept.tsv", *flags)
    assert kept(tmp_path / "kept.tsv") == [*KEPT, rows[-3], rows[-1]]
    counts = [line.strip() for line in printed.splitlines() if " dropped: " in line]
    assert sorted(counts) == [
        "1 dropped: caption repeated more than 2 times",
        "1 dropped: empty caption",
        "1 dropped: fewer than 2 words",
        "1 dropped: more than 5 words",
        "1 dropped: repeated URL",
        "3 dropped: malformed row",
        "4 dropped: not an http or https URL",
    ]


def test_max_rows_counts_what_is_kept(tmp_path):
    write_published(tmp_path / "list.tsv", [("", "http://a.com/0.jpg"), *ROWS])
    printed = run(tmp_path, SCRIPT, "--source", "list.tsv", "--output", "kept.tsv", "--max_rows", 2)
    assert kept(tmp_path / "kept.tsv") == KEPT[:2]
    assert "1 dropped: empty caption" in printed


def test_the_next_command(tmp_path):
    write_published(tmp_path / "list.tsv")
    flags = ["--output", "my list.parquet", "--output_folder", "images", "--processes", 3, "--threads", 7]
    printed = run(tmp_path, SCRIPT, "--source", "list.tsv", *flags)
    words = shlex.split(printed[printed.index("\nimg2dataset") :].replace("\\\n", " "))
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "img2dataset"
    assert given == {
        "--url_list": "my list.parquet",
        "--input_format": "parquet",
        "--url_col": "url",
        "--caption_col": "caption",
        "--output_format": "webdataset",
        "--output_folder": "images",
        "--image_size": "256",
        "--resize_mode": "keep_ratio",
        "--resize_only_if_bigger": "True",
        "--number_sample_per_shard": "10000",
        "--processes_count": "3",
        "--thread_count": "7",
    }


def test_refusals(tmp_path):
    write_published(tmp_path / "list.tsv", [("a dog", "nowhere")])
    for flags, message in [
        ([], "Exactly one of `--source` and `--check` must be set"),
        (["--source", "list.tsv", "--check", "cc3m"], "Exactly one of `--source` and `--check` must be set"),
        (["--source", "none.csv"], r"`--source` must be an existing file, but got none\.csv"),
        (
            ["--source", "list.tsv", "--output", "kept.txt"],
            r"`--output` must end in \.tsv or \.parquet, but got kept\.txt",
        ),
        (["--source", "list.tsv", "--output", "list.tsv"], r"The output file list\.tsv already exists\. Delete it"),
        (["--source", "list.tsv", "--output", "kept.tsv"], r"kept\.tsv contains no valid rows"),
        (["--check", "nowhere"], "The shard nowhere does not exist"),
    ]:
        with pytest.raises(SystemExit, match=message):
            run(tmp_path, SCRIPT, *flags)
    assert not (tmp_path / "kept.tsv").exists()


@pytest.mark.parametrize("write", [write_tars, write_folders])
def test_sound_shards(tmp_path, write):
    write(tmp_path / "cc3m")
    printed = run(tmp_path, SCRIPT, "--check", "cc3m", "--num_shown", 1)
    assert printed.splitlines() == [
        "3 shards",
        f'cc3m/00000/{key(0, 0)}  8 x 8  shard 0 says "0", é',
        "12 of 30 images were downloaded",
        "cc3m: 12 rows, 5.0 words per caption",
    ]


def test_statistics_of_shards_whose_names_hold_dots(tmp_path):
    write_tars(tmp_path / "cc3m")
    for file in (tmp_path / "cc3m").iterdir():
        file.rename(file.with_name(f"train.{file.name}"))
    assert "\n12 of 30 images were downloaded\n" in run(tmp_path, SCRIPT, "--check", "cc3m")


def test_faults_are_counted_over_all_shards(tmp_path):
    write_tars(tmp_path / "cc3m")
    for shard in (0, 2):
        damaged = shard_files(shard) | {f"{key(shard, 1)}.txt": b"", f"{key(shard, 2)}.jpg": b"no image"}
        write_tar(tmp_path / "cc3m" / f"{shard:05}.tar", damaged)
    printed = run(tmp_path, SCRIPT, "--check", "cc3m/{00000..00002}.tar", "--num_shown", 3)
    assert printed.count("\ndropped: ") == 3
    assert f"00000.tar, sample {key(0, 1)}: the caption is empty" in printed
    assert printed.endswith(
        "cc3m/{00000..00002}.tar: 8 rows, 5.0 words per caption\n           2 dropped: empty caption\n"
        "           2 dropped: undecodable image\n"
    )


def test_no_row_in_the_shards(tmp_path):
    write_tar(tmp_path / "cc3m" / "00000.tar", {"a.jpg": b"", "a.txt": b"a dog"})
    with pytest.raises(SystemExit, match="cc3m contains no valid rows"):
        run(tmp_path, SCRIPT, "--check", "cc3m")


def test_a_check_of_the_first_rows(tmp_path):
    write_tars(tmp_path / "cc3m")
    assert "cc3m: 5 rows" in run(tmp_path, SCRIPT, "--check", "cc3m", "--max_rows", 5)
