"""Whether an evaluation takes less time than starting workers for it."""

import torch

from pipeline.config.cluster import Cluster
from pipeline.config.protocol import BoxProtocol, TestProtocol
from pipeline.config.recipe import NetworkConfig
from pipeline.data.store.store import Split
from pipeline.models.zoo import NETWORKS, build_model
from pipeline.planning.hardware import read_hardware
from pipeline.runs.evaluated_model import EvaluatedModel

_SECONDS_TO_START = 20.0  # Ray and two workers, on two cores
_PIXELS_OF_A_PHOTO = 500 * 375  # of those that `decoded_by_cpu` was measured with


def is_soonest_alone(
    model: EvaluatedModel, images: Split, protocol: TestProtocol, cluster: Cluster
) -> bool:
    """Whether one process on this machine's CPU is surely done before workers would have started.

    False on GPUs and elsewhere, for dense protocols, and for networks that aren't the zoo's.
    """
    workers = cluster.workers
    is_here = workers.device == "cpu" and workers.ray_address == "local"
    if not (is_here and isinstance(protocol, BoxProtocol)):
        return False
    network = model.network or NetworkConfig(name=model.name, num_classes=1000)
    if model.module or network.name not in NETWORKS:
        return False
    with torch.device("meta"):  # computing there would import torch's compiler, which takes seconds
        built = build_model(network, model.input)
    # A weight is multiplied once a position, of which there are no more than pixels.
    weights = sum(parameter.numel() for parameter in built.parameters())
    multiply_adds = weights * model.input.size**model.input.dimensions
    facts = read_hardware()
    core = facts.device("cpu")
    speed = core.peak["float32"].value * 1e12 * core.efficiency["float32"].value
    computing = 2 * multiply_adds * len(images) * protocol.num_views / (speed * workers.cpus)
    photos = images.sizes.prod(1).sum() / _PIXELS_OF_A_PHOTO
    return float(computing + photos / facts.decoded_by_cpu.value) < _SECONDS_TO_START
