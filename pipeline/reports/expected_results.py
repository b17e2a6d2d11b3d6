"""What a job measured beside the published results that it is to meet, a line each."""

from collections.abc import Iterable, Iterator, Sequence

from pipeline.config.job import ExpectedResult
from pipeline.results.comparability import alike, refusal
from pipeline.results.measured import Measured, errors_of
from pipeline.results.published import Published, ResultKey, published
from pipeline.results.verdict import verdict
from pipeline.runtime.errors import UserError


def published_results(expected: Iterable[ExpectedResult]) -> list[Published]:
    """Return the published result of each key; `UserError` names a key that nothing is of."""
    found = []
    for result in expected:
        key = ResultKey(**result.model_dump())
        rows = alike(key)
        if not rows:
            near = [_words(row.key) for row in published() if row.network == key.network]
            known = "; ".join(dict.fromkeys(near)) or "none of this network"
            raise UserError(f"expect: nothing is published of {_words(key)}; there are: {known}")
        found.append(rows[0])
    return found


def expected_lines(expected: Iterable[Published], measured: Sequence[Measured]) -> Iterator[str]:
    """Yield a line for each measured result that may be held against an expected one: its verdict.

    Where there is none, those of the same protocol and ensemble size say why they may not be.
    """
    for row in expected:
        found = [result for result in measured if result.key == row.key]
        for result in found:
            judged = verdict(result)
            words = judged.words if judged else f"on other images than the {row.images:,} there"
            yield f"{_measured(result)}; {row.errors} in {row.citation}: {words}"
        if found:
            continue
        near = [
            result
            for result in measured
            if (result.key.protocol, result.key.ensemble_size) == (row.protocol, row.ensemble_size)
        ]
        for result in near:
            yield f"{_measured(result)}; {refusal(result.key, row)}"
        if not near:
            yield f"nothing measured beside {row.errors} in {row.citation}, {_words(row.key)}"


def _measured(result: Measured) -> str:
    assert result.counts is not None
    errors = " / ".join(str(error) for error in errors_of(result.counts))
    return f"{result.run}, {_words(result.key)}: {errors}"


def _words(key: ResultKey) -> str:
    size = "" if key.ensemble_size == 1 else f"ensemble of {key.ensemble_size}, "
    extra = "" if key.extra_data == "none" else f", extra data {key.extra_data}"
    return f"{size}{key.network} on {key.training_data} {key.split} by {key.protocol}{extra}"
