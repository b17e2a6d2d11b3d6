"""How long a training still takes, at the speed of its steps so far."""

import time

_STEPS_BEFORE_A_GUESS = 3


class TimeLeft:
    """Times steps; the start, and the first step with what it prepares, don't count.

    At the speed of this process: a resumed training did its first steps in an earlier one.
    """

    def __init__(self) -> None:
        self._began_at: int | None = None  # steps, when the first batch came
        self._timed_from: tuple[float, int] | None = None  # time, steps done
        self._last = (0.0, 0)
        self._num_steps = 1

    def note(self, epoch: int, step: int, num_steps: int) -> None:
        """Note that `step` steps of `epoch`, from 0, are done now, of `num_steps` each."""
        done = epoch * num_steps + step
        if self._began_at is None:
            self._began_at = done
        if self._timed_from is None and done > self._began_at:
            self._timed_from = time.monotonic(), done
        self._last, self._num_steps = (time.monotonic(), done), num_steps

    def until(self, epochs: int) -> str:
        """Return the time until `epochs` epochs are done, as "1:02:03"; empty until it is known."""
        if self._timed_from is None:
            return ""
        (since, before), (now, done) = self._timed_from, self._last
        if done - before < _STEPS_BEFORE_A_GUESS or now <= since:
            return ""
        seconds = round((epochs * self._num_steps - done) * (now - since) / (done - before))
        hours, rest = divmod(seconds, 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
