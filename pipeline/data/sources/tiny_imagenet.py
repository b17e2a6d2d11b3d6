"""Tiny ImageNet as it is handed out: 200 of ILSVRC's classes, 64×64 pixels.

train/WNID/images/*.JPEG, val/images/*.JPEG with val/val_annotations.txt, wnids.txt, words.txt.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.sources.label_files import image_name, only_labels, read_label_file, read_text
from pipeline.data.sources.naming import is_junk, left_out_note
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.parallel_packing import Images, Listing
from pipeline.data.store.tar_listing import Member
from pipeline.runtime.errors import UserError

_IMAGES = "images"


def list_tiny_imagenet(source: Path) -> Listing:
    """List the images, classes by sorted WNID; the test images, without labels, are left out.

    Raises `UserError` that names the first file or label that is missing or too many.
    """
    wnids = sorted(read_text(source / "wnids.txt").split())
    if len(set(wnids)) < len(wnids) or len(wnids) < 2:
        raise UserError(f"{source / 'wnids.txt'}: a WNID is there twice, or there are none")
    words_file = source / "words.txt"
    lines = read_text(words_file).splitlines() if words_file.is_file() else []
    words = {wnid: text.strip() for wnid, _, text in (line.partition("\t") for line in lines)}
    classes = tuple(ImageClass(k, wnid, words.get(wnid, "")) for k, wnid in enumerate(wnids))
    annotations = source / "val" / "val_annotations.txt"
    labels = only_labels(read_label_file(annotations), str(annotations))
    left_out: Counter[str] = Counter()
    splits = {
        "train": Images.of(_train(source, wnids, left_out)),
        "val": Images.of(_val(source, wnids, labels, left_out)),
    }
    digest = "".join(images.digest() for images in splits.values())
    notes = list(left_out_note(left_out))
    if (source / "test").is_dir():
        notes.append("test/ has no labels and is not packed")
    return Listing(
        classes,
        splits,
        {"kind": "tiny-imagenet", "fingerprint": digest},
        tuple(notes),
        {"folder": str(source.absolute())},
    )


def _train(
    source: Path, wnids: list[str], left_out: Counter[str]
) -> Iterator[tuple[str, Member, int]]:
    for label, wnid in enumerate(wnids):
        for member in _files(source / "train" / wnid / _IMAGES, left_out):
            yield f"{wnid}/{image_name(member.name)}", member, label
    if extra := {path.name for path in (source / "train").iterdir() if path.is_dir()} - {*wnids}:
        raise UserError(f"{source / 'train' / min(extra)}: is no class of wnids.txt")


def _val(
    source: Path, wnids: list[str], labels: dict[str, str], left_out: Counter[str]
) -> Iterator[tuple[str, Member, int]]:
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    members = {image_name(m.name): m for m in _files(source / "val" / _IMAGES, left_out)}
    if odd := members.keys() ^ labels.keys():
        raise UserError(f"{source / 'val'}: {min(odd)} is an image or a label, but not both")
    for name, member in members.items():
        if labels[name] not in label_of:
            raise UserError(f"{source / 'val'}: {labels[name]} of {name} is not in wnids.txt")
        yield name, member, label_of[labels[name]]


def _files(folder: Path, left_out: Counter[str]) -> list[Member]:
    try:
        paths = sorted(folder.iterdir())
        left_out.update(path.name for path in paths if is_junk(path.name))
        kept = [path for path in paths if not is_junk(path.name)]
        members = [Member(path.name, path, 0, path.lstat().st_size) for path in kept]
    except OSError as error:
        raise UserError(f"{folder}: can't be listed ({error.strerror}); check the folder") from None
    for path in kept:
        if path.is_symlink() or not path.is_file():
            raise UserError(f"{path}: no plain file; Tiny ImageNet holds images there alone")
    if not members:
        raise UserError(f"{folder}: no images; get the data set again")
    return members
