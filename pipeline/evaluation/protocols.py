"""The names under which test protocols are tracked and compared, and how many views they take."""

from typing import assert_never

from pipeline.recipe import CenterCrop, Protocol, WholeImage


def protocol_name(protocol: Protocol, size: int) -> str:
    """Name a protocol at an input size: "whole", "center-256-224".

    The published numbers (`pipeline.published`) use the same names.
    """
    match protocol:
        case WholeImage():
            return "whole"
        case CenterCrop(resize=resize):
            return f"center-{resize}-{size}"
        case _:
            assert_never(protocol)


def num_views(protocol: Protocol) -> int:
    """Return how many views of an image a protocol averages."""
    match protocol:
        case WholeImage() | CenterCrop():
            return 1
        case _:
            assert_never(protocol)
