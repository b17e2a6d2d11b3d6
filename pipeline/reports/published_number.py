"""May this number be held against that run? The answer to "AlexNet 15.3", as lines of text."""

import re
from collections.abc import Sequence

from pipeline.results.comparability import nearest, on_val
from pipeline.results.measured import Measured, errors_of
from pipeline.results.published import (
    Published,
    ResultKey,
    lecture_table,
    protocol_passes,
    protocol_words,
    published,
)
from pipeline.results.verdict import verdict
from pipeline.runtime.errors import UserError


def asked_for(text: str) -> list[Published]:
    """Return the published results meant by a network's name and an error, "alexnet 15.3".

    A number of the lecture's table means its own entry; else every result with that top-1 or
    top-5 error counts, to as many digits as are given. The name may be left out, or be a part of
    one. Raises `UserError` where nothing is meant.
    """
    *words, number = text.split() or [""]
    if not re.fullmatch(r"\d+(\.\d+)?", number):
        raise UserError(f"--with '{text}': write a network and an error in %, as 'alexnet 15.3'")
    name = " ".join(words).lower()
    shown = [
        entry.result
        for entry in lecture_table()
        if name in entry.name.lower() and f"{entry.top5_error:g}" == f"{float(number):g}"
    ]
    named = [result for result in published() if name in result.network.lower()]
    found = shown or [result for result in named if _has(result, number)]
    if not found:
        known = f"; `ilsvrc published {named[0].network}` lists its numbers" if named else ""
        raise UserError(f"--with '{text}': no published result has this error{known}")
    return found


def answers(asked: Published, results: Sequence[Measured]) -> list[str]:
    """Say what `asked` is, and for each result of its family what it may be held against."""
    mine = [result for result in results if _family(result.key.network) & _families(asked)]
    lines = [f"{_compact(asked)} of {asked.citation}: {_what(asked.key)}"]
    if asked.members:
        lines.append(f"  {asked.composition}")
    if not mine:
        instead = [r for entry in lecture_table() if entry.result == asked for r in entry.instead]
        held = [f"  one network: {_compact(r)} ({_brief(r.key)})" for r in instead]
        return [*lines, *held, "  no run of this network has been evaluated"]
    for result in mine:
        lines += ["", _subject(result)]
        lines += [f"  {line}" for line in answer(asked, result)]
    return lines


def answer(asked: Published, result: Measured) -> list[str]:
    """Say how `result` stands to `asked`: a verdict where they are alike, else a refusal."""
    key = result.key
    if asked.key == key:
        return [_verdict(result)]
    twin = on_val(asked)
    if twin and twin.key == key:
        return [
            f"{_compact(asked)} is of {asked.split}; its published twin on val is {_compact(twin)}",
            _verdict(result),
        ]
    near = nearest(key)
    if near is None:
        return [f"not comparable: {_what(asked.key)}; nothing is published of {key.network}"]
    alike = (near.split, near.ensemble_size, near.extra_data) == (
        key.split, key.ensemble_size, key.extra_data,
    )  # fmt: skip
    kind = "like for like" if alike else "nearest"
    lines = [f"not comparable: {_what(asked.key)}; {kind}: {_compact(near)} ({_brief(near.key)})"]
    if asked.extra_data != key.extra_data:
        lines.append(f"it had extra data: {asked.extra_data}")
    if twin:
        lines.append(f"its published twin on val: {_compact(twin)}")
    if near.key == key:
        lines.append(f"this run beside {_compact(near)}: {_verdict(result)}")
    elif alike:
        lines.append(f"to measure it: ilsvrc evaluate {result.run} --protocol {near.protocol}")
    return lines


def _has(result: Published, number: str) -> bool:
    digits = len(number.partition(".")[2])
    errors = [error for error in (result.top1_error, result.top5_error) if error is not None]
    return any(f"{error:.{digits}f}" == number for error in errors)


def _verdict(result: Measured) -> str:
    if not result.complete:
        return "no verdict: the training is incomplete"
    found = verdict(result)
    return found.words if found else "no verdict: it is of other images"


def _subject(result: Measured) -> str:
    errors = " / ".join(map(str, errors_of(result.counts))) if result.counts else "not measured"
    return f"{result.run}, {result.key.network}: {errors} ({_brief(result.key)})"


def _what(key: ResultKey) -> str:
    """ "7 networks × 10 crops on test"."""
    return f"{_networks(key)} × {_protocol(key)} on {key.split}"


def _brief(key: ResultKey) -> str:
    """ "1 network, 10 crops, val"."""
    return f"{_networks(key)}, {_protocol(key)}, {key.split}"


def _networks(key: ResultKey) -> str:
    if key.ensemble_size is None:
        return "an unknown number of networks"
    return f"{key.ensemble_size} network{'s' * (key.ensemble_size != 1)}"


def _protocol(key: ResultKey) -> str:
    # A single view says how it was cut: that is all there is to it.
    words = protocol_words(key.protocol)
    return words if protocol_passes(key.protocol) == 1 else words.partition(" (")[0]


def _compact(result: Published) -> str:
    if result.top1_error is None:
        return f"top-5 {result.top5_error}"
    return result.errors.replace(" / ", "/")


def _families(result: Published) -> set[str]:
    return set().union(*(_family(name) for name in re.split(", | and ", result.network)))


def _family(network: str) -> set[str]:
    """The letters that a network's name begins with, "resnet" of "resnet50"; a plural's too."""
    letters = re.match("[a-z]*", network.lower())
    return {letters.group().rstrip("s")} if letters and letters.group() else set()
