"""A source: WebDataset's shards as people write them, images with their labels beside them."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.sources.naming import (
    image_key,
    is_junk,
    left_out_note,
    numbered_classes,
    official_stem,
    split_named,
)
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.parallel_packing import Images, Listing
from pipeline.data.store.shards import is_key
from pipeline.data.store.tar_listing import Member, list_members
from pipeline.runtime.errors import UserError

_SHARD = re.compile(r"(.*?)[-_.]?\d*\.tar", re.IGNORECASE)
_SPLIT = re.compile(r"[a-z][a-z0-9_]*")
_NAME = re.compile(r"(?:\./)*(?!/)(?!(?:.*/)?\.\.?(?:/|$))[^\x00-\x1f\x7f]+|\.")
_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
_MOST_CLASSES = 1_000_000
_LARGEST_LABEL = 2**16


def list_webdataset(
    folder: Path, *, split: str | None = None, label_key: str | None = None
) -> Listing:
    """List the shards of `folder`, and of its folders of splits.

    A shard's split is the last word before its number (`imagenet-train-000000.tar`), its folder, or
    `split`. An image's label is in `KEY.cls`, or by `label_key` in KEY.`label_key`, or in a field
    of KEY.json; a dot in a name begins no extension where the label's name has it too. Classes are
    named by their numbers, by their texts where `label_key` leads to such, or by the WNIDs of
    ILSVRC's names. A key that another image has too is numbered. Members other than images and
    labels are counted in the notes. The listing's fingerprint changes with any image's key, label,
    place or size, and with any shard's name, size or time. Raises `UserError` for a folder without
    shards, an archive with anything but regular files of safe names, and an image without a label,
    or a label without an image.
    """
    shards = _shards(folder, split)
    left_out: Counter[str] = Counter()
    samples = {
        of_split: [sample for path in paths for sample in _samples(path, label_key, left_out)]
        for of_split, paths in shards.items()
    }
    for of_split, paths in shards.items():
        if not samples[of_split]:
            raise UserError(f"{paths[0]}: holds no images")
    classes = _classes(samples, label_key)
    numbers = {each.name: each.index for each in classes}
    is_text = label_key is not None and not _are_numbers(samples)
    splits = {}
    for of_split, found in samples.items():
        keys: set[str] = set()
        rows = []
        for sample in found:
            key = image_key(sample.name, keys, sample.prefix)
            keys.add(key)
            label = numbers[sample.label] if is_text else int(sample.label)
            rows.append((key, sample.image, label))
        splits[of_split] = Images.of(rows)
    seen = {label for images in splits.values() for label in images.labels.tolist()}
    notes = [*left_out_note(left_out)]
    if empty := len(classes) - len(seen - {-1}):
        notes.append(f"{empty:,} of {len(classes):,} classes have no images")
    options = {
        **({"split": split} if split else {}),
        **({"label_key": label_key} if label_key else {}),
    }
    fingerprint = _fingerprint(shards, splits)
    identity = {"kind": "webdataset", "fingerprint": fingerprint, **options}
    return Listing(classes, splits, identity, tuple(notes), {"folder": str(folder)})


@dataclass(frozen=True, slots=True)
class _Sample:
    """An image and the text of its label; its key is `prefix` and `name`."""

    prefix: str
    name: str
    image: Member
    label: str


def _shards(folder: Path, split: str | None) -> dict[str, list[Path]]:
    shards: dict[str, list[Path]] = {}
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    inner = [each for each in paths if each.is_dir() and split_named(each.name)]
    for path in [*paths, *(path for each in inner for path in sorted(each.iterdir()))]:
        if is_junk(path.name) or not path.is_file():
            continue
        if path.name.lower().endswith((".tar.gz", ".tgz")):
            raise UserError(f"{path}: gzip can't be read at any place; gunzip it first")
        if not (match := _SHARD.fullmatch(path.name)):
            continue
        found = split or _split_of(match[1]) or split_named(path.parent.name)
        if found is None:
            raise UserError(
                f"{path}: its name tells no split, as train-000000.tar does; say with --split "
                "which all are"
            )
        shards.setdefault(found, []).append(path)
    if not shards:
        problem = f"{folder}: no shards named SPLIT-000000.tar are there"
        if folder.is_dir() and next(folder.rglob("*.parquet"), None):
            problem += f"; for its Parquet files: `ilsvrc prepare parquet {folder}`"
        raise UserError(problem)
    return shards


def _split_of(prefix: str) -> str | None:
    words = re.findall(r"[a-z]+", prefix.lower())
    if words and (found := split_named(words[-1])):
        return found
    if _SPLIT.fullmatch(prefix):
        return prefix
    return next((known for word in words if (known := split_named(word))), None)


@dataclass
class _Members:
    """The members of a shard, by the part of their names before the last dot."""

    path: Path
    by_stem: dict[str, dict[str, Member]] = field(default_factory=dict)

    @staticmethod
    def of(path: Path, left_out: Counter[str]) -> "_Members":
        found = _Members(path)
        for member in list_members(path, _NAME):
            name = re.sub(r"^(?:\./)+", "", member.name)
            if any(is_junk(part) for part in name.split("/")):
                left_out["._*" if "/._" in f"/{name}" else name.rsplit("/", 1)[-1]] += 1
                continue
            stem, dot, extension = name.rpartition(".")
            if not dot or "/" in extension:
                stem, extension = name, ""
            members = found.by_stem.setdefault(stem, {})
            if extension.lower() in members:
                raise UserError(f"{path}: {name} is there twice")
            members[extension.lower()] = member
        return found


def _samples(path: Path, label_key: str | None, left_out: Counter[str]) -> Iterator[_Sample]:
    """Yield the samples of a shard; what is of none is counted."""
    members = _Members.of(path, left_out)
    extension = "json" if label_key and not _is_extension(members, label_key) else label_key
    extension = extension or "cls"
    with path.open("rb") as file:
        for stem, by_extension in members.by_stem.items():
            present = [e for e in _IMAGES if e in by_extension]
            label = by_extension.get(extension)
            first = stem.rpartition("/")[2].partition(".")[0]
            base = stem.removesuffix(stem.rpartition("/")[2]) + first
            belongs = stem != base and any(e in members.by_stem.get(base, ()) for e in _IMAGES)
            used = {present[0], extension} if present else {extension}
            if label is None and belongs:  # a further part of a sample, as KEY.seg.png
                used = set()
            elif present and label is None:
                raise _no_label(path, stem, extension, by_extension, label_key)
            elif label is not None and not present:
                others = ", ".join(sorted(by_extension.keys() - {extension})) or "nothing else"
                raise UserError(
                    f"{path}: {stem}.{extension} labels no image; there is {others}; only "
                    f"{', '.join(_IMAGES)} are read"
                )
            for other in sorted(by_extension.keys() - used):
                left_out[f"*.{other}" if other else stem] += 1
            if present and label is not None:
                if not is_key(stem.replace(".", "_")):
                    raise UserError(f"{path}: {stem!r} is no key that WebDataset gives back")
                file.seek(label.offset)
                text = file.read(min(label.size, _LARGEST_LABEL))
                folder, slash, name = stem.rpartition("/")
                value = _label(text, stem, path, extension, label_key)
                yield _Sample(folder + slash, name, by_extension[present[0]], value)


def _is_extension(members: _Members, label_key: str) -> bool:
    return any(label_key in by_extension for by_extension in members.by_stem.values())


def _no_label(
    path: Path, key: str, extension: str, found: Mapping[str, Member], label_key: str | None
) -> UserError:
    problem = f"{path}: {key}.{extension} is missing or no class's number"
    others = sorted(found.keys() & {"json", "txt"})
    if others and label_key is None:
        fields = "a field of KEY.json" if "json" in others else "txt"
        problem += f"; if the label is in KEY.{others[0]}, give --label-key ({fields})"
    return UserError(problem)


def _label(text: bytes, key: str, path: Path, extension: str, label_key: str | None) -> str:
    try:
        found = text.decode().strip()
        if extension == "json":
            content = json.loads(found)
            found = content[label_key.removeprefix("json.")] if label_key else content
            if isinstance(found, bool) or not isinstance(found, int | str):
                raise TypeError(f"{found!r}")
            found = str(found)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: {key}.{extension} has no label ({type(error).__name__}: {error})"
        ) from None
    is_number = re.fullmatch(r"-1|\d{1,7}", found) and int(found) < _MOST_CLASSES
    if not is_number and (label_key is None or not found or len(found) > 200):
        raise UserError(f"{path}: {key}.{extension} is missing or no class's number")
    return found


def _are_numbers(samples: Mapping[str, list[_Sample]]) -> bool:
    return all(
        re.fullmatch(r"-1|\d+", sample.label) for found in samples.values() for sample in found
    )


def _classes(samples: Mapping[str, list[_Sample]], label_key: str | None) -> tuple[ImageClass, ...]:
    every = [sample for found in samples.values() for sample in found]
    if label_key is not None and not _are_numbers(samples):
        names = sorted({sample.label for sample in every})
        return tuple(ImageClass(number, name) for number, name in enumerate(names))
    highest = max(int(sample.label) for sample in every)
    wnids = ((int(sample.label), official_stem(sample.name)[1]) for sample in every)
    return numbered_classes(wnids, (), highest + 1)


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
