import pytest

from pipeline.evaluation.metrics import Counts, wilson_interval
from pipeline.results.measured import Measured
from pipeline.results.published import Published, ResultKey
from pipeline.results.reproduction import _Miss, check_reproduction, compare_counts, errors_of

IMAGES = 50_000


def counts(top1_error: float, top5_error: float, images: int = IMAGES) -> Counts:
    hits = [round(images * (1 - error / 100)) for error in (top1_error, top5_error)]
    return Counts(*hits, images)


def measured(network: str, protocol: str, top1_error: float, top5_error: float, **others: object):
    key = ResultKey(network, "ilsvrc2012", "val", protocol)
    return Measured(key, counts(top1_error, top5_error), **others)


def source(name: str, top1_error: float | None, top5_error: float | None) -> Published:
    return Published(
        network="n", training_data="d", split="val", protocol="whole", source=name,
        certainty="read", images=IMAGES, top1_error=top1_error, top5_error=top5_error,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("top1_error", "top5_error", "words"),
    [
        (30.0, 10.0, "reproduced"),
        (30.39, 10.25, "reproduced"),  # both just inside their intervals
        (20.0, 5.0, "reproduced"),  # better
        (31.0, 10.0, "within the spread of re-implementations (30.0–31.5 / 10.0–10.5)"),
        (31.5, 10.5, "within the spread of re-implementations (30.0–31.5 / 10.0–10.5)"),
        (31.0, 11.0, "not reproduced by 1.00 points of top-1 (p < 0.0001) and 1.00 points of"),
        (30.0, 10.6, "not reproduced by 0.60 points of top-5 (p < 0.0001)"),
    ],
)  # fmt: skip
def test_a_result_is_reproduced_or_within_the_spread_or_not_reproduced(
    top1_error: float, top5_error: float, words: str
) -> None:
    others = [source("others", 31.5, None), source("third", None, 10.5)]
    found = compare_counts(counts(top1_error, top5_error), [source("authors", 30.0, 10.0), *others])
    assert found.words.startswith(words)
    assert found.reference.source == "authors"
    assert found.status == words.split(" of ")[0].split(" by ")[0]


def test_another_training_of_the_authors_is_no_re_implementation() -> None:
    again = source("authors", 31.5, 10.5).model_copy(update={"variant": "smaller"})
    found = compare_counts(counts(31.0, 10.0), [source("authors", 30.0, 10.0), again])
    assert found.status == "not reproduced"


def test_p_is_below_one_in_twenty_just_where_the_interval_ends() -> None:
    for errors in range(15_000, 15_500, 10):
        error, _ = errors_of(Counts(IMAGES - errors, IMAGES - errors, IMAGES))
        miss = _Miss(error, 30.0)
        assert (miss.p < 0.05) == (30.0 not in wilson_interval(errors, IMAGES))


def test_other_images_and_unfinished_trainings_are_not_compared() -> None:
    key = ("resnet18", "center-256-224", 30.3, 10.8)
    assert check_reproduction(measured(*key)).status == "reproduced"
    assert check_reproduction(measured(*key, complete=False)) is None
    assert check_reproduction(measured("resnet18", "center-160-128", 30.3, 10.8)) is None
    assert compare_counts(counts(30, 10, 49_152), [source("authors", 30.0, 10.0)]) is None


def test_the_reference_was_tested_on_as_many_images() -> None:
    # The paper's is without the blacklist; Keras' is on all images.
    found = check_reproduction(measured("inception_v3", "center-299", 22.0, 6.2))
    assert found.reference.source == "keras-applications readme"
