import pytest

from pipeline.protocol import num_views, protocol_name
from pipeline.published import published
from pipeline.recipe import CenterCrop, Protocol, WholeImage


@pytest.mark.parametrize(
    ("protocol", "size", "name"),
    [
        (WholeImage(), 32, "whole"),
        (CenterCrop(), 224, "center-256-224"),
        (CenterCrop(resize=232), 224, "center-232-224"),
        (CenterCrop(resize=342), 299, "center-342-299"),
    ],
)
def test_names_are_those_of_the_published_numbers(protocol: Protocol, size: int, name: str) -> None:
    assert protocol_name(protocol, size) == name
    assert name in {result.protocol for result in published()}
    assert num_views(protocol) == 1
    assert "/" not in name  # it is a part of a metric's name
