"""The files in a tar archive, one after the other, past what is broken."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import EOFHeaderError, InvalidHeaderError  # type: ignore[attr-defined] # missing in its stubs
from typing import Any

from vlmkit.data.sources.faults import Faults


def read_tar_files(path: Path, *, wanted: Callable[[str], bool], faults: Faults) -> Iterator[tuple[str, bytes]]:
    """Read the names and contents of the files in an archive in their order, in one pass.

    After a broken header it goes on with the next one that is sound.

    Args:
        path: of the archive, which may be compressed.
        wanted: tells by the name which contents to read; the other files are passed over.
        faults: gets the broken headers, and once what ends the reading too early.
    """
    try:
        tar: Any = _TarFile.open(path, "r|*", encoding="utf-8", errors="backslashreplace")
    except Exception as error:  # a broken archive makes tarfile raise nearly anything, here and below
        faults.add("unreadable tar", f"{path} cannot be opened: {error}")
        return
    with tar:
        last = "its beginning"
        while True:
            content, before = None, last
            try:
                member = tar.next()
                if member is not None:
                    last = member.name
                    content = tar.extractfile(member).read() if member.isreg() and wanted(last) else None
            except Exception as error:
                faults.add("truncated tar", f"{path} is broken at or after {last}: {type(error).__name__}: {error}")
                return
            _report_headers(tar, member is None, f"{path}, after {before}", faults)
            if member is None:
                return
            tar.members.clear()  # or it keeps all headers
            if content is not None:
                yield last, content


class _TarInfo(tarfile.TarInfo):
    """Tells its archive of blocks that should be a header and are not."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Any:  # the base class calls it so
        """Read the next header."""
        try:
            return super().fromtarfile(tarfile)
        except Exception as error:
            tarfile.no_headers.add(type(error))
            raise


class _TarFile(tarfile.TarFile):
    """Remembers what `tarfile` passes over in silence."""

    tarinfo = _TarInfo
    ignore_zeros = True  # and with the empty blocks those that should be a header

    def __init__(self, *args: Any, **kwargs: Any):
        self.no_headers: set[type[Exception]] = set()  # since the last member
        super().__init__(*args, **kwargs)


def _report_headers(tar: _TarFile, at_end: bool, where: str, faults: Faults) -> None:
    """Report the blocks between two members, or behind the last one, that are no header."""
    if InvalidHeaderError in tar.no_headers:
        faults.add("broken tar header", f"{where}: the header of the next file is broken")
    if at_end and EOFHeaderError not in tar.no_headers:
        faults.add("truncated tar", f"{where}: the file ends without the empty blocks that end a tar archive")
    tar.no_headers.clear()
