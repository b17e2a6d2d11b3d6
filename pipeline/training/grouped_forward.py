"""Runs a network on several micro-batches at once, with the results of one after another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.config.recipe import Recipe
from pipeline.data.loading.sampler import BatchSampler
from pipeline.models.classifier import ImageClassifier, WithAuxiliary
from pipeline.models.dropout import Dropout
from pipeline.runtime.distributed import Worker
from pipeline.runtime.precision import autocast
from pipeline.training.batch_norm_statistics import BatchNormStatistics

Engine = Literal["eager", "compile", "graphs"]
Output = Tensor | WithAuxiliary


@dataclass(frozen=True)
class WholePass:
    """The shape of all passes but a few uneven ones: images (n, c, h, w), and micro-batches."""

    images: tuple[int, ...]
    num_groups: int = 1


class GroupedForward(nn.Module):
    """The network of a training: images of one or more micro-batches in, their logits out.

    Batch normalization sees each micro-batch alone, and what an image drops depends on that image
    alone, so that the number of micro-batches in a pass changes speed and memory and nothing else.
    No pass is larger than `whole`.

    `engine` computes passes of the shape `whole`: "eager", operation by operation; "compile", as
    one function made by `torch.compile` with `backend`; "graphs", as CUDA graphs, one forward and
    one backward, which are captured here and now, in the autocast mode that is on, and before any
    loader allocates memory on the GPU, which would break the capture. Other passes are computed
    eagerly.
    """

    def __init__(
        self,
        model: nn.Module,
        whole: WholePass,
        *,
        engine: Engine = "eager",
        backend: str = "inductor",
    ) -> None:
        super().__init__()
        self.model = model
        self.statistics = BatchNormStatistics(model, whole.num_groups)
        # Whether gradients are always written to the same memory, so that they must be added to
        # memory of their own, and never become it.
        self.has_static_gradients = engine == "graphs"
        self._whole = whole
        device = next(model.parameters()).device
        self._keys = torch.zeros(whole.images[0], dtype=torch.int64, device=device)
        for number, layer in enumerate(_dropouts(model)):
            layer.image_keys, layer.layer_number = self._keys, number
        self._run_whole: Callable[[Tensor], Output] = self._run
        if engine == "compile":
            self._run_whole = torch.compile(
                self._run, backend=backend, fullgraph=True, dynamic=False
            )
        elif engine == "graphs":
            self._run_whole = self._captured()

    def forward(self, images: Tensor, keys: Tensor, num_groups: int) -> Output:
        """Return the output for `images` (n, c, h, w) of `num_groups` micro-batches of equal size.

        `keys`, int64 (n,), are the images' random numbers (`pipeline.data.loading.views`). The
        output may be overwritten by the next call.
        """
        self._keys[: len(keys)].copy_(keys)
        self.statistics.expect(num_groups)
        is_whole = (tuple(images.shape), num_groups) == (self._whole.images, self._whole.num_groups)
        return self._run_whole(images) if is_whole else self._run(images)

    def _run(self, images: Tensor) -> Output:
        output: Output = self.model(images)
        return output

    def _captured(self) -> Callable[[Tensor], Output]:
        # Images of any memory format are copied to those of the graph.
        weight = next(self.model.parameters())
        sample = torch.zeros(self._whole.images, device=weight.device)
        if weight.is_contiguous(memory_format=torch.channels_last):
            sample = sample.contiguous(memory_format=torch.channels_last)
        self.train()
        self.statistics.expect(self._whole.num_groups)
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        # A module around the network: capturing replaces a module's own `forward`.
        around = nn.Sequential(self.model)
        torch.cuda.make_graphed_callables(around, (sample,))
        return lambda images: around(images)


def build_forward(
    recipe: Recipe, model: ImageClassifier, sampler: BatchSampler, worker: Worker, engine: Engine
) -> GroupedForward:
    """Return `model`, on the worker's device, as the worker computes its passes."""
    at_once = sampler.micro_batches_in_pass(worker.rank)
    num_images = at_once * sampler.max_micro_batch_size
    sides = (recipe.input.size,) * recipe.input.dimensions
    whole = WholePass((num_images, recipe.input.num_channels, *sides), at_once)
    with autocast(recipe.precision, worker.device):
        return GroupedForward(model, whole, engine=engine)


def _dropouts(model: nn.Module) -> list[Dropout]:
    layers = []
    for name, layer in model.named_modules():
        if isinstance(layer, Dropout):
            layers.append(layer)
        elif isinstance(layer, nn.modules.dropout._DropoutNd):
            raise TypeError(
                f"{name}: {type(layer).__name__} of torch draws by batch and by device; use "
                "pipeline.models.dropout.Dropout"
            )
    return layers
