"""Files that label images, as different people write them; of some kinds an image has several."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.runtime.errors import UserError

_IMAGE = re.compile(r"\.(jpe?g|png|webp|bmp|tiff?)$", re.IGNORECASE)
_LARGEST = 2**28
_VAL_NAME = "ILSVRC2012_val_{:08d}"
_KNOWN = (
    "write lines of 'IMAGE LABEL' (Caffe, val_annotations.txt), Kaggle's CSV, or JSON as ReaL's"
)


def image_name(path: str) -> str:
    """Return what a label file calls an image by: its name without folders and extension."""
    return _IMAGE.sub("", path.replace("\\", "/").rsplit("/", 1)[-1])


def read_label_file(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the labels of each image, by `image_name`: class names, or numbers as text.

    JSON is {image: label or labels}, or a list of such in the order of ILSVRC's validation images,
    as ReaL's (Beyer et al. 2020), where an image may have none. A CSV has the image in its first
    column and the label in its second; of Kaggle's `PredictionString` that is every box's WNID.
    Other files have a line an image, its label after it, and more after that. Raises `UserError`
    that names the file and line.
    """
    return parse_labels(read_text(path), str(path))


def parse_labels(text: str, where: str) -> dict[str, tuple[str, ...]]:
    """Return the labels in the `text` of a file, as `read_label_file`."""
    if text.lstrip()[:1] in ("[", "{"):
        rows = _from_json(text, where)
    elif "," in text.split("\n", 1)[0]:
        rows = _from_csv(text, where)
    else:
        rows = _from_lines(text, where)
    labels: dict[str, tuple[str, ...]] = {}
    for line, image, of_image in rows:
        if labels.setdefault(image, of_image) != of_image:
            raise UserError(f"{where}, line {line}: {image} is there twice, with other labels")
    if not labels:
        raise UserError(f"{where}: labels no image; {_KNOWN}")
    return labels


def read_text(path: Path) -> str:
    """Return the text of a file, without a byte order mark; `UserError` if it isn't one."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path}: larger than any file of labels; choose another")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as text ({error}); choose another") from None


def only_labels(labels: Mapping[str, tuple[str, ...]], where: str) -> dict[str, str]:
    """Return the one label of each image; `UserError` for another number of them."""
    for image, found in labels.items():
        if len(found) != 1:
            raise UserError(
                f"{where}: {image} has {len(found)} labels, and a packed image has one; pack with "
                f"labels of one each, then score with `ilsvrc predictions RUN --labels {where}`"
            )
    return {image: found[0] for image, found in labels.items()}


_Rows = Iterator[tuple[int, str, tuple[str, ...]]]


def _from_json(text: str, where: str) -> _Rows:
    try:
        content = json.loads(text)
        if isinstance(content, list):
            content = {_VAL_NAME.format(number): of for number, of in enumerate(content, 1)}
        for number, (image, of_image) in enumerate(content.items(), 1):
            several = of_image if isinstance(of_image, list) else [of_image]
            if not all(isinstance(label, int | str) for label in several):
                raise TypeError(f"the label of {image}")
            yield number, image_name(image), tuple(str(label) for label in several)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: no labels in JSON ({error}); {_KNOWN}") from None


def _from_csv(text: str, where: str) -> _Rows:
    is_kaggles = False
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        if number == 1 and not _looks_labelled(row):
            is_kaggles = "PredictionString" in row
            continue
        if not row:
            continue
        if len(row) < 2 or not row[1].strip():
            raise UserError(f"{where}, line {number}: no label in its second column; {_KNOWN}")
        # Kaggle's: a WNID and the four corners of a box, again for each box.
        labels = row[1].split()[::5] if is_kaggles else [row[1].strip()]
        yield number, image_name(row[0].strip()), tuple(dict.fromkeys(labels))


def _looks_labelled(row: list[str]) -> bool:
    """Whether a CSV's first row is no header, but an image already."""
    return _IMAGE.search(row[0].strip()) is not None or any(map(str.isdigit, row[0][-4:]))


def _from_lines(text: str, where: str) -> _Rows:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        cells = line.split("\t") if "\t" in line else line.split()
        if len(cells) < 2 or not cells[1].strip():
            raise UserError(f"{where}, line {number}: '{line[:40]}' names no label; {_KNOWN}")
        yield number, image_name(cells[0]), (cells[1].strip(),)
