"""Errors of one table have one axis: what is farther right is higher, and nothing is outside."""

import re

import pytest

from pipeline.reports.error_axis import ErrorAxis


@pytest.mark.parametrize(
    ("errors", "ticks"),
    [
        ([2.45, 10.68], (0, 2.5, 5, 7.5, 10, 12.5)),
        ([0.0, 0.43], (0, 0.2, 0.4, 0.6)),
        ([22.9, 23.1], (22.8, 22.9, 23.0, 23.1, 23.2)),
        ([0.0, 100.0], (0, 25, 50, 75, 100)),
        ([], (0, 0.5, 1, 1.5)),
    ],
)
def test_the_axis_reaches_over_all_errors_in_round_steps(
    errors: list[float], ticks: tuple[float, ...]
) -> None:
    axis = ErrorAxis.over(errors)
    assert axis.ticks == pytest.approx(ticks)
    assert [f">{tick:g}</text>" in axis.scale for tick in ticks] == [True] * len(ticks)
    places = [axis.x(error) for error in sorted(errors)]
    assert all(0 < place < 160 for place in places)
    assert places == sorted(set(places))


def test_different_errors_are_at_different_places_with_their_intervals() -> None:
    axis = ErrorAxis.over([1.62, 3.68, 8.8, 12.9])
    low, high = (
        axis.row(axis.bar(*error, "var(--ink)", is_mean=False))
        for error in ((2.45, 1.62, 3.68), (10.68, 8.8, 12.9))
    )
    at = [float(re.search(r'<circle cx="([\d.]+)"', bar)[1]) for bar in (low, high)]
    assert at == pytest.approx([axis.x(2.45), axis.x(10.68)], abs=0.05)
    assert f"M{axis.x(1.62):.1f} 8H{axis.x(3.68):.1f}" in low
    assert "<rect" in axis.bar(2.0, 1.0, 3.0, "var(--ink)", is_mean=True)


def test_a_deviation_larger_than_the_mean_ends_at_the_axis() -> None:
    axis = ErrorAxis.over([0.0, 5.0])
    assert f"M{axis.x(0.0):.1f} 8H" in axis.bar(1.0, -2.0, 4.0, "var(--ink)", is_mean=True)
