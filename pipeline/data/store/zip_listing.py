"""The members of an untrusted zip archive, read where they lie, without unpacking.

Nothing is ever written under a name that an archive gives.
"""

import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.data.store.parallel_packing import Read
from pipeline.data.store.tar_listing import Member
from pipeline.runtime.errors import UserError

_HEADER = 30  # bytes of a member's local header, before its name and extra fields
_METHOD, _NAME_SIZE, _EXTRA_SIZE = slice(8, 10), slice(26, 28), slice(28, 30)
_SIGNATURE = b"PK\x03\x04"
# No image file is larger; one that claims to be would only fill the memory.
_LARGEST = 2**30


def list_zip(file: Path, wanted: re.Pattern[str]) -> Iterator[Member]:
    """Yield the files of the zip archive whose names `wanted` matches in full.

    `Member.offset` is that of the member's header, `size` the number of its stored bytes; both are
    for `open_zip`. Raises `UserError` for an archive that can't be read, and for a wanted member
    that is encrypted, a link, or compressed by anything but deflate.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.is_dir() or not wanted.fullmatch(entry.filename):
                    continue
                is_link = stat.S_ISLNK(entry.external_attr >> 16)
                is_plain = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                if is_link or not is_plain or entry.flag_bits & 1:
                    raise UserError(
                        f"{file}: {entry.filename!r} is encrypted, a link, or compressed by "
                        "another method than deflate; unpack the archive and give the folder"
                    )
                yield Member(entry.filename, file, entry.header_offset, entry.compress_size)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{file}: not a whole zip archive ({error}); download it again") from None


@contextmanager
def open_zip(file: str) -> Iterator[Read]:
    """Open a zip archive to read members by the offsets and sizes of `list_zip`.

    What is damaged is read as no bytes, and so found to be a bad image.
    """
    with Path(file).open("rb") as opened:

        def read(offset: int, size: int) -> bytes:
            opened.seek(offset)
            header = opened.read(_HEADER)
            skipped = sum(
                int.from_bytes(header[part], "little") for part in (_NAME_SIZE, _EXTRA_SIZE)
            )
            opened.seek(offset + _HEADER + skipped)
            data = opened.read(size)
            if not header.startswith(_SIGNATURE) or len(data) < size:
                return b""
            if int.from_bytes(header[_METHOD], "little") == zipfile.ZIP_STORED:
                return data
            try:
                return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _LARGEST)
            except zlib.error:
                return b""

        yield read
