"""The memory that a network's activations take while it trains."""

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pipeline.models.classifier import modes_restored


def activation_bytes(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return what a training step keeps of each image from forward to backward pass, in bytes.

    All that autograd saves and that grows with the batch, each memory once, in the precision of
    the weights (float32 unless they were converted), without autocast: the images, of
    `input_shape` (c, h, w) or (c, length), where the first layer keeps them; what convolutions,
    fully connected layers, pools, batch and response norms took in; what ReLUs gave out, in place
    or not; the places of maxima, 8 bytes each; dropout's masks, 4 bytes a value as on a CPU (a GPU
    takes one); all this of auxiliary classifiers as well.

    Not counted: weights, gradients, the optimizer's state, batch norm's statistics (two numbers a
    channel), the loss, and what is freed before the forward pass ends. The model may stand on the
    meta device, where nothing is allocated, and is left as it was.
    """
    with modes_restored(model):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()  # its running statistics have to stay
        return _saved_bytes(model, input_shape, 2) - _saved_bytes(model, input_shape, 1)


def _saved_bytes(model: nn.Module, input_shape: tuple[int, ...], num_images: int) -> int:
    saved: dict[int, torch.UntypedStorage] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage  # several views of one memory count once
        return tensor

    images = torch.zeros(num_images, *input_shape, device=next(model.parameters()).device)
    with saved_tensors_hooks(save, lambda tensor: tensor):
        output = model(images)
    del output  # not earlier: what the graph holds must stay apart from what comes after
    return sum(storage.nbytes() for storage in saved.values())
