"""An experiment as one page that needs nothing else: no request, no script, light and dark."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline.data.store.store import Split
from pipeline.evaluation.predictions import Predictions
from pipeline.models.zoo import NETWORKS
from pipeline.reports.accuracy_vs_operations import (
    Marker,
    ModelSize,
    is_single_view,
    measured_marker,
    operations_figure,
    published_markers,
    size_of,
)
from pipeline.reports.class_extremes import extremes_of
from pipeline.reports.comparison import beside_words
from pipeline.reports.learning_curves import MetricCourse, curve_figures
from pipeline.reports.repeat import repetition
from pipeline.reports.run_cost import cost_of, fixed_workers
from pipeline.reports.theme import DARK, LIGHT, SERIES, as_png, as_svg, data_uri, for_page
from pipeline.results.comparability import like_for_like, on_val
from pipeline.results.measured import Measured, MeasuredError, errors_of
from pipeline.results.published import Published, ResultKey, lecture_table, protocol_words
from pipeline.results.verdict import error_named, verdict

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Filters:
    """The first-layer filters of a run, as a PNG file's content of `width` pixels."""

    png: bytes
    width: int
    caption: str


@dataclass(frozen=True)
class PredictedSplit:
    """Kept predictions, and the split with the images that they are of."""

    predictions: Predictions
    split: Split


@dataclass(frozen=True)
class Reported:
    """All that the page shows of one run."""

    course: MetricCourse
    results: Sequence[Measured]
    filters: Filters | None = None
    seen: Sequence[PredictedSplit] = ()

    @property
    def name(self) -> str:
        """Its name, or that of what it only evaluated: an ensemble, a network from elsewhere."""
        return self.course.run.tags.get("evaluation.run", self.course.run.name)


@dataclass(frozen=True)
class Page:
    """The page, and by a run's id the figures that belong with it, by file name."""

    html: str
    figures: Mapping[str, Mapping[str, bytes]]


def build_page(experiment: str, reported: Sequence[Reported]) -> Page:
    """Lay the runs out, in the order given."""
    courses = [run.course for run in reported]
    curves = {title: as_svg(figure) for title, figure in curve_figures(courses).items()}
    operations = _files(_operations(reported))
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template("page.html.j2").render(
        experiment=experiment,
        num_runs=len(reported),
        period=_period(reported),
        light=LIGHT,
        dark=DARK,
        num_colours=len(SERIES),
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        results=_results(reported),
        lecture=_lecture([result for run in reported for result in run.results]),
        legend=[
            {"name": run.name, "colour": run.course.colour}
            for run in reported
            if run.course.metrics
        ],
        curves=[{"title": title, "svg": Markup(for_page(svg))} for title, svg in curves.items()],
        operations=[
            Markup(for_page(svg)) for name, svg in operations.items() if name.endswith(".svg")
        ],
        filters=[_filters(run) for run in reported if run.filters],
        extremes=[extremes for run in reported for extremes in _extremes(run)],
        runs=[_run(run) for run in reported],
    )
    return Page(html, {run.course.run.run_id: _own_figures(run, operations) for run in reported})


def _own_figures(run: Reported, operations: Mapping[str, bytes]) -> dict[str, bytes]:
    curves = curve_figures([run.course])
    files = _files({f"curve-{_file_name(title)}": curve for title, curve in curves.items()})
    return {**files, **operations, **({"filters.png": run.filters.png} if run.filters else {})}


def _files(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    files = {f"{name}.svg": as_svg(figure) for name, figure in figures.items()}
    return files | {f"{name}.png": as_png(figure) for name, figure in figures.items()}


def _period(reported: Sequence[Reported]) -> str:
    days = sorted(f"{run.course.run.started:%Y-%m-%d}" for run in reported)
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""


def _results(reported: Sequence[Reported]) -> list[dict[str, Any]]:
    pairs = [(run, result) for run in reported for result in run.results if result.counts]
    reach: dict[tuple[str, str], float] = {}
    for _, result in pairs:
        assert result.counts
        same, place = _beside(result), (result.key.training_data, result.key.split)
        for error in errors_of(result.counts):
            marks = [error.interval.low, error.interval.high]
            theirs = error_named(same, error.name) if same else None
            marks += [] if theirs is None else [theirs]
            farthest = max(abs(mark - error.value) for mark in marks)
            reach[place] = max(reach.get(place, 1e-9), farthest)

    def sort_key(pair: tuple[Reported, Measured]) -> tuple[str, str, float]:
        key, counts = pair[1].key, pair[1].counts
        return key.training_data, key.split, counts.top1_error if counts else 0.0

    return [_result(run, result, reach) for run, result in sorted(pairs, key=sort_key)]


def _result(
    run: Reported, result: Measured, reach: Mapping[tuple[str, str], float]
) -> dict[str, Any]:
    key, counts, found = result.key, result.counts, verdict(result)
    assert counts
    against = _beside(result)
    errors = []
    for error in errors_of(counts):
        theirs = error_named(against, error.name) if against else None
        errors.append(
            {
                "name": error.name.capitalize(),
                "value": f"{error.value:.2f}",
                "interval": f"{error.interval.low:.2f}–{error.interval.high:.2f}",
                "bar": _bar(error, theirs, reach[key.training_data, key.split], run.course.colour),
            }
        )
    return {
        "run": result.run,
        "anchor": _file_name(run.name),
        "colour": run.course.colour,
        "complete": result.complete,
        "network": key.network,
        "data": f"{key.training_data} {key.split}",
        "protocol": protocol_words(key.protocol) + _ensemble(key),
        "images": f"{counts.images:,}",
        "errors": errors,
        "verdict": found,
        "published": against.errors if against else "",
        "beside": beside_words(result),
    }


def _ensemble(key: ResultKey) -> str:
    parts = [f"ensemble of {key.ensemble_size}"] if key.ensemble_size != 1 else []
    parts += [f"extra data {key.extra_data}"] if key.extra_data != "none" else []
    return "".join(f", {part}" for part in parts)


def _beside(result: Measured) -> Published | None:
    found = verdict(result)
    return found.against if found else like_for_like(result.key)


def _bar(error: MeasuredError, theirs: float | None, reach: float, colour: int) -> Markup:
    """Draw an error in the middle, its interval, and the published one as a diamond.

    `reach`, in points, is from the middle to either end.
    """

    def place(value: float) -> str:
        return f"{76 + 70 * (value - error.value) / reach:.1f}"

    ours = f"var(--series-{colour % len(SERIES)})"
    low, high, x = (place(v) for v in (error.interval.low, error.interval.high, error.value))
    marks = [
        '<path d="M4 8H148" stroke="var(--line)" stroke-width="1"/>',
        f'<path d="M{low} 8H{high}M{low} 5V11M{high} 5V11" stroke="{ours}" stroke-width="1.5"/>',
        f'<circle cx="{x}" cy="8" r="3.2" fill="{ours}"/>',
    ]
    if theirs is not None:
        y = place(theirs)
        marks.append(
            f'<path d="M{y} 3l5 5-5 5-5-5z" fill="none" stroke="var(--ink)" stroke-width="1.2"/>'
        )
    return Markup(  # of numbers and names of colours alone
        f'<svg class="bar" viewBox="0 0 152 16" aria-hidden="true">{"".join(marks)}</svg>'
    )


def _lecture(results: Sequence[Measured]) -> list[dict[str, Any]]:
    rows = []
    for entry in lecture_table():
        twin = on_val(entry.result)
        keys = [published.key for published in entry.instead] + ([twin.key] if twin else [])
        rows.append(
            {
                "name": entry.name,
                "number": f"{entry.top5_error:g}",
                "meaning": entry.meaning,
                "twin": f"On val the same has {twin.errors}." if twin else "",
                "instead": [
                    {"errors": published.errors, "brief": _brief(published)}
                    for published in entry.instead
                ],
                "ours": [_ours(result) for result in results if result.key in keys],
            }
        )
    return rows


def _brief(published: Published) -> str:
    words = protocol_words(published.protocol)
    return f"{published.network}, {words}"


def _ours(result: Measured) -> dict[str, Any]:
    errors = errors_of(result.counts) if result.counts else ()
    return {
        "errors": " / ".join(f"{error.value:.2f}" for error in errors),
        "run": result.run,
        "brief": protocol_words(result.key.protocol),
        "verdict": verdict(result),
    }


def _operations(reported: Sequence[Reported]) -> dict[str, Figure]:
    """Draw a figure for each data set and split; the published ones stand in ILSVRC-2012's."""
    blobs: dict[tuple[str, str], list[Marker]] = {("ilsvrc2012", "val"): published_markers()}
    for run in reported:
        for result in run.results:
            key = result.key
            if result.counts and is_single_view(key) and key.network in NETWORKS:
                size = _size(key.network, run.course.run.params)
                blob = measured_marker(result, size, run.course.colour)
                blobs.setdefault((key.training_data, key.split), []).append(blob)
    return {
        f"operations-{data}-{split}": operations_figure(found, f"{data} {split}")
        for (data, split), found in blobs.items()
    }


def _size(network: str, params: Mapping[str, str]) -> ModelSize:
    """Count a network as its run built it; one from elsewhere as it was published."""
    if "recipe.input.size" not in params:
        return size_of(network)
    channels = 1 if params["recipe.input.color"] == "gray" else 3
    sides = (int(params["recipe.input.size"]),) * int(params["recipe.input.dimensions"])
    return size_of(network, int(params["recipe.network.num_classes"]), (channels, *sides))


def _filters(run: Reported) -> dict[str, Any]:
    assert run.filters
    return {
        "uri": data_uri(run.filters.png),
        "width": run.filters.width,
        "alt": f"The first-layer filters of {run.name}",
        "caption": f"{run.name}: {run.filters.caption}",
        "colour": run.course.colour,
    }


def _extremes(run: Reported) -> list[dict[str, Any]]:
    return [
        {
            "name": run.name,
            "colour": run.course.colour,
            "protocol": f"{seen.predictions.metadata.split}, "
            f"{protocol_words(seen.predictions.metadata.protocol)}",
            "extremes": extremes_of(seen.predictions, seen.split),
        }
        for seen in run.seen
    ]


def _run(reported: Reported) -> dict[str, Any]:
    run = reported.course.run
    again, cost = repetition(run, reported.results), cost_of(reported.course)
    tags, versions = run.tags, "version."
    facts = {
        "Network": run.params.get("recipe.network.name", ""),
        "Data set": tags.get("dataset.name", ""),
        "Data digest": tags.get("dataset.digest", "")[:16],
        "Recipe digest": tags.get("recipe.digest", "")[:16],
        "Device": f"{tags.get('device.model', '')} ({tags.get('device', '')})",
        "Workers": _workers(run.params),
        "Cost": cost.words if cost else "",
        "Cost per epoch": cost.words_an_epoch if cost else "",
        "Epochs done": f"{cost.epochs:g} of {run.params['recipe.epochs']}" if cost else "",
        "Commit": tags.get("git.commit", "")[:12]
        + (" and changes" if tags.get("git.dirty") == "yes" else ""),
        "Versions": ", ".join(
            f"{key.removeprefix(versions)} {value}"
            for key, value in sorted(tags.items())
            if key.startswith(versions)
        ),
        "MLflow run": run.run_id,
    }
    return {
        "name": reported.name,
        "anchor": _file_name(reported.name),
        "colour": reported.course.colour,
        "summary": f"{run.started:%Y-%m-%d}, {run.status.lower()}",
        "commands": again.lines,
        "note": again.note,
        "facts": {name: value for name, value in facts.items() if value},
    }


def _workers(params: Mapping[str, str]) -> str:
    count = fixed_workers(params)
    if count is None:
        bounds = [params.get(f"cluster.workers.{end}", "") for end in ("min", "max")]
        return " to ".join(bounds) if all(bounds) else ""
    return str(count) if count else "the command itself"


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()
