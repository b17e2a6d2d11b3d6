"""What a recipe expects, and a job's results beside the published ones that it should reproduce."""

import shlex
from collections.abc import Iterable, Iterator, Sequence

from pipeline.config.job import ExpectedResult
from pipeline.config.recipe import Recipe
from pipeline.data.sources.naming import own_name
from pipeline.results.comparability import difference, reference_result
from pipeline.results.measured import Measured
from pipeline.results.published import Published, ResultKey
from pipeline.results.reproduction import check_reproduction
from pipeline.runtime.errors import UserError


def expectation_line(as_written: Recipe, trained: Recipe, measured: ResultKey) -> str | None:
    """Return what a recipe expects, where `measured` is on its data and by its protocol.

    trained: the recipe with the values that the user changed.
    """
    expect, data = as_written.expect, as_written.data.name
    if expect is None or measured.protocol != expect.protocol:
        return None
    if measured.training_data not in (data, own_name(data)):  # verified or not
        return None
    same = as_written.model_copy(update={"seed": trained.seed}) == trained
    words = "by the recipe" if same else "by the recipe as it is written"
    errors = {"top-1 error": expect.top1_error, "top-5 error": expect.top5_error}
    figures = ", ".join(
        f"{name} {error:g} %" for name, error in errors.items() if error is not None
    )
    return f"expected {words}: {figures} ({expect.protocol}; {expect.source})"


def find_expected(expected: Iterable[ExpectedResult]) -> list[Published]:
    """Return the published result of each key; `UserError` names a key without one."""
    found = []
    for each in expected:
        key = ResultKey(**each.model_dump())
        result = reference_result(key)
        if result is None:
            raise UserError(
                f"expect: nothing is published of {_words(key)}; "
                f"`ilsvrc published {shlex.quote(key.network)}` prints what is"
            )
        found.append(result)
    return found


def expected_lines(expected: Iterable[Published], measured: Sequence[Measured]) -> Iterator[str]:
    """Yield the verdict on each measured result that has the key of an expected one.

    Where there is none, those of the same protocol and ensemble size say what is different.
    """
    for reference in expected:
        same_test = [
            result
            for result in measured
            if (result.key.protocol, result.key.ensemble_size)
            == (reference.protocol, reference.ensemble_size)
        ]
        same_key = [result for result in same_test if result.key == reference.key]
        for result in same_key or same_test:
            yield (
                f"{result.run}, {_words(result.key)}: {' / '.join(map(str, result.errors))}; "
                f"{reference.errors} in {reference.citation}: {_verdict(result, reference)}"
            )
        if not same_test:
            words = _words(reference.key)
            yield f"nothing measured beside {reference.errors} in {reference.citation}, {words}"


def _verdict(result: Measured, reference: Published) -> str:
    if result.key != reference.key:
        return f"not comparable, {difference(reference.key, result.key)}"
    reproduction = check_reproduction(result)
    return reproduction.words if reproduction else f"on other images, {reference.images:,}"


def _words(key: ResultKey) -> str:
    words = f"{key.network} on {key.training_data} {key.split} by {key.protocol}"
    return ", ".join([words, *key.qualifiers])
