"""The parts of a start by name, each with the seconds that it took: checks, Ray, workers, data."""

import time


class StartPhases:
    """Times one phase after the other; `current` is the name of the one at hand, or empty."""

    def __init__(self) -> None:
        self.current = ""
        self._began = 0.0
        self._seconds: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """End the phase at hand and begin `name`, which goes on where it is there already."""
        self._close()
        self.current, self._began = name, time.monotonic()

    def end(self) -> str:
        """End the start; return "started in 9.1 s: checks 0.4 s, …", or nothing if none was."""
        self._close()
        seconds, self._seconds = self._seconds, {}
        if not seconds:
            return ""
        return f"started in {sum(seconds.values()):.1f} s: {_listed(seconds)}"

    def line(self) -> str:
        """Return "starting: checks 0.4 s, Ray 3.1 s", the last one at hand."""
        now = self._seconds.get(self.current, 0.0) + time.monotonic() - self._began
        return f"starting: {_listed(self._seconds | {self.current: now})}"

    def _close(self) -> None:
        if self.current:
            before = self._seconds.get(self.current, 0.0)
            self._seconds[self.current] = before + time.monotonic() - self._began
        self.current = ""


def _listed(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {each:.1f} s" for name, each in seconds.items())
