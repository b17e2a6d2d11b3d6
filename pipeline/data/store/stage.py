"""Complete copies of packed data sets on a node's own disk, checked while copied, once per node.

A staged copy is called NAME-DIGEST, so that a data set prepared again never replaces one that a
training is reading.

Staging (`cluster.stage_to`) and the cache of ranges (`cluster.cache`, `RangeCache`) stay two: a
staged copy needs room for the whole data set and time before the first step, is checked by digest,
outlives the machine's restarts, and is a data set as any other. The cache starts at once, filling
during the first epoch, and needs only the room that it is given, but is for remote storage alone.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.config.cluster import Folder
from pipeline.data.store.manifest import FILE_NAME, ManifestFile, damaged, read_manifest, sha256
from pipeline.data.store.packing import ProgressCallback
from pipeline.data.store.remote import remote_errors
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import file_lock, is_full, sync, write_atomically

_BLOCK = 2**22
_THREADS = 4


def stage(source: Folder, to: Path, progress: ProgressCallback = lambda done, total: None) -> Store:
    """Return the copy of data set `source` in folder `to`, made first if it isn't there.

    Of several processes one copies, and the others wait for it. An interrupted copy is continued:
    its complete files are kept. `progress` is called with bytes. Raises `UserError` when a file of
    `source` differs from what was packed, and when `to` is full or can't be written.
    """
    manifest = read_manifest(source)
    files = [file for split in manifest.splits.values() for file in split.files]
    target = to / f"{manifest.name}-{manifest.digest[:12]}"
    partial = target.with_name(f".{target.name}.partial")
    try:
        to.mkdir(parents=True, exist_ok=True)
        with file_lock(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                partial.mkdir(exist_ok=True)
                _check_free_space(partial, files)
                _copy_all(source, partial, files, progress)
                with remote_errors(source):
                    content = (source / FILE_NAME).read_bytes()
                write_atomically(partial / FILE_NAME, content)
                partial.rename(target)
                sync(to)
    except OSError as error:
        full = is_full(error)
        fix = "make room and stage again" if full else "choose a folder that you may write to"
        raise UserError(f"{target}: can't be written ({error.strerror}); {fix}") from None
    return Store.open(target)


def _check_free_space(partial: Path, files: list[ManifestFile]) -> None:
    missing = sum(file.size for file in files) - sum(p.stat().st_size for p in partial.iterdir())
    free = shutil.disk_usage(partial).free
    if missing > free:
        raise UserError(
            f"{partial.parent}: {free / 1e6:,.0f} MB free, the data set needs another "
            f"{missing / 1e6:,.0f} MB; make room or stage to another disk"
        )


def _copy_all(
    source: Folder, partial: Path, files: list[ManifestFile], progress: ProgressCallback
) -> None:
    total, done = sum(file.size for file in files), 0
    progress(done, total)
    with ThreadPoolExecutor(_THREADS) as threads:
        copies = threads.map(lambda file: _copy(source / file.name, partial, file), files)
        for file, _ in zip(files, copies, strict=True):
            done += file.size
            progress(done, total)


def _copy(source: Folder, partial: Path, file: ManifestFile) -> None:
    """Copy one file and check its digest while copying, unless a complete copy is there."""
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
        raise damaged(source, "its bytes have changed")
    unfinished.replace(copy)


def _blocks(source: Folder) -> Iterator[bytes]:
    try:
        with remote_errors(source), source.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise damaged(source, f"can't be read ({error.strerror})") from None
