"""Copies of packed data sets on a node's own disk: checked while they are made, made once a node.

A staged copy is called NAME-DIGEST, so that a data set prepared again never takes the place of one
that a training is reading.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.config.cluster import Folder
from pipeline.data.store.manifest import FILE_NAME, ManifestFile, again, read_manifest, sha256
from pipeline.data.store.remote import reached
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import held, is_full, sync

# Bytes done, and of all.
Progress = Callable[[int, int], None]

_BLOCK = 2**22
_THREADS = 4


def stage(source: Folder, to: Path, progress: Progress = lambda done, total: None) -> Store:
    """Return the copy of data set `source` in folder `to`, after making it if it isn't there.

    Of several processes one copies, and the others wait for it. A copy that was interrupted is
    gone on with: its files that are whole are kept. Raises `UserError` when a file of `source`
    isn't what was packed, and when `to` is full or can't be written.
    """
    description = read_manifest(source)
    files = [file for split in description.splits.values() for file in split.files]
    target = to / f"{description.name}-{description.digest[:12]}"
    partial = target.with_name(f".{target.name}.partial")
    try:
        to.mkdir(parents=True, exist_ok=True)
        with held(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                partial.mkdir(exist_ok=True)
                _refuse_too_little_room(partial, files)
                _copy_all(source, partial, files, progress)
                with reached(source):
                    content = (source / FILE_NAME).read_bytes()
                (partial / FILE_NAME).write_bytes(content)
                sync(partial / FILE_NAME)
                partial.rename(target)
                sync(to)
    except OSError as error:
        full = is_full(error)
        mend = "make room and stage again" if full else "choose a folder that you may write to"
        raise UserError(f"{target}: can't be written ({error.strerror}); {mend}") from None
    return Store.open(target)


def _refuse_too_little_room(partial: Path, files: list[ManifestFile]) -> None:
    needed = sum(file.size for file in files)
    there = sum(path.stat().st_size for path in partial.iterdir())
    free = shutil.disk_usage(partial).free
    if needed - there > free:
        raise UserError(
            f"{partial.parent}: {free / 1e6:,.0f} MB free, the data set needs another "
            f"{(needed - there) / 1e6:,.0f} MB; make room or stage to another disk"
        )


def _copy_all(source: Folder, partial: Path, files: list[ManifestFile], progress: Progress) -> None:
    total, done = sum(file.size for file in files), 0
    progress(done, total)
    with ThreadPoolExecutor(_THREADS) as threads:
        copies = [threads.submit(_copy, source / file.name, partial, file) for file in files]
        try:
            for file, copy in zip(files, copies, strict=True):
                copy.result()
                done += file.size
                progress(done, total)
        finally:
            for copy in copies:
                copy.cancel()


def _copy(source: Folder, partial: Path, file: ManifestFile) -> None:
    """Copy one file and check its digest on the way, unless it is there already."""
    copy, unfinished = partial / file.name, partial / f".{file.name}.partial"
    if copy.exists() and sha256(copy) == file.sha256:
        return
    digest = hashlib.sha256()
    with unfinished.open("wb") as writer:
        for block in _blocks(source):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    if digest.hexdigest() != file.sha256:
        unfinished.unlink()
        raise UserError(f"{source}: its bytes have changed; {again(source.parent)}")
    unfinished.replace(copy)


def _blocks(source: Folder) -> Iterator[bytes]:
    try:
        with reached(source), source.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise UserError(
            f"{source}: can't be read ({error.strerror}); {again(source.parent)}"
        ) from None
