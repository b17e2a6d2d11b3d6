"""Files that are read in place, so that what they claim takes no memory."""

import mmap
from pathlib import Path

from pipeline.runtime.errors import UserError


def mapped(file: Path) -> memoryview:
    """Map the bytes of a file; raise `UserError` where it can't be read, or is empty."""
    try:
        with file.open("rb") as opened:
            return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror or error})") from None
    except ValueError:
        raise UserError(f"{file}: is empty") from None
