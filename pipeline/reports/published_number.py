"""Whether a published number, such as "AlexNet 15.3", compares with a run: the answer as text."""

import re
from collections.abc import Sequence

from pipeline.results.comparability import nearest, on_val
from pipeline.results.measured import Measured
from pipeline.results.published import (
    Published,
    ResultKey,
    lecture_table,
    protocol_passes,
    protocol_words,
    published,
)
from pipeline.results.reproduction import check_reproduction
from pipeline.runtime.errors import UserError


def find_published(text: str) -> list[Published]:
    """Return the published results that match a network's name and an error, "alexnet 15.3".

    A number of the lecture's table is its own entry; else all results match that have this top-1 or
    top-5 error, to as many digits as are given. The name may be left out, or be a part of one.
    Raises `UserError` if nothing matches.
    """
    *words, number = text.split() or [""]
    if not re.fullmatch(r"\d+(\.\d+)?", number):
        raise UserError(f"--with '{text}': write a network and an error in %, as 'alexnet 15.3'")
    name = " ".join(words).lower()
    of_lecture = [
        entry.result
        for entry in lecture_table()
        if name in entry.name.lower() and entry.top5_error == float(number)
    ]
    named = [result for result in published() if name in result.network.lower()]
    found = of_lecture or [result for result in named if _has_error(result, number)]
    if not found:
        known = f"; `ilsvrc published {named[0].network}` lists its numbers" if named else ""
        raise UserError(f"--with '{text}': no published result has this error{known}")
    return found


def explain_number(number: Published, results: Sequence[Measured]) -> list[str]:
    """Say what `number` is, and how each result of the same family compares with it."""
    families = set().union(*(_family(name) for name in re.split(", | and ", number.network)))
    same_family = [result for result in results if _family(result.key.network) & families]
    lines = [f"{_errors(number)} of {number.citation}: {_measured_on(number.key)}"]
    if number.members:
        lines.append(f"  {number.composition}")
    if not same_family:
        single = [r for entry in lecture_table() if entry.result == number for r in entry.instead]
        lines += [f"  one network: {_errors(r)} ({_measured_on(r.key)})" for r in single]
        return [*lines, "  no run of this network has been evaluated"]
    for result in same_family:
        errors = " / ".join(map(str, result.errors))
        where = _measured_on(result.key)
        lines += ["", f"{result.run}, {result.key.network}: {errors} ({where})"]
        lines += [f"  {line}" for line in compare_number(number, result)]
    return lines


def compare_number(number: Published, result: Measured) -> list[str]:
    """Compare `result` with `number` if their keys are equal, else say what compares with it."""
    key = result.key
    if number.key == key:
        return [_reproduction(result)]
    val = on_val(number)
    if val and val.key == key:
        return [
            f"{_errors(number)} is of {number.split}; the same on val is {_errors(val)}",
            _reproduction(result),
        ]
    reason = f"not comparable: {_measured_on(number.key)}"
    near = nearest(key)
    if near is None:
        return [f"{reason}; nothing is published of {key.network}"]
    is_measurable = (near.split, near.ensemble_size, near.extra_data) == (
        key.split, key.ensemble_size, key.extra_data,
    )  # fmt: skip
    kind = "like for like" if is_measurable else "nearest"
    lines = [f"{reason}; {kind}: {_errors(near)} ({_measured_on(near.key)})"]
    if number.extra_data != key.extra_data:
        lines.append(f"it had extra data: {number.extra_data}")
    if val:
        lines.append(f"the same on val: {_errors(val)}")
    if near.key == key:
        lines.append(f"this run beside {_errors(near)}: {_reproduction(result)}")
    elif is_measurable:
        lines.append(f"to measure it: ilsvrc evaluate {result.run} --protocol {near.protocol}")
    return lines


def _has_error(result: Published, number: str) -> bool:
    digits = len(number.partition(".")[2])
    errors = [error for error in (result.top1_error, result.top5_error) if error is not None]
    return any(f"{error:.{digits}f}" == number for error in errors)


def _reproduction(result: Measured) -> str:
    if not result.complete:
        return "no verdict: the training is incomplete"
    found = check_reproduction(result)
    return found.words if found else "no verdict: it is of other images"


def _measured_on(key: ResultKey) -> str:
    """Return what an error was measured on, as "7 networks, 10 crops, test"."""
    if key.ensemble_size is None:
        networks = "an unknown number of networks"
    else:
        networks = f"{key.ensemble_size} network{'s' * (key.ensemble_size != 1)}"
    words = protocol_words(key.protocol)
    # Of several views the sizes, in parentheses, are left out.
    protocol = words if protocol_passes(key.protocol) == 1 else words.partition(" (")[0]
    return f"{networks}, {protocol}, {key.split}"


def _errors(result: Published) -> str:
    if result.top1_error is None:
        return f"top-5 {result.top5_error}"
    return result.errors.replace(" / ", "/")


def _family(network: str) -> set[str]:
    """Return the letters that a network's name begins with, "resnet" of "resnet50" or "resnets"."""
    letters = re.match("[a-z]*", network.lower())
    return {letters.group().rstrip("s")} if letters and letters.group() else set()
