"""A small ILSVRC-2012 in the layout of the official archives, of crops of real photographs."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_sample_images

from pipeline.data.sources.ilsvrc2012 import Edition, Sources

# The order of ILSVRC2012_IDs is not that of WNIDs.
WNIDS = ("n02000000", "n01440764", "n15075141", "n03000000")
SORTED = sorted(WNIDS)
NUM_TRAIN = {"n02000000": 5, "n01440764": 7, "n15075141": 6, "n03000000": 5}
VAL_IDS = (3, 1, 2, 4, 4, 2, 1, 3)
NUM_TEST = 6
NUM_INNER_SYNSETS = 860

EDITION = Edition(
    num_classes=4,
    images_per_class=(5, 7),
    num_images={"train": 23, "val": 8, "test": 6},
    first_val_labels=(3, 1, 0),
    md5={},
)


def photographs(count: int, seed: int = 0) -> Iterator[Image.Image]:
    random, photos = np.random.default_rng(seed), load_sample_images().images
    for number in range(count):
        height, width = random.integers(60, 200, 2)
        y, x = random.integers(0, 427 - height), random.integers(0, 640 - width)
        yield Image.fromarray(photos[number % 2][y : y + height, x : x + width])


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def write_tar(file: Path | io.BytesIO, members: dict[str, bytes] | list[tuple[str, bytes]]) -> None:
    target = {"name": file} if isinstance(file, Path) else {"fileobj": file}
    with tarfile.open(mode="w", **target) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def write_devkit(file: Path) -> None:
    """Write the kit: leaf synsets by ILSVRC2012_ID, then the inner ones, which are no classes."""
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children",
              "wordnet_height", "num_train_images"]  # fmt: skip
    rows = [
        (number, wnid, f"thing {wnid}, crane", "a thing", 0, np.array([]), 0, NUM_TRAIN[wnid])
        for number, wnid in enumerate(WNIDS, start=1)
    ]
    rows += [
        (len(WNIDS) + number, f"n{1740 + number:08d}", "entity", "all", 2, np.array([1, 2]), 2, 0)
        for number in range(1, NUM_INNER_SYNSETS + 1)
    ]
    synsets = np.array(rows, dtype=[(field, object) for field in fields]).reshape(-1, 1)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{number}\n" for number in VAL_IDS).encode()
    root = "ILSVRC2012_devkit_t12"
    members = {
        f"{root}/readme.txt": b"read me",
        f"{root}/data/meta.mat": meta.getvalue(),
        f"{root}/data/ILSVRC2012_validation_ground_truth.txt": truth,
    }
    with tarfile.open(file, "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def train_images() -> dict[str, dict[str, bytes]]:
    """Return {synset: {file: JPEG}}; numbers in names are neither in a row nor of one width."""
    pictures = photographs(sum(NUM_TRAIN.values()))
    return {
        wnid: {f"{wnid}_{7 * number + 3}.JPEG": jpeg(next(pictures)) for number in range(count)}
        for wnid, count in NUM_TRAIN.items()
    }


def write_train(file: Path, images: dict[str, dict[str, bytes]]) -> None:
    inner = {}
    for wnid, members in images.items():
        buffer = io.BytesIO()
        write_tar(buffer, members)
        inner[f"{wnid}.tar"] = buffer.getvalue()
    write_tar(file, inner)


def write_flat(file: Path, kind: str, count: int, folder: str = "") -> dict[str, bytes]:
    members = {
        f"{folder}ILSVRC2012_{kind}_{number:08d}.JPEG": jpeg(picture)
        for number, picture in enumerate(photographs(count, seed=count), start=1)
    }
    write_tar(file, dict(sorted(members.items(), reverse=True)))
    return members


def write_official(folder: Path) -> Sources:
    """Write all four archives, named as the official ones."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = Sources(
        train=folder / "ILSVRC2012_img_train.tar",
        val=folder / "ILSVRC2012_img_val.tar",
        devkit=folder / "ILSVRC2012_devkit_t12.tar.gz",
        test=folder / "ILSVRC2012_img_test_v10102019.tar",
    )
    write_train(sources.train, train_images())
    write_flat(sources.val, "val", len(VAL_IDS))
    write_devkit(sources.devkit)
    assert sources.test
    write_flat(sources.test, "test", NUM_TEST, folder="test/")
    return sources


def hostile(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a tar archive with one member, of any name and kind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, "/etc/passwd", 0
        archive.addfile(entry)
    return buffer.getvalue()
