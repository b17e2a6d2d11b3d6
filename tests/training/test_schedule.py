"""Learning rates at positions that can be computed by hand."""

import pytest

from pipeline.config import optimization
from pipeline.training.schedule import PlateauState, Schedule

NEVER = PlateauState()


def factor(settings: optimization.ScheduleConfig, position: float, epochs: int = 10) -> float:
    return Schedule(settings, epochs).factor(position, NEVER)


def test_step_drops_at_the_start_of_its_epochs() -> None:
    step = optimization.StepSchedule(epochs=(3, 6))
    assert [factor(step, at) for at in (0, 2.999, 3, 5.5, 6, 9.9)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_piecewise_has_a_factor_from_each_epoch_on() -> None:
    lenet5 = optimization.PiecewiseSchedule(epochs=(2, 5), factors=(0.4, 2.0))
    assert [factor(lenet5, at) for at in (0, 1.999, 2, 4.9, 5, 9)] == [1, 1, 0.4, 0.4, 2, 2]


def test_poly_and_cosine_follow_their_formula() -> None:
    assert factor(optimization.PolySchedule(power=0.5), 7.5) == pytest.approx(0.5)
    assert factor(optimization.CosineSchedule(), 0) == pytest.approx(1)
    assert factor(optimization.CosineSchedule(), 5) == pytest.approx(0.5)
    assert factor(optimization.CosineSchedule(final_factor=0.2), 10) == pytest.approx(0.2)


def test_warmup_rises_from_0_to_the_start_of_the_schedule() -> None:
    cosine = optimization.CosineSchedule(warmup_epochs=2)
    assert [factor(cosine, at) for at in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_plateau_drops_after_its_patience_and_at_most_so_often() -> None:
    schedule = Schedule(optimization.PlateauSchedule(patience=2, max_drops=1), epochs=10)
    state, factors = PlateauState(), []
    errors = (50.0, 40.0, 41.0, 40.0, 39.0, 39.0, 39.0, 39.0)
    for epoch, error in enumerate(errors, 1):
        state = schedule.observe(state, epoch, error)
        factors.append(schedule.factor(5.0, state))
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert (state.best_error, state.best_epoch) == (39.0, 5)


def test_other_schedules_only_record_the_best_error() -> None:
    schedule = Schedule(optimization.ConstantSchedule(), epochs=10)
    state = schedule.observe(schedule.observe(PlateauState(), 1, 5.0), 2, 7.0)
    assert (state.best_error, state.num_drops) == (5.0, 0)
    assert schedule.factor(9.0, state) == 1.0


def test_exponential_drops_every_so_many_epochs() -> None:
    settings = optimization.ExponentialSchedule(factor=0.96, every_epochs=8)
    assert factor(settings, 7.99, 100) == 1.0
    assert factor(settings, 8, 100) == 0.96
    assert factor(settings, 24.5, 100) == pytest.approx(0.96**3)
