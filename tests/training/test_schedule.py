"""Learning rates at positions that can be worked out by hand."""

import pytest

from pipeline.config import optimization
from pipeline.training.schedule import PlateauState, Schedule

NEVER = PlateauState()


def factor(settings: optimization.Schedule, position: float, epochs: int = 10) -> float:
    return Schedule(settings, epochs).factor(position, NEVER)


def test_step_drops_at_the_start_of_its_epochs() -> None:
    step = optimization.Step(epochs=(3, 6))
    assert [factor(step, at) for at in (0, 2.999, 3, 5.5, 6, 9.9)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_piecewise_goes_from_factor_to_factor() -> None:
    lenet5 = optimization.Piecewise(epochs=(2, 5), factors=(0.4, 2.0))
    assert [factor(lenet5, at) for at in (0, 1.999, 2, 4.9, 5, 9)] == [1, 1, 0.4, 0.4, 2, 2]


def test_poly_and_cosine_end_low() -> None:
    assert factor(optimization.Poly(power=0.5), 7.5) == pytest.approx(0.5)
    assert factor(optimization.Cosine(), 0) == pytest.approx(1)
    assert factor(optimization.Cosine(), 5) == pytest.approx(0.5)
    assert factor(optimization.Cosine(final_factor=0.2), 10) == pytest.approx(0.2)


def test_warmup_rises_from_nothing_then_hands_over() -> None:
    cosine = optimization.Cosine(warmup_epochs=2)
    assert [factor(cosine, at) for at in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_plateau_waits_then_drops_and_stops_dropping() -> None:
    schedule = Schedule(optimization.Plateau(patience=2, max_drops=1), epochs=10)
    state, factors = PlateauState(), []
    errors = (50.0, 40.0, 41.0, 40.0, 39.0, 39.0, 39.0, 39.0)
    for epoch, error in enumerate(errors, 1):
        state = schedule.observe(state, epoch, error)
        factors.append(schedule.factor(5.0, state))
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert (state.best_error, state.best_epoch) == (39.0, 5)


def test_other_schedules_only_remember_the_best() -> None:
    schedule = Schedule(optimization.Constant(), epochs=10)
    state = schedule.observe(schedule.observe(PlateauState(), 1, 5.0), 2, 7.0)
    assert (state.best_error, state.num_drops) == (5.0, 0)
    assert schedule.factor(9.0, state) == 1.0


def test_exponential_falls_in_stairs() -> None:
    settings = optimization.Exponential(factor=0.96, every_epochs=8)
    assert factor(settings, 7.99, 100) == 1.0
    assert factor(settings, 8, 100) == 0.96
    assert factor(settings, 24.5, 100) == pytest.approx(0.96**3)
