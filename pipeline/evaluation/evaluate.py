"""A whole split, every image once, counted in integers."""

from collections.abc import Iterable

import torch
from torch import nn

from pipeline.data.loaders import Batch
from pipeline.distributed import Worker, sum_over_workers
from pipeline.evaluation.hits import topk_hits
from pipeline.evaluation.metrics import Counts


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """bfloat16 needs no loss scaling, so that this context is all there is to mixed precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], num_images: int, worker: Worker, precision: str
) -> Counts:
    """Count the hits of `model` over the batches of all workers.

    Workers may hold different numbers of batches, or none: they meet once, at the end, to add
    integers. Raises `RuntimeError` if the workers together did not see `num_images` images.
    The model is left in the mode it came in. A collective call.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(3, dtype=torch.int64, device=worker.device)
    for batch in batches:
        with autocast(precision, worker.device):
            logits = model(batch.images)
        sums[:2] += topk_hits(logits.float(), batch.labels)
        sums[2] += len(batch.labels)
    model.train(was_training)
    top1_hits, top5_hits, images = sum_over_workers(sums, worker).tolist()
    if images != num_images:
        raise RuntimeError(f"evaluated {images} images of a split of {num_images}")
    return Counts(top1_hits=top1_hits, top5_hits=top5_hits, images=images)
