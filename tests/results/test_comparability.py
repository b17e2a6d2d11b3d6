from dataclasses import replace

import pytest

from pipeline.results.comparability import (
    difference,
    nearest,
    on_test,
    on_val,
    published_with_key,
    reference_result,
    results_of_others,
)
from pipeline.results.published import Published, ResultKey, lecture_table, protocol_words


def imagenet(network: str, protocol: str = "center-256-224", **others: object) -> ResultKey:
    return ResultKey(network, "ilsvrc2012", others.pop("split", "val"), protocol, **others)


def lecture(name: str) -> Published:
    return next(entry.result for entry in lecture_table() if entry.name == name)


@pytest.mark.parametrize(
    ("key", "errors", "source"),
    [
        (imagenet("alexnet", "ten-crop-square-256-224"), "40.7 / 18.2", "Krizhevsky"),
        (imagenet("alexnet_code", "ten-crop-square-256-224"), "40.664 / 18.21", "original code"),
        (imagenet("alexnet_caffe", "center-squash-256-227"), "42.9 / 19.8", "Caffe"),
        (imagenet("vgg16", "dense-384"), "25.6 / 8.1", "Simonyan"),
        (imagenet("googlenet"), "– / 10.07", "Szegedy"),
        (imagenet("googlenet", "google-144", ensemble_size=7), "– / 6.67", "Szegedy"),
        (imagenet("resnet50"), "24.7 / 7.8", "He et al."),
        (imagenet("resnet50_v1_5"), "24.01 / 7.02", "fb.resnet.torch"),
        (imagenet("densenet121"), "25.02 / 7.71", "Huang"),
        (ResultKey("lenet5", "mnist", "test", "whole"), "0.95", "LeCun"),
    ],
)
def test_the_reference_is_the_authors_result(key: ResultKey, errors: str, source: str) -> None:
    result = reference_result(key)
    assert (result.key, result.errors) == (key, errors)
    assert result.source.startswith(source) or source in result.source


def test_a_result_of_another_key_is_no_reference() -> None:
    key = imagenet("resnet152", "dense-224-256-384-480-640")
    assert reference_result(key) is not None
    for other in (
        imagenet("resnet152_v1_5", key.protocol),
        imagenet("resnet152", "dense-256-384-512"),
        imagenet("resnet152", key.protocol, split="test"),
        imagenet("resnet152", key.protocol, ensemble_size=2),
        imagenet("resnet152", key.protocol, extra_data="fall2011"),
    ):
        assert reference_result(other) is None


def test_nearest_has_the_same_kind_of_protocol_and_ensemble() -> None:
    crop = nearest(imagenet("alexnet_caffe"))
    assert (crop.protocol, crop.top5_error) == ("center-squash-256-227", 19.8)
    ten = nearest(imagenet("alexnet", "ten-crop-256-224"))
    assert (ten.protocol, ten.top5_error) == ("ten-crop-square-256-224", 18.2)
    five = nearest(imagenet("alexnet", "ten-crop-square-256-224", ensemble_size=4))
    assert (five.ensemble_size, five.split) == (5, "val")
    tested = nearest(imagenet("alexnet", "ten-crop-square-256-224", ensemble_size=4, split="test"))
    assert (tested.ensemble_size, tested.split) == (5, "test")
    assert nearest(imagenet("alexnet", ensemble_size=7, extra_data="fall2011")).top1_error == 36.7
    assert nearest(imagenet("alexnet", extra_data="fall2011")).top1_error == 39.0
    assert nearest(imagenet("alexnet_caffe", "center-227")).top1_error == 42.506
    # A protocol that no table knows is one view.
    assert nearest(imagenet("resnet50", "center-160-128")).top1_error == 24.7
    assert nearest(imagenet("resnet50")) == reference_result(imagenet("resnet50"))


def test_nearest_has_the_same_network_and_data() -> None:
    assert nearest(imagenet("lenet5")) is None
    assert nearest(ResultKey("resnet18", "my-photos", "val", "center-256-224")) is None


def test_differences_of_keys_are_put_in_words() -> None:
    one = imagenet("alexnet")
    assert difference(one, one) == ""
    assert difference(lecture("AlexNet").key, one) == (
        "test instead of val, 10 crops (224 of the centre 256) instead of 1 crop (224 of 256), "
        "ensemble of 7 instead of 1, extra data fall2011 instead of none"
    )
    assert "1 network instead of 7" in difference(one, lecture("AlexNet").key)
    assert protocol_words("center-160-128") == "center-160-128"


def test_results_of_others_are_of_other_methods_on_the_same_images() -> None:
    key = ResultKey("lenet5_modern", "digits", "val", "whole")
    errors = {other.network: other.top1_error for other in results_of_others(key)}
    assert (errors["logistic regression"], errors["1-NN"], errors["SVC (γ = 0.001)"]) == (
        7.12,
        3.89,
        3.11,
    )
    assert "1-NN" not in {
        other.network for other in results_of_others(replace(key, network="1-NN"))
    }
    assert results_of_others(replace(key, split="train")) == ()


def test_a_test_error_is_found_on_val_if_it_was_published() -> None:
    on_split = {entry.name: on_val(entry.result) for entry in lecture_table()}
    assert {name: result.errors for name, result in on_split.items() if result} == {
        "AlexNet": "36.7 / 15.4",
        "VGG-19": "24.7 / 7.5",
    }
    assert on_test(on_split["AlexNet"]) == lecture("AlexNet")
    assert on_val(on_split["AlexNet"]) is None


def test_results_of_one_key_are_all_found() -> None:
    errors = [result.top1_error for result in published_with_key(imagenet("vgg19"))]
    assert errors == [28.7, 28.744, 29.26, 27.624]
