"""Outputs of a network and classes of a data set: matched by name, by numbers only if declared."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.data.store.manifest import ImageClass
from pipeline.evaluation.class_mapping import map_classes, read_numbering
from pipeline.results.published import protocol_words
from pipeline.runtime.errors import UserError

WNIDS = tuple(f"n{7 * number:08d}" for number in range(12))
IN_TEXT_ORDER = tuple(sorted(str(number) for number in range(12)))  # 0, 1, 10, 11, 2 …


def classes(names: Sequence[str], words: Sequence[str] = ()) -> list[ImageClass]:
    return [
        ImageClass(index, name, words[index] if words else "") for index, name in enumerate(names)
    ]


def test_classes_in_another_order_are_found_by_name() -> None:
    mapping = map_classes(classes(WNIDS[::-1]), classes(WNIDS), 12)
    assert mapping.outputs == mapping.selected == tuple(range(11, -1, -1))
    assert [each.name for each in mapping.classes] == list(WNIDS[::-1])
    assert [each.index for each in mapping.classes] == list(range(12))
    assert map_classes(classes(WNIDS), classes(WNIDS), 12).selected is None


def test_words_that_one_class_has_are_its_name_too() -> None:
    network = classes(["n1", "n2", "n3"], ["crane", "tench", "crane"])
    assert map_classes(classes(["tench", "n3"]), network, 3).outputs == (1, 2, 0)
    assert map_classes(classes(["x", "n3"], ["tench", ""]), network, 3).outputs == (1, 2, 0)
    with pytest.raises(UserError, match="no class for 'crane'"):
        map_classes(classes(["crane", "tench"]), network, 3)


def test_numbers_stand_for_classes_only_if_declared(tmp_path: Path) -> None:
    numbers, named = classes(IN_TEXT_ORDER), classes(WNIDS)
    with pytest.raises(UserError, match=r"n00000000, .* 0, 1, 10 … 9; .*sorted-numbers or --cla"):
        map_classes(numbers, named, 12)
    expected = (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)
    assert map_classes(numbers, named, 12, numbering="sorted-numbers").outputs == expected
    other_way = map_classes(named, numbers, 12, numbering="sorted-numbers").outputs
    assert [IN_TEXT_ORDER[output] for output in other_way] == [str(k) for k in range(12)]
    file = tmp_path / "classes.txt"
    file.write_text("".join(f"{wnid} some, words\n" for wnid in WNIDS[::-1]))
    mirrored = tuple(11 - number for number in expected)
    assert map_classes(numbers, named, 12, numbering=str(file)).outputs == mirrored


def test_a_network_of_unknown_classes_has_the_datas_or_declared_ones(tmp_path: Path) -> None:
    by_count = map_classes(classes(WNIDS), (), 12)
    assert (by_count.selected, "is not recorded" in by_count.note) == (None, True)
    with pytest.raises(UserError, match=r"in the order 0, 1, 10 … 9, and the network's are not"):
        map_classes(classes(IN_TEXT_ORDER), (), 12)
    declared = map_classes(classes(IN_TEXT_ORDER), (), 12, numbering="sorted-numbers")
    assert declared.outputs == (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)
    with pytest.raises(UserError, match="tells 12 classes apart, the data set has 2"):
        map_classes(classes(WNIDS[3:5]), (), 12)
    file = tmp_path / "index.json"
    file.write_text(json.dumps({str(k): [wnid, "words"] for k, wnid in enumerate(WNIDS)}))
    subset = map_classes(classes(WNIDS[3:5]), (), 12, numbering=str(file))
    assert subset.outputs[:2] == (3, 4)
    with pytest.raises(UserError, match=r"13 outputs, but 12 classes are named"):
        map_classes(classes(WNIDS), (), 13, numbering=str(file))


def test_restricting_is_told_by_the_protocol() -> None:
    network = classes(WNIDS)
    free = map_classes(classes(WNIDS[4:6]), network, 12)
    assert (len(free.outputs), free.protocol_suffix) == (12, "")
    assert "2 of the network's 12 classes" in free.note
    mapping = map_classes(classes(WNIDS[4:6]), network, 12, restrict=True)
    assert (mapping.selected, mapping.protocol_suffix) == ((4, 5), "-among-2")
    assert map_classes(network, network, 12, restrict=True).protocol_suffix == ""
    assert protocol_words("center-256-224-among-200").endswith("guesses among 200 classes")


@pytest.mark.parametrize(
    ("content", "message"),
    [("a\nb\na\n", "'a' is there twice"), ("", "no classes"), ('{"1": "a"}', "can't be read")],
)
def test_files_that_are_no_list_of_classes_are_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "classes"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_numbering(file)
