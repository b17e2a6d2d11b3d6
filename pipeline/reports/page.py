"""An experiment as one HTML page that needs nothing else: no request, no script, light and dark."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline.models.zoo import NETWORKS
from pipeline.reports.accuracy_vs_operations import (
    Marker,
    ModelSize,
    is_on_one_line,
    is_single_view,
    measured_marker,
    model_size,
    operations_figure,
    operations_words,
    published_markers,
)
from pipeline.reports.class_extremes import find_class_extremes
from pipeline.reports.comparison import Comparison, compare
from pipeline.reports.figure_style import (
    DARK,
    LIGHT,
    SERIES,
    as_png,
    as_svg,
    data_uri,
    picture_figure,
    svg_element,
)
from pipeline.reports.learning_curves import curve_figures, curve_words, period_of
from pipeline.reports.page_data import ReportedRun
from pipeline.reports.result_rows import differences, result_panels, run_labels
from pipeline.reports.run_cost import fixed_workers, run_cost
from pipeline.results.comparability import on_split
from pipeline.results.published import LectureEntry, Published, lecture_table, protocol_words
from pipeline.runtime.plain_text import printable_lines

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Page:
    """The page, and by a drawn run's id the figures to store with that run, by file name."""

    html: str
    figures: Mapping[str, Mapping[str, bytes]]


@dataclass(frozen=True)
class _LectureRow:
    """A number of the lecture's table, the same on val if published, and our results beside it."""

    entry: LectureEntry
    val: Published | None
    ours: Sequence[Comparison]


def build_page(experiment: str, runs: Sequence[ReportedRun]) -> Page:
    """Build the page of these runs, in the order given."""
    compared = [compare(result) for run in runs for result in run.results]
    panels = result_panels(runs)
    drawn = [run for run in runs if run.is_drawn]
    histories = [run.history for run in drawn]
    markers, period = _operations_markers(drawn), period_of([run.run for run in drawn])
    operations = {
        f"operations-{_file_name(title)}": operations_figure(found, title, period)
        for title, found in markers.items()
        if not is_on_one_line(found)
    }
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined,
        finalize=_as_text, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "anchor": _file_name,
        "data_uri": data_uri,
        "element": lambda figure: svg_element(as_svg(figure)),
        "words": protocol_words,
    }
    environment.globals |= {"find_class_extremes": find_class_extremes, "facts": _facts}
    html = environment.get_template("page.html.j2").render(
        experiment=experiment,
        period=period_of([run.run for run in runs]),
        light=LIGHT,
        dark=DARK,
        num_colours=len(SERIES),
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        runs=runs,
        drawn=drawn,
        num_results=len(compared),
        panels=panels,
        differences=differences(runs, panels),
        lecture=_lecture_rows(compared),
        labels=run_labels(runs),
        curves=curve_figures(histories),
        straight=curve_words(histories),
        operations=operations.values(),
        few_operations={
            title: operations_words(found)
            for title, found in markers.items()
            if is_on_one_line(found)
        },
    )
    files = _files(operations)
    return Page(html, {run.run.run_id: _own_figures(run) | files for run in drawn})


def _own_figures(run: ReportedRun) -> dict[str, bytes]:
    curves = curve_figures([run.history])
    files = _files({f"curve-{_file_name(title)}": curve for title, curve in curves.items()})
    for curve in curves.values():
        curve.clear()  # its parts refer to each other, and would be kept for a while
    if run.filters:
        picture = picture_figure(run.filters.png, f"Filters, {run.filters.caption}", run.source)
        files["filters.png"] = as_png(picture)
    return files


def _files(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    files = {f"{name}.svg": as_svg(figure) for name, figure in figures.items()}
    return files | {f"{name}.png": as_png(figure) for name, figure in figures.items()}


def _lecture_rows(comparisons: Sequence[Comparison]) -> list[_LectureRow]:
    rows = []
    for entry in lecture_table():
        val = on_split(entry.result, "val")
        keys = [result.key for result in (*entry.instead, val) if result]
        ours = [comparison for comparison in comparisons if comparison.result.key in keys]
        rows.append(_LectureRow(entry, val, ours))
    return rows


def _operations_markers(runs: Sequence[ReportedRun]) -> dict[str, list[Marker]]:
    """Return the markers of each data set and split; ILSVRC-2012's are also the published ones."""
    markers = {"ilsvrc2012 val": published_markers()}
    for run in runs:
        for result in run.results:
            key = result.key
            if is_single_view(key) and key.network in NETWORKS:
                size = _size_as_built(key.network, run.run.params)
                marker = measured_marker(result, size, run.history.colour)
                markers.setdefault(f"{key.training_data} {key.split}", []).append(marker)
    return markers


def _size_as_built(network: str, params: Mapping[str, str]) -> ModelSize:
    """Return the size with the run's classes and input; without a recipe, as published."""
    if "recipe.input.size" not in params:
        return model_size(network)
    channels = 1 if params["recipe.input.color"] == "gray" else 3
    sides = (int(params["recipe.input.size"]),) * int(params["recipe.input.dimensions"])
    return model_size(network, int(params["recipe.network.num_classes"]), (channels, *sides))


def _facts(reported: ReportedRun) -> dict[str, str]:
    """Return what is known about how the run was made, by name."""
    run, cost = reported.run, run_cost(reported.history)
    tags, version = run.tags, "version."
    facts = {
        "Network": run.params.get("recipe.network.name", ""),
        "Data set": tags.get("dataset.name", ""),
        "Data digest": tags.get("dataset.digest", "")[:16],
        "Recipe digest": tags.get("recipe.digest", "")[:16],
        "Device": f"{tags.get('device.model', '')} ({tags.get('device', '')})",
        "Workers": _workers(run.params),
        "Cost": cost.words if cost else "",
        "Cost per epoch": cost.words_per_epoch if cost else "",
        "Epochs done": f"{cost.epochs:g} of {run.params['recipe.epochs']}" if cost else "",
        "Commit": tags.get("git.commit", "")[:12]
        + (" and changes" if tags.get("git.dirty") == "yes" else ""),
        "Versions": ", ".join(
            f"{key.removeprefix(version)} {value}"
            for key, value in sorted(tags.items())
            if key.startswith(version)
        ),
        "MLflow run": run.run_id,
    }
    return {name: value for name, value in facts.items() if value}


def _workers(params: Mapping[str, str]) -> str:
    count = fixed_workers(params)
    if count is None:
        bounds = [params.get(f"cluster.workers.{end}", "") for end in ("min", "max")]
        return " to ".join(bounds) if all(bounds) else ""
    return str(count) if count else "the command itself"


def _as_text(value: object) -> object:
    # What isn't `Markup` is escaped after this.
    return printable_lines(value) if type(value) is str else value


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()
