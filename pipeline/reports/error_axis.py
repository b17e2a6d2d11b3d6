"""An axis of errors that the rows of a table share, drawn as small SVG elements."""

from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

_WIDTH, _LEFT, _RIGHT = 160.0, 8.0, 8.0


@dataclass(frozen=True)
class ErrorAxis:
    """From `low` to `high`, in percent; the ticks are round numbers, and the ends are ticks."""

    ticks: tuple[float, ...]

    @classmethod
    def over(cls, errors: Iterable[float]) -> "ErrorAxis":
        """Return the axis on which all of these have a place."""
        low, high = (end(errors) for end in (min, max)) if (errors := list(errors)) else (0.0, 1.0)
        margin = max(0.05, 0.02 * (high - low))
        locator = MaxNLocator(nbins=4, min_n_ticks=2, steps=[1, 2, 2.5, 5, 10])
        ticks = locator.tick_values(max(0.0, low - margin), min(100.0, high + margin))
        return cls(tuple(float(tick) for tick in ticks))

    def x(self, error: float) -> float:
        """Return the place of an error within an element, from its left, in its own units."""
        low, high = self.ticks[0], self.ticks[-1]
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (error - low) / (high - low)

    @property
    def scale(self) -> Markup:
        """The ticks with their numbers, for the head of the column."""
        marks = "".join(
            f'<path d="M{self.x(tick):.1f} 12V16" stroke="var(--muted)"/>'
            f'<text x="{self.x(tick):.1f}" y="9" text-anchor="middle">{tick:g}</text>'
            for tick in self.ticks
        )
        return _svg(marks)

    def bar(self, error: float, low: float, high: float, colour: str, *, is_mean: bool) -> Markup:
        """Draw an error with its interval; a mean as a square, a result as a dot."""
        x, left, right = self.x(error), self.x(max(low, self.ticks[0])), self.x(high)
        mark = (
            f'<rect x="{x - 3:.1f}" y="5" width="6" height="6" fill="{colour}"/>'
            if is_mean
            else f'<circle cx="{x:.1f}" cy="8" r="3.2" fill="{colour}"/>'
        )
        line = f"M{left:.1f} 8H{right:.1f}M{left:.1f} 5V11M{right:.1f} 5V11"
        return Markup(f'<path d="{line}" stroke="{colour}" stroke-width="1.5"/>{mark}')

    def diamond(self, error: float) -> Markup:
        """Draw a published error."""
        path = f"M{self.x(error):.1f} 3l5 5-5 5-5-5z"
        return Markup(f'<path d="{path}" fill="none" stroke="var(--ink)" stroke-width="1.2"/>')

    def row(self, *marks: Markup) -> Markup:
        """Return an element with these marks over the lines of the ticks."""
        lines = "".join(f"M{self.x(tick):.1f} 0V16" for tick in self.ticks)
        grid = f'<path d="{lines}" stroke="var(--line)" stroke-width="1"/>'
        return _svg(grid + "".join(marks))


def _svg(content: str) -> Markup:
    # Built from numbers and colour names alone.
    return Markup(
        f'<svg class="bar" viewBox="0 0 {_WIDTH:g} 16" aria-hidden="true">{content}</svg>'
    )
