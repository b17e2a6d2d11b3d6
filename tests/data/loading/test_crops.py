"""The crops of a test protocol as every backend shows them; each image is decoded once for all."""

import numpy as np
import pytest
import torch
from PIL import Image
from serialized_graph import parse_graph

from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import Crops, grid, ten_crop
from pipeline.config.recipe import InputConfig
from pipeline.data.loading import pil
from pipeline.data.loading.dali import view_graph
from pipeline.data.loading.loader import build_loader
from pipeline.data.loading.plans import evaluation_plan, images_per_batch
from pipeline.data.store.store import Split

RGB = InputConfig(size=224, mean=(0, 0, 0), std=(1, 1, 1))
CPU = torch.device("cpu")


def crops_of(split: Split, protocol: Crops, backend: str) -> tuple[torch.Tensor, list[int]]:
    plan = evaluation_plan(protocol, 224, split, 0, 1, 2 * protocol.num_boxes)
    loader = build_loader(
        split,
        plan,
        RGB,
        LoadingConfig(backend=backend),
        CPU,
        max_batch_size=images_per_batch(protocol, 2 * protocol.num_boxes),
        fill=None,
        channels_last=True,
        boxes_per_image=protocol.num_boxes,
    )
    batches = list(loader)
    loader.close()
    indices = torch.cat([batch.indices for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.tolist() == split.labels[indices].tolist()
    return torch.cat([batch.images for batch in batches]), indices.tolist()


@pytest.mark.parametrize("of", ["image", "center-square", "three-squares"])
def test_both_backends_show_the_same_crops(photos: Split, of: str) -> None:
    """Measured: the worst crop differs by 0.2 grey levels on average."""
    protocol = Crops(resize=(280,), of=of, positions="corners-and-center", stretched=True)
    num_boxes = protocol.num_boxes
    dali, order = crops_of(photos, protocol, "dali")
    reference, same_order = crops_of(photos, protocol, "reference")
    assert order == same_order == [i for i in range(len(photos)) for _ in range(num_boxes)]
    assert dali.shape == reference.shape == (len(photos) * num_boxes, 3, 224, 224)
    assert (dali - reference).abs().mean(dim=(1, 2, 3)).max() < 0.5


def test_the_crop_in_the_middle_is_the_centre_crop(photos: Split) -> None:
    crops, _ = crops_of(photos, ten_crop(256), "dali")
    alone, _ = crops_of(photos, Crops(resize=(256,), positions="center"), "dali")
    # The decoder rounds a larger region otherwise: by half a grey level here and there.
    assert (crops[2::5] - alone).abs().mean() < 0.1


def test_an_image_is_decoded_once_for_all_its_crops(
    photos: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def decode(data: np.ndarray) -> Image.Image:
        decoded.append(len(data))
        return original(data)

    original = pil._decode
    monkeypatch.setattr(pil, "_decode", decode)
    crops_of(photos, grid(256), "reference")
    assert len(decoded) == len(photos)
    graph = view_graph(
        lambda: None, "gpu", RGB, None, True, 72, batch_size=2, num_threads=1, device_id=None
    )
    kinds = [operator.kind for operator in parse_graph(graph.serialize()).operators]
    assert sum("Decoder" in kind or "decoders" in kind for kind in kinds) == 1
    assert kinds.count("Resize") == 72
