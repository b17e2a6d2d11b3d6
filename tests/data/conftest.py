"""Packed photographs, shared by the tests of loading."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from photographs import PHOTO_SIZES, Pack, photo_samples

from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import Sample, write_store
from pipeline.data.store.store import Split, Store

# A busy machine is no failure of the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """A function that packs samples of two classes into a data set of one split, `train`."""

    def pack_samples(samples: Sequence[Sample]) -> Store:
        folder = tmp_path_factory.mktemp("packed") / "photos"
        classes = [ImageClass(0, "china"), ImageClass(1, "flower")]
        return write_store(
            folder, name="photos", classes=classes, splits={"train": samples}, source={}
        )

    return pack_samples


@pytest.fixture(scope="session")
def photos(pack: Pack) -> Split:
    """Twelve photographs of `PHOTO_SIZES`."""
    return pack(list(photo_samples(PHOTO_SIZES))).split("train")
