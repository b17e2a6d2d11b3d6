import re
from collections import Counter
from pathlib import Path

import pytest
import torchvision
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from pipeline.config.protocol import CenterCrop
from pipeline.config.recipe import read_recipe
from pipeline.config.yaml import validate
from pipeline.models.zoo import NETWORKS
from pipeline.results.comparability import reference_result
from pipeline.results.published import (
    Published,
    ResultKey,
    _Document,
    lecture_table,
    protocol_words,
    published,
)
from pipeline.runtime.errors import UserError

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "recipes").glob("*.yaml"))

# What the zoo doesn't have, and who published it.
OUTSIDE_THE_ZOO = {
    *("alexnet_half", "alexnet_owt", "zfnet_wide", "googlenet_bn_3x3"),
    *("bn-inception", "prelu-net", "resnet200", "densenet232_k48", "densenet264_k48"),
    *(f"resnet{depth}_cifar" for depth in (20, 32, 44, 56, 110)),
    *("densenet_40_12", "densenet_bc_100_12"),
    *("lenet1", "lenet4", "lenet_caffe", "cnn_mnist1d", "gru_mnist1d", "mlp_mnist1d"),
    *("linear classifier", "logistic regression", "1-NN", "3-NN", "SVC (γ = 0.001)", "MLP (100)"),
    *("3-layer network (500+150)", "mlp of scikit-learn (100+100)", "human"),
}

# Entries of the challenge, and ensembles whose members no source names one by one.
ENTRIES = {
    *("NEC-UIUC (2010)", "XRCE (2011)", "SuperVision (2012)", "Fisher vectors (second of 2012)"),
    *("Clarifai (2013)", "GoogLeNet (2014)", "MSRA (2014)", "VGG (2014)", "MSRA (2015)"),
    *("Trimps-Soushen (2016)", "WMW (2017)", "resnets of different depths"),
    *("ensemble of bn-inception", "ensemble of prelu-net", "boosted lenet4"),
}

# Of one view or of several, with the sides that it resizes to and crops.
PROTOCOL_FORMS = (
    r"whole|human|unstated",
    r"center-(squash-)?(\d+-)?\d+",
    r"ten-crop-(square-)?\d+-\d+(-logits)?",
    r"(inception|google)-\d+",
    r"(dense|grid-150|dense-and-grid)(-\d+)+",
    r"dense-3-scales",
)

# Whose expectation is no published result: ours, and the middle of what unlike networks have.
UNPUBLISHED = ("goal of this project", "original code's run logs")


def imagenet(network: str, protocol: str = "center-256-224", **others: object) -> ResultKey:
    return ResultKey(network, "ilsvrc2012", others.pop("split", "val"), protocol, **others)


def from_source(source: str) -> list[Published]:
    return [result for result in published() if result.source == source]


def lecture(name: str) -> Published:
    return next(entry.result for entry in lecture_table() if entry.name == name)


def test_every_number_is_possible_and_has_a_source() -> None:
    assert len(published()) > 200
    for result in published():
        errors = [e for e in (result.top1_error, result.top5_error) if e is not None]
        assert errors, result
        assert all(0 < error < 100 for error in errors), result
        assert errors == sorted(errors, reverse=True), result
        assert result.source.strip() == result.source != "", result
        assert result.ensemble_size is None or result.ensemble_size >= 1


def members(network: str) -> list[str]:
    return re.split(", | and ", network)


def test_every_network_is_in_the_zoo_or_known_to_be_outside() -> None:
    names = {result.network for result in published()}
    assert not (OUTSIDE_THE_ZOO | ENTRIES) & NETWORKS.keys()
    assert names >= OUTSIDE_THE_ZOO | ENTRIES
    for name in names - ENTRIES:
        assert set(members(name)) <= NETWORKS.keys() | OUTSIDE_THE_ZOO, name
    for result in published():
        if len(members(result.network)) > 1:
            assert result.ensemble_size > 1, result
            assert result.ensemble_size >= len(members(result.network)), result


def test_every_protocol_has_a_known_form() -> None:
    for protocol in {result.protocol for result in published()}:
        assert re.fullmatch("|".join(PROTOCOL_FORMS), protocol), protocol
        if resized_and_cropped := re.fullmatch(r"center-(\d+)-(\d+)", protocol):
            resize, size = map(int, resized_and_cropped.groups())
            assert resize >= size
            assert CenterCrop(resize=resize).name(size) == protocol
        if not re.fullmatch(PROTOCOL_FORMS[0], protocol):
            assert protocol_words(protocol) != protocol


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_expects_a_published_error_of_its_own_key(path: Path) -> None:
    recipe = read_recipe(path)
    expect = recipe.expect
    if expect is None:
        return
    assert (recipe.data.name, recipe.data.test_split) != ("ilsvrc2012", "test")
    key = ResultKey(recipe.network.name, recipe.data.name, recipe.data.test_split, expect.protocol)
    if expect.source.startswith(UNPUBLISHED):
        return
    errors = [
        (result.top1_error, result.top5_error)
        for result in published()
        if result.key == key and expect.source.startswith(result.source)
    ]
    assert (expect.top1_error, expect.top5_error) in errors


def test_results_of_one_key_differ_in_source_or_variant() -> None:
    counts = Counter((result.key, result.source, result.variant) for result in published())
    assert [key for key, count in counts.items() if count > 1] == []


def test_images_come_from_the_split_unless_a_row_says_otherwise() -> None:
    assert reference_result(imagenet("resnet50")).images == 50_000
    assert reference_result(imagenet("zfnet", "ten-crop-square-256-224", split="test",
                                  ensemble_size=5)).images == 100_000  # fmt: skip
    assert reference_result(imagenet("inception_v3", "center-299")).images == 48_238
    assert {lecture("human").images, lecture("before CNNs").images} == {1_500, 100_000}


TORCHVISION = {
    "alexnet_owt": "alexnet",
    "googlenet_bn_3x3": "googlenet",
    "vgg_a": "vgg11",
    "vgg_a_bn": "vgg11_bn",
    "vgg_b": "vgg13",
    "vgg_b_bn": "vgg13_bn",
    "resnet50_v1_5": "resnet50",
    "resnet101_v1_5": "resnet101",
    "resnet152_v1_5": "resnet152",
}


def test_torchvision_reports_the_same_errors_of_its_weights() -> None:
    results = from_source("torchvision 0.29.1 weights")
    assert len(results) == 23
    for result in results:
        name = TORCHVISION.get(result.network, result.network)
        weights = torchvision.models.get_model_weights(name)[f"IMAGENET1K_{result.variant}"]
        accuracy = weights.meta["_metrics"]["ImageNet-1K"]
        assert result.top1_error == pytest.approx(100 - accuracy["acc@1"]), result
        assert result.top5_error == pytest.approx(100 - accuracy["acc@5"]), result
        # torchvision keeps sizes as numbers or as lists of one.
        crop, resize = (
            size[0] if isinstance(size, list) else size
            for size in (weights.transforms().crop_size, weights.transforms().resize_size)
        )
        assert result.protocol == f"center-{resize}-{crop}", result


def test_digits_can_be_computed_again() -> None:
    pixels, labels = load_digits(return_X_y=True)
    classifiers = {
        "1-NN": KNeighborsClassifier(1),
        "3-NN": KNeighborsClassifier(3),
        "SVC (γ = 0.001)": SVC(gamma=0.001),
    }
    for split, num_train in {"val": 898, "last-297": 1500}.items():
        for network, classifier in classifiers.items():
            result = reference_result(ResultKey(network, "digits", split, "whole"))
            classifier.fit(pixels[:num_train], labels[:num_train])
            accuracy = classifier.score(pixels[num_train:], labels[num_train:])
            assert result.images == len(labels) - num_train
            assert result.top1_error == round(100 * (1 - accuracy), 2)


def test_the_lectures_numbers_belong_to_published_results() -> None:
    shown = {entry.name: entry.top5_error for entry in lecture_table()}
    assert shown == {
        "before CNNs": 25,
        "AlexNet": 15.3,
        "VGG-19": 7.3,
        "ResNet-152": 3.6,
        "human": 5.1,
    }
    for entry in lecture_table():
        assert abs(entry.result.top5_error - entry.top5_error) < 1
        assert entry.result.split in ("test", "test-sample")
        for result in entry.instead:
            assert (result.split, result.ensemble_size, result.extra_data) == ("val", 1, "none")
            assert result.key != entry.result.key


def document(**row: object) -> dict[str, object]:
    good = {"network": "n", "training_data": "d", "split": "val", "protocol": "whole"}
    return {
        "protocols": {"whole": {"words": "the whole image"}},
        "splits": {"d": {"val": 10}},
        "tables": [{"source": "s", "certainty": "read", "rows": [good | row]}],
        "lecture": [],
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"top1_error": 101}, "tables.0.rows.0.top1_error"),
        ({"top1_error": 5, "top5_error": 6}, "must not be above"),
        ({}, "top1_error or top5_error is needed"),
        ({"top1_eror": 5}, "not a known key"),
        ({"top1_error": 5, "protocol": "hole"}, "'hole' of s is not listed"),
        ({"top1_error": 5, "split": "vall"}, "'d, vall' of s is not listed"),
        ({"top1_error": 5, "source": ""}, "tables.0.rows.0.source"),
        ({"top1_error": 5, "certainty": "sure"}, "tables.0.rows.0.certainty"),
    ],
)
def test_a_wrong_row_is_refused(row: dict[str, object], message: str) -> None:
    validate(_Document, document(top1_error=5), "numbers.yaml")
    with pytest.raises(UserError, match=message):
        validate(_Document, document(**row), "numbers.yaml")
