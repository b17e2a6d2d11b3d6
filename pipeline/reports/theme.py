"""The colours of the page, by light and by dark, and figures that follow them.

A figure is drawn in the light colours. In the page each of them becomes the variable of its name,
which the style sheet sets for both; as a file it stays as it was drawn.
"""

import base64
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK, MUTED, LINE, PAPER = "#1d2430", "#66707d", "#dde1e6", "#fdfdfc"
SERIES = (
    *("#2668c9", "#cf5a1b", "#22885c", "#a63d8f"),
    *("#a37b00", "#0b8499", "#6a52c7", "#8d5636"),
)
_SERIES_IN_THE_DARK = (
    *("#74a9f7", "#f5935c", "#5cc797", "#dd85cb"),
    *("#dbb545", "#55c3d6", "#ab98f2", "#c99473"),
)

LIGHT: Mapping[str, str] = {
    "ink": INK,
    "muted": MUTED,
    "line": LINE,
    "paper": PAPER,
    **{f"series-{i}": colour for i, colour in enumerate(SERIES)},
}
DARK: Mapping[str, str] = {
    "ink": "#e4e8ee",
    "muted": "#98a2b0",
    "line": "#343b46",
    "paper": "#14181e",
    **{f"series-{i}": colour for i, colour in enumerate(_SERIES_IN_THE_DARK)},
}

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "ilsvrc",  # the same figure has the same bytes
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.facecolor": "none",
    "lines.linewidth": 1.6,
    "figure.facecolor": PAPER,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw figures as the page has them."""
    with mpl.rc_context(_STYLE):
        yield


def series_colour(i: int) -> str:
    return SERIES[i % len(SERIES)]


def as_svg(figure: Figure) -> bytes:
    """Return a file's content; no date in it."""
    return _saved(figure, format="svg", metadata={"Date": None, "Creator": None})


def as_png(figure: Figure) -> bytes:
    return _saved(figure, format="png", dpi=160, metadata={"Software": None})


def for_page(svg: bytes) -> str:
    """Return an SVG file as an element of the page, as wide as its place, in the page's colours."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Names that matplotlib counts, which would stand in the page once for each figure.
    text = re.sub(r' id="[A-Za-z.0-9]+_\d+"', "", text)
    text = re.sub(r"font: ?([^;\"]*?)'[^;\"]*sans-serif", r"font: \1var(--font)", text)
    for name, colour in LIGHT.items():
        text = re.sub(re.escape(colour), f"var(--{name})", text, flags=re.IGNORECASE)
    return text


def data_uri(png: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(png).decode()}"


def _saved(figure: Figure, **options: object) -> bytes:
    content = io.BytesIO()
    with style():
        figure.savefig(content, **options)  # type: ignore[arg-type]
    return content.getvalue()
