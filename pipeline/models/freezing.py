"""Layers that a training leaves as they are."""

from pipeline.models.classifier import ImageClassifier, is_within, outline
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest


def freeze_until(model: ImageClassifier, name: str) -> tuple[str, ...]:
    """Freeze the layers up to and with `name`, a layer or a stage of several; return them.

    Their parameters get no gradient; their batch norm stays in evaluation mode, and its statistics
    as they are. The order is that in which the network lists its layers, and the head is never
    frozen. Raises `UserError` that lists the layers for another name.
    """
    layers = [
        layer
        for layer, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None and not model.is_of_head(layer)
    ]
    last = max((i for i, layer in enumerate(layers) if is_within(layer, name)), default=None)
    if last is None:
        raise UserError(
            f"recipe: freeze_until: {name} is no layer before the head of the network; "
            f"{suggest(name, outline(layers, model.head))}"
        )
    for layer in layers[: last + 1]:
        model.get_submodule(layer).requires_grad_(False)
    return outline(layers[: last + 1], [*layers[last + 1 :], *model.head])
