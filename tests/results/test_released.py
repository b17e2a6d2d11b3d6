"""Released files: what they reach is published, and their commands evaluate it."""

import shlex
from collections import Counter

import pytest
import torchvision

from pipeline.config.protocol import parse_protocol
from pipeline.models.zoo import NETWORKS
from pipeline.pretrained.caffe_weights import PLACES, preprocessing_of
from pipeline.pretrained.formats import FORMATS
from pipeline.pretrained.torchvision_weights import COUNTERPARTS
from pipeline.results.published import published
from pipeline.results.released import ReleasedResult, reproductions


def of(file: str) -> list[ReleasedResult]:
    return [each for each in reproductions() if each.file.file == file]


def test_every_file_is_of_a_network_and_a_format_that_are_read() -> None:
    for each in reproductions():
        assert each.file.network in NETWORKS
        assert each.file.format in FORMATS
    readable = {"caffe": PLACES, "torchvision": COUNTERPARTS}
    for each in reproductions():
        assert each.file.network in readable.get(each.file.format, NETWORKS), each.file


def test_a_file_reaches_its_own_networks_rows_once() -> None:
    counts = Counter((each.file.file, each.result) for each in reproductions())
    assert set(counts.values()) == {1}
    assert [each.result.errors for each in of("bvlc_alexnet.caffemodel")] == ["42.9 / 19.8"]
    assert [each.result.errors for each in of("ResNet-152-model.caffemodel")] == ["23.0 / 6.7"]
    vgg = {
        each.result.protocol: each.result.top5_error
        for each in of("VGG_ILSVRC_19_layers.caffemodel")
    }
    assert vgg["dense-384"] == 8.0
    assert vgg["dense-and-grid-256-384-512"] == 7.1


def test_commands_name_a_protocol_that_is_executed() -> None:
    for each in reproductions():
        words = shlex.split(each.command)
        assert words[:3] == ["ilsvrc", "evaluate", "--weights"]
        if "--protocol" not in words:
            continue
        name = words[words.index("--protocol") + 1]
        seen = preprocessing_of(each.file.network)
        size = {"alexnet_caffe": 227, "caffenet": 227, "inception_v3": 299}.get(
            each.file.network, 224
        )
        assert parse_protocol(name, size, seen.protocol).name(size) == name


def test_every_weight_of_torchvision_that_the_zoo_has_is_there() -> None:
    rows = {row for row in published() if row.source == "torchvision 0.29.1 weights"}
    reached = {each.result: each.file for each in reproductions() if each.result in rows}
    assert {row.network for row in rows - reached.keys()} == {"alexnet_owt", "googlenet_bn_3x3"}
    for row, file in reached.items():
        weights = torchvision.models.get_model_weights(COUNTERPARTS[row.network])
        assert weights[f"IMAGENET1K_{row.variant}"].url.endswith(f"/{file.file}")


@pytest.mark.parametrize("network", ["alexnet_caffe", "caffenet", "googlenet", "resnet50_caffe"])
def test_the_preprocessing_leads_to_the_protocol_of_the_release(network: str) -> None:
    seen = preprocessing_of(network)
    results = [each.result for each in reproductions() if each.file.network == network]
    assert seen.protocol.name(seen.crop) in {result.protocol for result in results}
