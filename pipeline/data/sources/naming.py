"""Names that people give to splits, images and classes, and what they mean here."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence

from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.shards import numbered
from pipeline.runtime.errors import UserError
from pipeline.runtime.plain_text import printable

# Names under which results are published. Only files of known digests, or data made here, get one.
PUBLISHED = frozenset(
    ("ilsvrc2010", "ilsvrc2011", "ilsvrc2012", "cifar10", "cifar100", "mnist", "mnist1d",
     "mnist1d-shuffled", "digits")
)  # fmt: skip
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
_MOST_NAMED = 12  # in a note
_WNID_FIRST = re.compile(r"(n\d{8})_\d+")
_WNID_LAST = re.compile(r"(.+)_(n\d{8})")
_JUNK = re.compile(
    r"__MACOSX|@eaDir|#recycle|\$RECYCLE\.BIN|System Volume Information|lost\+found|"
    r"(?i:(?:eh)?thumbs\.db|desktop\.ini|icon\r)"
)


def own_name(name: str) -> str:
    """Return the name of a user's data set, which may not be a published one's."""
    return f"{name}-unverified" if name.lower() in PUBLISHED else name


def split_named(word: str) -> str | None:
    """Return the split that `word` is a usual name of: validation, Val and dev are val."""
    return _SPLITS.get(word.lower())


def is_junk(name: str) -> bool:
    """Whether a file or folder was left by a desktop, a NAS or a notebook, or is hidden."""
    return name.startswith(".") or _JUNK.fullmatch(name) is not None


def left_out_note(names: Counter[str], what: str = "left out") -> tuple[str, ...]:
    """Return a note of what was met and left out, by name, or none."""
    if not names:
        return ()
    most = names.most_common(_MOST_NAMED)
    shown = [name if count == 1 else f"{name} ({count:,})" for name, count in most]
    num_more = len(names) - _MOST_NAMED
    more = f" and {num_more} more names" if num_more > 0 else ""
    return (f"{what}: {printable(', '.join(shown))}{more}",)


def image_key(stem: str, taken: Container[str] = (), prefix: str = "") -> str:
    """Return `prefix` and `stem` as a key that shards can hold, numbered if it is among `taken`."""
    first = prefix + printable(stem).replace(".", "_")
    return next(key for key in numbered(first) if key not in taken)


def official_stem(stem: str) -> tuple[str, str | None]:
    """Return an ILSVRC image's official name without extension, and the WNID that `stem` tells.

    Others append the class: `n01440764_10026_n01440764`, `ILSVRC2012_val_00000001_n01751748`.
    """
    if last := _WNID_LAST.fullmatch(stem):
        return last[1], last[2]
    first = _WNID_FIRST.fullmatch(stem)
    return stem, first[1] if first else None


def numbered_classes(
    wnids: Iterable[tuple[int, str | None]], names: Sequence[str], count: int
) -> tuple[ImageClass, ...]:
    """Return `count` classes that a source only numbers; `names` are its own, and may be none.

    `wnids` are the labels of all images, with what `official_stem` tells, or None. If that is one
    WNID for every label, and another for each, these are the classes' names; else `names`, where
    they are unique; else the numbers. Raises `UserError` where two labels have one WNID.
    """
    told: dict[int, str | None] = {}
    for label, wnid in wnids:
        if wnid and label >= 0 and told.setdefault(label, wnid) != wnid:
            told[label] = None
    words = [*names, *[""] * (count - len(names))]
    found = set(told.values())
    if None not in found and len(found) < len(told):
        wnid = next(each for each, times in Counter(told.values()).items() if times > 1)
        labels = [str(label) for label in sorted(told) if told[label] == wnid]
        raise UserError(
            f"labels {' and '.join(labels)} are both of {wnid}, by the images' names; a class has "
            "one label"
        )
    if None not in found and len(found) == len(told) == count:
        return tuple(ImageClass(k, str(told[k]), words[k]) for k in range(count))
    if len(set(names)) == len(names) == count:
        return tuple(ImageClass(k, name) for k, name in enumerate(names))
    return tuple(ImageClass(k, str(k), words[k]) for k in range(count))
