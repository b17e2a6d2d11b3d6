"""A source: WebDataset's shards, SPLIT-*.tar with images and their labels as `KEY.cls`."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.parallel_packing import Images, Listing
from pipeline.data.store.shards import is_key
from pipeline.data.store.tar_listing import Member, list_members
from pipeline.runtime.errors import UserError

_SHARD = re.compile(r"([a-z][a-z0-9_]*)-\d+\.tar")
_NAME = re.compile(r"(?!/)(?!(?:.*/)?\.\.?(?:/|$))[^\x00-\x1f\x7f]+")
_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
_MOST_CLASSES = 1_000_000


def list_webdataset(folder: Path) -> Listing:
    """List the shards of `folder`; members other than images and labels are ignored.

    Classes are named by their numbers. The listing's fingerprint changes with any image's key,
    label, place or size, and with any shard's name, size or time. Raises `UserError` for a folder
    without shards, an archive with anything but regular files of safe names, and an image whose
    label is missing or is no number.
    """
    shards: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := _SHARD.fullmatch(path.name):
            shards.setdefault(match[1], []).append(path)
    if not shards:
        raise UserError(f"{folder}: no shards named SPLIT-000000.tar are there")
    splits = {split: _split(paths) for split, paths in shards.items()}
    highest = max(int(images.labels.max()) for images in splits.values())
    classes = tuple(ImageClass(number, str(number)) for number in range(highest + 1))
    return Listing(classes, splits, {"fingerprint": _fingerprint(shards, splits)})


def _split(paths: list[Path]) -> Images:
    found: list[tuple[str, Member, int]] = []
    for path in paths:
        members: dict[str, dict[str, Member]] = {}
        for member in list_members(path, _NAME):
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            members.setdefault(key, {})[extension.lower()] = member
        with path.open("rb") as file:
            for key, by_extension in members.items():
                image = next((by_extension[e] for e in _IMAGES if e in by_extension), None)
                if image is None:
                    continue
                if not is_key(key):
                    raise UserError(f"{path}: {key!r} is no key that WebDataset gives back")
                label = by_extension.get("cls")
                file.seek(label.offset if label else 0)
                text = file.read(min(label.size, 20)) if label else b""
                found.append((key, image, _label(text, key, path)))
    if not found:
        raise UserError(f"{paths[0]}: holds no images")
    return Images.of(found)


def _fingerprint(shards: Mapping[str, list[Path]], splits: Mapping[str, Images]) -> str:
    digest = hashlib.sha256()
    for split, images in splits.items():
        for path in shards[split]:
            status = path.stat()
            digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        digest.update("\n".join(images.keys).encode())
        for column in (images.offsets, images.sizes, images.labels):
            digest.update(column.tobytes())
    return digest.hexdigest()


def _label(text: bytes, key: str, path: Path) -> int:
    if not re.fullmatch(rb"-1|\d{1,7}", text) or int(text) >= _MOST_CLASSES:
        raise UserError(f"{path}: {key}.cls is missing or no class's number")
    return int(text)
