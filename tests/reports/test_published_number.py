import pytest

from pipeline.evaluation.metrics import Counts
from pipeline.reports.published_number import compare_number, explain_number, find_published
from pipeline.results.measured import Measured
from pipeline.results.published import ResultKey, published
from pipeline.runtime.errors import UserError

IMAGES = 50_000
TEN_CROPS = "ten-crop-square-256-224"


def measured(network: str, protocol: str, top5_error: float, **others: object) -> Measured:
    hits = round(IMAGES * (1 - top5_error / 100))
    key = ResultKey(network, "ilsvrc2012", "val", protocol, **others)
    return Measured(key, Counts(hits // 2, hits, IMAGES), run="mine")


def test_alexnets_15_3_is_not_comparable_with_one_crop_and_what_is_comparable_is_named() -> None:
    (number,) = find_published("AlexNet 15.3")
    lines = compare_number(number, measured("alexnet", "center-256-224", 19.7))
    assert lines == [
        "not comparable: 7 networks, 10 crops, test; "
        "like for like: 40.7/18.2 (1 network, 10 crops, val)",
        "it had extra data: fall2011",
        "the same on val: 36.7/15.4",
        "to measure it: ilsvrc evaluate mine --protocol ten-crop-square-256-224",
    ]


def test_a_run_of_a_published_protocol_is_compared_with_that_result() -> None:
    (number,) = find_published("alexnet 15.3")
    lines = compare_number(number, measured("alexnet", TEN_CROPS, 18.2))
    assert lines[0].endswith("like for like: 40.7/18.2 (1 network, 10 crops, val)")
    assert lines[-1].startswith("this run beside 40.7/18.2: not reproduced by ")


def test_a_test_error_is_compared_by_the_same_networks_error_on_val() -> None:
    (number,) = find_published("alexnet 15.3")
    ours = measured("alexnet", TEN_CROPS, 15.4, ensemble_size=7, extra_data="fall2011")
    lines = compare_number(number, ours)
    assert lines[0] == "top-5 15.3 is of test; the same on val is 36.7/15.4"
    assert "points of top-1" in lines[1]


def test_results_are_found_by_name_and_error() -> None:
    assert [result.network for result in find_published("15.3")] == ["alexnet"]  # the lecture's
    assert {result.network for result in find_published("zfnet 15.3")} == {"zfnet"}
    assert [result.top1_error for result in find_published("vgg16 28.4")] == [28.408, 28.364]
    assert find_published("resnet 3.6")[0].ensemble_size == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alexnet", "write a network and an error"),
        ("", "write a network and an error"),
        ("alexnet 12.34", "`ilsvrc published alexnet` lists"),
        ("lenet9 12.34", "no published result has this error$"),
    ],
)
def test_a_number_that_is_not_published_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_published(text)


def test_only_runs_of_the_same_family_are_compared() -> None:
    (number,) = find_published("resnet 3.6")
    ours = [measured("resnet152", "center-256-224", 6.7), measured("alexnet", TEN_CROPS, 18.2)]
    text = "\n".join(explain_number(number, ours))
    assert "mine, resnet152: " in text
    assert "alexnet" not in text
    assert "like for like: 23.0/6.7 (1 network, 1 crop (224 of 256), val)" in text
    alone = explain_number(number, [])
    assert alone[-1] == "  no run of this network has been evaluated"
    assert "  one network: 21.43/5.71 (1 network, 10 crops, val)" in alone


def test_every_published_number_can_be_compared_with_a_run() -> None:
    ours = measured("alexnet", "center-256-224", 19.7)
    for result in published():
        lines = compare_number(result, ours)
        assert lines[0].startswith("not comparable: ") or result.key == ours.key, result
