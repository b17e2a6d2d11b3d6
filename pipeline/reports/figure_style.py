"""The colours of the page, light and dark, matplotlib's style, and figures as SVG and PNG.

A figure is drawn in the light colours. In the page each colour is replaced by the CSS variable of
its name, which the style sheet sets for both; in a file it stays as drawn.
"""

import base64
import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from pipeline.runtime.plain_text import printable, printable_lines

INK, MUTED, LINE, PAPER = "#1d2430", "#66707d", "#dde1e6", "#fdfdfc"
SERIES = (
    *("#2668c9", "#cf5a1b", "#22885c", "#a63d8f"),
    *("#a37b00", "#0b8499", "#6a52c7", "#8d5636"),
)
_DARK_SERIES = (
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
    **{f"series-{i}": colour for i, colour in enumerate(_DARK_SERIES)},
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


def figure_style() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in the page's style."""
    return mpl.rc_context(_STYLE)


def add_source(figure: Figure, source: str) -> None:
    """Write below a figure what it is of: data, protocol, date."""
    figure.supxlabel(drawn_lines(source), x=0.99, ha="right", fontsize=7, color=MUTED)


def picture_figure(png: bytes, title: str, source: str) -> Figure:
    """Return a picture, several times its own size if it is small, with title and source."""
    with figure_style(), Image.open(io.BytesIO(png)) as file:
        width, height = file.size
        figure = Figure(figsize=(4.4, 4.4 * height / width + 0.6), layout="constrained")
        axes = figure.subplots()
        axes.imshow(file.convert("RGB"), interpolation="none")
        axes.set_axis_off()
        axes.set_title(drawn_lines(title))
        add_source(figure, source)
    return figure


def drawn_text(text: str, longest: int = 40) -> str:
    """Return what matplotlib draws as `text`, for which a dollar sign would begin a formula.

    What is longer than `longest` characters is cut.
    """
    text = printable(text)
    return drawn_lines(text if len(text) <= longest else f"{text[: longest - 1]}…")


def drawn_lines(text: str) -> str:
    """Return what matplotlib draws as `text`, in its lines."""
    return printable_lines(text).replace("$", r"\$")


def series_colour(i: int) -> str:
    return SERIES[i % len(SERIES)]


def as_svg(figure: Figure) -> bytes:
    """Return the figure as an SVG file, without a date."""
    return _save(figure, format="svg", metadata={"Date": None, "Creator": None})


def as_png(figure: Figure) -> bytes:
    return _save(figure, format="png", dpi=160, metadata={"Software": None})


def svg_element(svg: bytes) -> Markup:
    """Return an SVG file as an element of the page, of full width and in the page's colours."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # matplotlib's numbered ids, which would be repeated in each figure of the page.
    text = re.sub(r' id="[A-Za-z.0-9]+_\d+"', "", text)
    text = re.sub(r"font: ?([^;\"]*?)'[^;\"]*sans-serif", r"font: \1var(--font)", text)
    for name, colour in LIGHT.items():
        text = re.sub(re.escape(colour), f"var(--{name})", text, flags=re.IGNORECASE)
    return Markup(text)


def data_uri(image: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _save(figure: Figure, **options: object) -> bytes:
    content = io.BytesIO()
    with figure_style():
        figure.savefig(content, **options)  # type: ignore[arg-type]
    figure.set_layout_engine("none")  # stays as laid out, which takes as long as drawing
    return content.getvalue()
