"""Streaming reader of tar archives that continues after corrupt headers."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import EOFHeaderError, InvalidHeaderError  # type: ignore[attr-defined] # missing in its stubs
from typing import Any

from vlmkit.data.sources.faults import Faults


def read_tar_files(path: Path, *, wanted: Callable[[str], bool], faults: Faults) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the files in a tar archive, in one pass.

    After a corrupt header, reading continues at the next valid one.

    Args:
        path: Path of the archive, which may be compressed.
        wanted: Predicate of file names. Only files for which it returns `True` are read and yielded.
        faults: Handler of corrupt headers, and of the error that ends reading early.
    """
    try:
        tar: Any = _TarFile.open(path, "r|*", encoding="utf-8", errors="backslashreplace")
    except Exception as error:  # tarfile raises many types of exceptions for corrupt archives, here and below
        faults.add("unreadable tar", f"{path} cannot be opened: {error}.")
        return
    with tar:
        last = "the start"
        while True:
            content, before = None, last
            try:
                member = tar.next()
                if member is not None:
                    last = member.name
                    content = tar.extractfile(member).read() if member.isreg() and wanted(last) else None
            except Exception as error:
                faults.add("truncated tar", f"{path} is corrupt at or after {last}: {type(error).__name__}: {error}.")
                return
            _report_headers(tar, member is None, f"{path}, after {before}", faults)
            if member is None:
                return
            tar.members.clear()  # otherwise all headers stay in memory
            if content is not None:
                yield last, content


class _TarInfo(tarfile.TarInfo):
    """Header that records read errors in its archive."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Any:  # the argument has the same name in the base class
        """Read the next header, and record the type of the error if the header is invalid."""
        try:
            return super().fromtarfile(tarfile)
        except Exception as error:
            tarfile.header_errors.add(type(error))
            raise


class _TarFile(tarfile.TarFile):
    """Archive that skips invalid headers and records their errors, which `tarfile` ignores silently."""

    tarinfo = _TarInfo
    ignore_zeros = True  # skips empty blocks, and also blocks that are not valid headers

    def __init__(self, *args: Any, **kwargs: Any):
        self.header_errors: set[type[Exception]] = set()  # since the last member
        super().__init__(*args, **kwargs)


def _report_headers(tar: _TarFile, at_end: bool, where: str, faults: Faults) -> None:
    """Report invalid headers between two members, and a missing end of the archive."""
    if InvalidHeaderError in tar.header_errors:
        faults.add("corrupt tar header", f"{where}: the header of the next file is corrupt.")
    if at_end and EOFHeaderError not in tar.header_errors:
        faults.add("truncated tar", f"{where}: the file ends without the empty blocks that end a tar archive.")
    tar.header_errors.clear()
