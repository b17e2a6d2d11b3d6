"""Summaries of a network at one input shape, or of the whole zoo: layers, totals, memory."""

import re
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.models.activation_memory import activation_bytes
from pipeline.models.classifier import InputShape
from pipeline.models.profile import LayerProfile, ModelProfile, profile_model
from pipeline.models.zoo import NETWORKS, constructor
from pipeline.runtime.errors import UserError


@dataclass(frozen=True)
class ModelSummary:
    """A network at one input shape, (c, h, w) or (c, length), for one number of classes.

    `activation_bytes` are stored for the backward pass at `batch` images, in float32.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    batch: int
    profile: ModelProfile
    activation_bytes: int

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints: the totals, then the layers under `layers`.

        Shapes and sides are lists, channels first, height before width. `kernel`, `stride`,
        `padding` (before and after, for each axis) and `dilation` are None for a layer that acts
        on each position alone.
        """
        return {
            **self.summary(),
            "layers": [_layer_document(layer) for layer in self.profile.layers],
        }

    def summary(self) -> dict[str, Any]:
        return {
            "network": self.name,
            "input": list(self.input_shape),
            "classes": self.num_classes,
            "parameters": self.profile.parameters,
            "parameters_removed_at_test": self.profile.removed_parameters,
            "parameters_trained": self.profile.trained_parameters,
            "multiply_adds": self.profile.multiply_adds,
            "depth": self.profile.depth,
            "receptive_field": list(self.profile.receptive_field),
            "batch": self.batch,
            "activation_bytes": self.activation_bytes,
        }


@dataclass(frozen=True)
class ZooSummary:
    """Every network at its published input shape and number of classes."""

    networks: tuple[ModelSummary, ...]

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints: under `networks`, each network's totals, without layers."""
        return {"networks": [network.summary() for network in self.networks]}


def summarize_model(
    name: str, input_text: str | None = None, num_classes: int | None = None, batch: int = 1
) -> ModelSummary:
    """Summarize network `name` on inputs of `input_text`, such as "3x224x224" or "1x40".

    The input shape and the number of classes default to the published ones. Nothing is computed or
    allocated: the network is on the meta device. Raises `UserError` for an unknown network, and for
    an input that isn't a shape or that the network doesn't accept.
    """
    build = constructor(name)
    with torch.device("meta"):
        published = build(num_classes=1)
        shape = published.input_shape
        sides = shape.published if input_text is None else _parse_input(input_text, name, shape)
        num_classes = num_classes or published.published_classes
        model = build(num_classes, sides[0])
    # No longer inside, where torch would look at each of its functions' calls.
    stored = batch * activation_bytes(model, sides)
    return ModelSummary(name, sides, num_classes, batch, profile_model(model, sides), stored)


def summarize_zoo(batch: int = 1) -> ZooSummary:
    return ZooSummary(tuple(summarize_model(name, batch=batch) for name in NETWORKS))


def _parse_input(text: str, name: str, shape: InputShape) -> tuple[int, ...]:
    example = "x".join(map(str, shape.published))
    if not re.fullmatch(r"[1-9]\d{0,4}([x×][1-9]\d{0,4}){1,2}", text, re.ASCII):
        raise UserError(f"--input {text}: give the channels and each side, such as {example}")
    channels, *sides = map(int, re.split("[x×]", text))
    if not all(shape.accepts(side, len(sides)) for side in sides):
        raise UserError(f"--input {text}: {name} takes {shape}, such as {example}")
    return channels, *sides


def _layer_document(layer: LayerProfile) -> dict[str, Any]:
    windows = layer.windows
    return {
        "name": layer.name,
        "kind": layer.kind,
        "output": list(layer.output_shape),
        "kernel": [window.kernel for window in windows] or None,
        "stride": [window.stride for window in windows] or None,
        "padding": [list(window.padding) for window in windows] or None,
        "dilation": [window.dilation for window in windows] or None,
        "groups": layer.groups,
        "parameters": layer.parameters,
        "multiply_adds": layer.multiply_adds,
        "receptive_field": list(layer.receptive_field),
        "jump": list(layer.jump),
    }
