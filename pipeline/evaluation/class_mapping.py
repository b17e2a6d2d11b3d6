"""Which output of a network stands for which class of a data set: by name, never by count."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.data.store.manifest import ImageClass
from pipeline.runtime.errors import UserError

SORTED_NUMBERS = "sorted-numbers"
_WNID = re.compile(r"(n\d{8})\b[\s,:;]*(.*)")


@dataclass(frozen=True)
class ClassMapping:
    """Column i of the predictions is output `outputs[i]` of the network, class `classes[i]`.

    The first `num_data_classes` are the data set's, in its order, so that its labels are columns;
    after them come the others of its `num_outputs`, unless it is `restricted` to guess among the
    data's. `note` is for the user.
    """

    outputs: tuple[int, ...]
    classes: tuple[ImageClass, ...]
    num_data_classes: int
    num_outputs: int
    restricted: bool = False
    note: str = ""

    @property
    def selected(self) -> tuple[int, ...] | None:
        """The outputs, or None where they are the network's in its own order."""
        return self.outputs if self.restricted or self._is_permuted else None

    @property
    def protocol_suffix(self) -> str:
        """What a protocol's name ends with, by which results of restricted logits stand apart."""
        return f"-among-{self.num_data_classes}" if self.restricted else ""

    @property
    def _is_permuted(self) -> bool:
        return self.outputs != tuple(range(len(self.outputs)))


def map_classes(
    data: Sequence[ImageClass],
    network: Sequence[ImageClass],
    num_outputs: int,
    *,
    numbering: str | None = None,
    restrict: bool = False,
) -> ClassMapping:
    """Match the classes of a data set with those that a network was trained on (empty: unknown).

    A class is matched by its name (the WNID) or its words, where these are of one class only.
    `numbering` says what numbers mean as names, and what the outputs of an unknown network are:
    "sorted-numbers", the other side's names in sorted order, or a file (`read_numbering`).
    `restrict` has the network guess among the data's classes alone, as ImageNet-A's and -R's
    papers do. Raises `UserError` that names both sets where a class of the data has no output.
    """
    names, outputs = _names(data), _names(network)
    numbers = _numbering(numbering, names, outputs, num_outputs) if numbering else None
    if not outputs and numbers is None:
        return _by_count(data, num_outputs, restrict)
    if not outputs:
        assert numbers is not None
        network = [ImageClass(index, name) for index, name in enumerate(numbers)]
    if len(network) != num_outputs:
        raise UserError(
            f"the network has {num_outputs:,} outputs, but {len(network):,} classes are named "
            f"({_some(_names(network))}); give the file of its own classes with --classes"
        )
    places = _places(_translated(network, numbers))
    found = [
        next((places[key] for key in (each.name, each.words) if key in places), None)
        for each in _translated(data, numbers)
    ]
    if None in found or len(set(found)) < len(found):
        missing = names[found.index(None)] if None in found else "a class twice"
        raise UserError(
            f"the network has no class for '{missing}' of the data: its {len(network):,} are "
            f"{_some(_names(network))}; the data's {len(data):,} are {_some(names)}; where numbers "
            f"stand for classes, say which with --classes {SORTED_NUMBERS} or --classes FILE"
        )
    chosen = [index for index in found if index is not None]
    restrict = restrict and len(chosen) < num_outputs
    others = [] if restrict else sorted(set(range(num_outputs)) - set(chosen))
    order = (*chosen, *others)
    classes = tuple(replace(network[k], index=column) for column, k in enumerate(order))
    note = ""
    if others:
        note = (
            f"the data has {len(chosen):,} of the network's {num_outputs:,} classes, which all "
            "are guessed; --restrict guesses among the data's alone, as ImageNet-A's paper does"
        )
    return ClassMapping(order, classes, len(chosen), num_outputs, restrict, note)


def read_numbering(path: Path) -> list[str]:
    """Return the names of the classes of a file; see `read_classes`."""
    return [each.name for each in read_classes(path)]


def read_classes(path: Path) -> list[ImageClass]:
    """Read the classes 0, 1, 2 …: a line each, or JSON as Keras' class index.

    A line is a name, or a WNID and words (Kaggle's `LOC_synset_mapping.txt`). JSON is a list, or
    {"0": name …}, where a name may be [WNID, words]. Raises `UserError` for others.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip()[:1] in ("[", "{"):
            content = json.loads(text)
            if isinstance(content, dict):
                content = [content[str(number)] for number in range(len(content))]
            pairs = [_named(each) if isinstance(each, str) else (*each, "")[:2] for each in content]
        else:
            pairs = [_named(line) for line in text.splitlines()]
        classes = [ImageClass(index, *pair) for index, pair in enumerate(pairs)]
        names = [each.name.strip() for each in classes]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--classes {path}: can't be read as a list of classes ({error})") from None
    repeated = [name for name, count in Counter(names).items() if count > 1 or not name]
    if repeated or not names:
        problem = f"'{repeated[0]}' is there twice" if repeated else "no classes"
        raise UserError(f"--classes {path}: {problem}; write a class a line, in their order")
    return classes


def _named(line: str) -> tuple[str, str]:
    """Return the name and the words of a line; the words are those after a WNID."""
    found = _WNID.match(line.strip())
    return (found[1], found[2]) if found else (line.strip(), "")


def _by_count(data: Sequence[ImageClass], num_outputs: int, restrict: bool) -> ClassMapping:
    """Take a network of unknown classes to have the data's, in their order."""
    names = _names(data)
    if len(data) != num_outputs or restrict:
        raise UserError(
            f"the network tells {num_outputs:,} classes apart, the data set has {len(data):,} "
            f"({_some(names)}); name another with --data, or the network's classes with --classes"
        )
    if _are_numbers(names) and names != [str(number) for number in range(len(names))]:
        raise UserError(
            f"the data's classes are numbers in the order {_some(names)}, and the network's are "
            f"not known; say with --classes {SORTED_NUMBERS} that output k is class k, or give "
            "--classes FILE"
        )
    note = (
        "which classes the network was trained on is not recorded; they are taken to be "
        f"the data's, in its order ({_some(names)})"
    )
    order = tuple(range(num_outputs))
    return ClassMapping(order, tuple(data), num_outputs, num_outputs, note=note)


def _numbering(numbering: str, data: list[str], network: list[str], num_outputs: int) -> list[str]:
    if numbering != SORTED_NUMBERS:
        return read_numbering(Path(numbering))
    for names in (network, data):
        if names and not _are_numbers(names):
            return sorted(names)
    return [str(number) for number in range(num_outputs)]


def _translated(classes: Sequence[ImageClass], numbers: list[str] | None) -> Sequence[ImageClass]:
    """Return the classes, named by `numbers` where all their names are numbers."""
    if numbers is None or not _are_numbers(_names(classes)):
        return classes
    for each in classes:
        if int(each.name) >= len(numbers):
            raise UserError(f"class {each.name} of the data has no name among {len(numbers):,}")
    return [replace(each, name=numbers[int(each.name)]) for each in classes]


def _places(classes: Sequence[ImageClass]) -> dict[str, int]:
    """Return the output of each name, and of words that only one class has."""
    counts = Counter(each.words for each in classes if each.words)
    words = {each.words: each.index for each in classes if counts[each.words] == 1}
    return words | {each.name: each.index for each in classes}


def _names(classes: Sequence[ImageClass]) -> list[str]:
    return [each.name for each in classes]


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isascii() and name.isdigit() for name in names)


def _some(names: Sequence[str]) -> str:
    """Return the first names and the last, for messages."""
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} … {names[-1]}"
