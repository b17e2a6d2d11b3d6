"""The memory of a network's activations during training."""

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pipeline.models.classifier import modes_restored


def activation_bytes(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the bytes that a training step stores per image for the backward pass.

    All that autograd saves and that grows with the batch, each storage once, in the precision of
    the weights (float32 unless they were converted), without autocast: the images, of
    `input_shape` (c, h, w) or (c, length), if the first layer saves them; the inputs of
    convolutions, fully connected layers, pools, batch and response norms; the outputs of ReLUs, in
    place or not; the indices of maxima, 8 bytes each; dropout's masks, 4 bytes a value as on a CPU
    (1 on a GPU); and all this of auxiliary classifiers as well.

    Not counted: weights, gradients, the optimizer's state, batch norm's statistics (two numbers a
    channel), the loss, and what is freed before the forward pass ends. The model may be on the meta
    device, where nothing is allocated, and is left unchanged.
    """
    with modes_restored(model):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()  # so that its running statistics stay unchanged
        return _saved_bytes(model, input_shape, 2) - _saved_bytes(model, input_shape, 1)


def _saved_bytes(model: nn.Module, input_shape: tuple[int, ...], num_images: int) -> int:
    saved: dict[int, torch.UntypedStorage] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage  # several views of one storage count once
        return tensor

    images = torch.zeros(num_images, *input_shape, device=next(model.parameters()).device)
    with saved_tensors_hooks(save, lambda tensor: tensor):
        output = model(images)
    del output  # kept until here: a freed storage could be reused, and two count as one
    return sum(storage.nbytes() for storage in saved.values())
