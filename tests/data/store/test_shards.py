"""The bytes of shards, beside those that Python's own `tarfile` writes."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.data.store.shards import ShardWriter, is_key

JPEG = b"\xff\xd8\xff"


def as_tarfile_writes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@given(
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(is_key),
    size=st.integers(0, 2000),
)
@example(key="a" * 96, size=0)  # with .jpg, as long as a header holds
@example(key="a" * 97, size=512)
@example(key="n01440764/" + "é" * 60, size=1)
def test_a_shard_is_what_tarfile_writes(
    key: str, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, data = tmp_path_factory.mktemp("shard"), JPEG + bytes(size)
    shards = ShardWriter(folder, "val", 1e9)
    place = shards.add(key, data, 7)
    shards.close()
    (file,) = shards.files
    written = (folder / file.name).read_bytes()
    assert written == as_tarfile_writes({f"{key}.jpg": data, f"{key}.cls": b"7"})
    assert written[place.offset : place.offset + len(data)] == data
    assert (file.size, file.sha256) == (len(written), hashlib.sha256(written).hexdigest())


def test_a_new_shard_starts_where_the_last_would_be_too_large(tmp_path: Path) -> None:
    shards = ShardWriter(tmp_path, "train", 40_000, first=3)
    places = [shards.add(f"image-{i}", JPEG + bytes(9_000), 0) for i in range(5)]
    shards.close()
    assert [place.shard for place in places] == [3, 3, 4, 4, 5]
    assert [file.name for file in shards.files] == [f"train-00000{i}.tar" for i in (3, 4, 5)]
    assert all((tmp_path / file.name).stat().st_size <= 40_000 for file in shards.files)
