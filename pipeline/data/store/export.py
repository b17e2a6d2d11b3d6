"""Writing a packed data set as files: a folder per class, or WebDataset's shards."""

import shutil
from pathlib import Path

from pipeline.data.store.atomic_folder import new_folder
from pipeline.data.store.packing import ProgressCallback
from pipeline.data.store.shards import image_extension, is_class_folder, numbered
from pipeline.data.store.store import Split, Store
from pipeline.runtime.errors import UserError


def export_folder(store: Store, to: Path, progress: ProgressCallback) -> None:
    """Write `to`/SPLIT/CLASS/NAME.jpg, as torchvision's `ImageFolder` and `ImageNet` read it.

    The bytes are those that were packed. Images without a label go to `to`/SPLIT itself. `to`
    appears complete or not at all. Raises `UserError` for signals, for a class whose name can't be
    that of a folder, and when `to` exists or can't be written.
    """
    if store.contents != "images":
        raise UserError(f"{store.folder}: holds signals, which have no image files")
    for each in store.classes:
        if not is_class_folder(each.name):
            raise UserError(f"{store.folder}: class {each.name!r} can't be a folder's name")
    splits = [store.split(name) for name in store.split_names]
    total, done = sum(map(len, splits)), 0
    with new_folder(to) as partial:
        for split in splits:
            for i in range(len(split)):
                path = _unused(partial / split.name / _file_name(store, split, i))
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    file.write(split.encoded(i).data)
                done += 1
                progress(done, total)


def export_webdataset(store: Store, to: Path, progress: ProgressCallback) -> None:
    """Write `to`/SPLIT-000000.tar …, with `KEY.jpg` and `KEY.cls`, the label, for each image.

    They are copies of the packed shards. Raises `UserError` when `to` exists or can't be written.
    """
    files = [file for name in store.split_names for file in store.split_manifest(name).shards]
    total, done = sum(file.size for file in files), 0
    with new_folder(to) as partial:
        for file in files:
            with (
                (store.folder / file.name).open("rb") as source,
                (partial / file.name).open("wb") as copy,
            ):
                shutil.copyfileobj(source, copy)
            done += file.size
            progress(done, total)


def _unused(path: Path) -> Path:
    """Return `path`, numbered if it exists: keys `x/y` and `x_y` of a class both give x_y.jpg."""
    return next(each for each in map(path.with_stem, numbered(path.stem)) if not each.exists())


def _file_name(store: Store, split: Split, i: int) -> Path:
    key, label = split.keys[i], int(split.labels[i])
    name = store.classes[label].name if label >= 0 else ""
    stem = key.removeprefix(f"{name}/").replace("/", "_")
    return Path(name) / f"{stem}.{image_extension(split.encoded(i).tobytes())}"
