"""Tables of a network's layers, or of the zoo's networks, for a terminal."""

import math
import re
import textwrap
from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.models.profile import LayerProfile
from pipeline.models.summary import ModelSummary, ZooSummary
from pipeline.reports.tables import titled_table

_RECEPTIVE_FIELD = (
    "Receptive fields (RF) and jumps, from a position to the next, are in input pixels. Padding "
    "counts as part of a field, which can so be larger than the input. Where branches meet, it is "
    "the hull of their fields."
)
_ACTIVATIONS = (
    "Activations: what PyTorch stores in the forward pass of a training step for its backward "
    "pass, in float32, auxiliary classifiers included; not the weights, the gradients, the "
    "optimizer's state or batch norm's statistics."
)


def summary_tables(summary: ModelSummary | ZooSummary) -> list[RenderableType]:
    """Return tables of the layers and totals, or of the networks, and a legend below them.

    They fit into 80 columns with no figure cut; only names are folded.
    """
    if isinstance(summary, ModelSummary):
        legend = _column_legend(summary.profile.layers)
        return [_layer_table(summary), _totals(summary), _paragraph(f"{legend} {_ACTIVATIONS}")]
    legend = (
        "Parameters are those of testing, without auxiliary classifiers; multiply-adds are for "
        "one image. Depth: convolutions and fully connected layers on the longest path. RF: on "
        f"the last map, before its positions are joined. {_RECEPTIVE_FIELD} {_ACTIVATIONS} "
        f"Batch: {summary.networks[0].batch:,}."
    )
    return [_zoo_table(summary.networks), _paragraph(legend)]


def _layer_table(network: ModelSummary) -> Table:
    table = titled_table(f"{network.name} on {_shape(network.input_shape)}", padding=0)
    for name in ("Layer", "Kind"):
        table.add_column(name, overflow="fold")
    table.add_column("Output", no_wrap=True)
    dilated, grouped = _is_dilated(network.profile.layers), _is_grouped(network.profile.layers)
    figures = ("k", "s", "p", *("d" * dilated), *("g" * grouped), "Params", "Mult-adds", "RF")
    for name in (*figures, "Jump"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in network.profile.layers:
        windows = layer.windows
        table.add_row(
            Text(layer.name),
            re.sub(r"\dd$", "", layer.kind),
            _shape(layer.output_shape),
            _sides(window.kernel for window in windows),
            _sides(window.stride for window in windows),
            _sides(_padding(window.padding) for window in windows),
            *([_sides(window.dilation for window in windows)] if dilated else []),
            *([str(layer.groups) if windows else ""] if grouped else []),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
            _sides(layer.receptive_field),
            _sides(layer.jump),
        )
    return table


def _totals(network: ModelSummary) -> Table:
    profile = network.profile
    images = f"{network.batch:,} images" if network.batch > 1 else "1 image"
    removed = profile.removed_parameters
    auxiliary = (
        f"; trained with {removed:,} more, of auxiliary classifiers that are removed at test: "
        f"{profile.trained_parameters:,}"
    )
    stored = f"{_size(network.activation_bytes)} ({network.activation_bytes:,} bytes)"
    table = Table.grid(padding=(0, 2))
    for name, total in {
        "classes": f"{network.num_classes:,}",
        "parameters": f"{profile.parameters:,}{auxiliary if removed else ''}",
        "multiply-adds": f"{profile.multiply_adds:,} for one image",
        "depth": f"{profile.depth} convolutions and fully connected layers on the longest path",
        "receptive field": f"{_sides(profile.receptive_field)} on the last map, before its "
        "positions are joined",
        "activations": f"{stored} stored for {images}",
    }.items():
        table.add_row(name, total)
    return table


def _zoo_table(networks: Sequence[ModelSummary]) -> Table:
    table = titled_table("Networks", padding=0)
    table.add_column("Name", overflow="fold")
    table.add_column("Input", no_wrap=True)
    for name in ("Params", "Mult-adds", "Depth", "RF", "Activations"):
        table.add_column(name, justify="right", no_wrap=True)
    for network in networks:
        profile = network.profile
        table.add_row(
            network.name,
            _shape(network.input_shape),
            f"{profile.parameters:,}",
            f"{profile.multiply_adds:,}",
            str(profile.depth),
            _sides(profile.receptive_field),
            _size(network.activation_bytes),
        )
    return table


def _column_legend(layers: Sequence[LayerProfile]) -> str:
    dilated, grouped = _is_dilated(layers), _is_grouped(layers)
    shown = ["k kernel", "s stride", "p padding, before/after where they differ"]
    shown += ["d dilation"] * dilated + ["g groups"] * grouped
    hidden = " and ".join(["dilation"] * (not dilated) + ["groups"] * (not grouped))
    return (
        f"{', '.join(shown)}{f'; {hidden}: 1 throughout' if hidden else ''}. A layer that joins "
        "all positions, fully connected or a global pooling, is a kernel of the map's size. "
        f"{_RECEPTIVE_FIELD}"
    )


def _is_dilated(layers: Iterable[LayerProfile]) -> bool:
    return any(window.dilation != 1 for layer in layers for window in layer.windows)


def _is_grouped(layers: Iterable[LayerProfile]) -> bool:
    return any(layer.groups != 1 for layer in layers)


def _paragraph(text: str) -> Text:
    return Text("\n" + textwrap.fill(text, 79))


def _shape(sides: Iterable[int]) -> str:
    return "×".join(map(str, sides))


def _sides(values: Iterable[int | str]) -> str:
    """Return one value for all axes where they agree, else "height×width"."""
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else "×".join(texts)


def _padding(padding: tuple[int, int]) -> str:
    before, after = padding
    return str(before) if before == after else f"{before}/{after}"


def _size(num_bytes: int) -> str:
    power = min(int(math.log(num_bytes, 1024)), 4)
    return f"{num_bytes / 1024**power:.1f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
