"""A data set on an S3 server: read by range, a share cached on local disk, staged."""

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import numpy as np
import pytest
from botocore.exceptions import NoCredentialsError
from intact import is_intact
from moto.server import ThreadedMotoServer

from pipeline.config.cluster import CacheConfig, as_folder
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.packing import Sample, write_store
from pipeline.data.store.stage import stage
from pipeline.data.store.store import Store
from pipeline.runtime.errors import UserError

COUNT, SIZE = 40, 1000


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Store:
    random = np.random.default_rng(0)
    return write_store(
        tmp_path_factory.mktemp("packed") / "noise",
        name="noise",
        classes=[ImageClass(0, "noise")],
        splits={
            name: [
                Sample(f"{name}/{i}", b"\xff\xd8\xff" + random.bytes(SIZE - 3), 0, 8, 8)
                for i in range(COUNT)
            ]
            for name in ("train", "val")
        },
        source={"kind": "test"},
        shard_bytes=10_000,
    )


@contextmanager
def serving() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture
def url(server: str, local: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    settings = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for file in local.folder.iterdir():
        client.upload_file(str(file), "bucket", f"data/noise/{file.name}")
    yield "s3://bucket/data/noise"
    as_folder("s3://bucket").fs.invalidate_cache()
    for found in client.list_objects_v2(Bucket="bucket")["Contents"]:
        client.delete_object(Bucket="bucket", Key=found["Key"])
    client.delete_bucket(Bucket="bucket")


def same(store: Store, local: Store) -> bool:
    split, expected = store.split("train"), local.split("train")
    order = np.random.default_rng(1).permutation(COUNT).tolist()
    got = split.encoded_batch(order)
    return [data.tobytes() for data in got] == [expected.encoded(i).tobytes() for i in order]


def test_images_are_read_by_range(url: str, local: Store) -> None:
    store = Store.open(as_folder(url))
    assert (store.digest, store.split_names) == (local.digest, ("train", "val"))
    assert same(store, local)
    assert same(pickle.loads(pickle.dumps(store)), local)  # noqa: S301
    assert is_intact(store)


@pytest.mark.parametrize(("share", "kept"), [(1.0, COUNT), (0.5, COUNT // 2)])
def test_a_share_is_cached_and_then_read_from_disk(
    share: float, kept: int, url: str, local: Store, tmp_path: Path
) -> None:
    total = sum(file.stat().st_size for file in local.folder.iterdir() if file.suffix != ".json")
    cache = CacheConfig(folder=tmp_path / "cache", gigabytes=share * total / 1e9)
    for _ in range(2):
        assert same(Store.open(as_folder(url), cache), local)
    split = Store.open(as_folder(url), cache).split("train")
    (flags,) = (tmp_path / "cache").rglob("train.there")
    cached = np.flatnonzero(np.fromfile(flags, np.uint8)).tolist()
    assert len(cached) == pytest.approx(kept, abs=1)
    for shard in local.folder.glob("train-*.tar"):
        boto3.client("s3").delete_object(Bucket="bucket", Key=f"data/noise/{shard.name}")
    expected = local.split("train")
    assert all(split.encoded(i).tobytes() == expected.encoded(i).tobytes() for i in cached)
    if share < 1:
        missing = next(i for i in range(COUNT) if i not in cached)
        with pytest.raises(UserError, match=r"train-00000\d\.tar: can't be read"):
            split.encoded(missing)


def test_a_few_images_are_cached_apart_from_the_whole_split(
    url: str, local: Store, tmp_path: Path
) -> None:
    store = Store.open(as_folder(url), CacheConfig(folder=tmp_path / "cache", gigabytes=1))
    few = store.split("train", at_most=3)
    expected = [local.split("train").encoded(i).tobytes() for i in (0, COUNT // 2 - 1, COUNT - 1)]
    for _ in range(2):
        assert [data.tobytes() for data in few.encoded_batch(range(3))] == expected
        assert same(store, local)


def test_a_cache_of_an_earlier_boot_is_removed(url: str, local: Store, tmp_path: Path) -> None:
    cache = CacheConfig(folder=tmp_path, gigabytes=1)
    assert same(Store.open(as_folder(url), cache), local)
    (boot,) = tmp_path.glob("noise-*/*")
    earlier = boot.rename(boot.with_name("earlier"))
    for file in earlier.glob("*.images"):
        file.write_bytes(bytes(file.stat().st_size))
    assert same(Store.open(as_folder(url), cache), local)
    assert not earlier.exists()


@pytest.mark.parametrize("small_disk", [24], indirect=True)
def test_a_full_disk_caches_less_and_reading_continues(
    url: str, local: Store, small_disk: Path
) -> None:
    store = Store.open(as_folder(url), CacheConfig(folder=small_disk, gigabytes=1))
    assert same(store, local)
    assert same(store, local)
    (flags,) = small_disk.rglob("train.there")
    assert 0 < np.fromfile(flags, np.uint8).sum() < COUNT


def test_a_remote_data_set_can_be_staged(url: str, local: Store, tmp_path: Path) -> None:
    copy = stage(as_folder(url), tmp_path)
    assert is_intact(copy)
    assert same(copy, local)


def test_a_missing_shard_and_a_missing_data_set_are_named(url: str) -> None:
    with pytest.raises(UserError, match="s3://bucket/data/other: no such data set"):
        Store.open(as_folder("s3://bucket/data/other"))
    boto3.client("s3").delete_object(Bucket="bucket", Key="data/noise/val-000001.tar")
    with pytest.raises(UserError, match=r"val-000001\.tar: missing"):
        Store.open(as_folder(url))


def test_a_bucket_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(UserError, match="s3://missing/data/noise: no such data set"):
        Store.open(as_folder("s3://missing/data/noise"))


@pytest.mark.parametrize(
    ("endpoint", "key", "message"),
    [
        ("http://127.0.0.1:1", "key", "http://127.0.0.1:1"),
        ("http://127.0.0.1:1", None, NoCredentialsError.fmt),
        ("nonsense", "key", "nonsense"),
    ],
)
def test_errors_of_the_s3_client_become_one_line_with_a_fix(
    endpoint: str, key: str | None, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    if key:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    folder = as_folder("s3://bucket/data/noise")
    folder.fs.clear_instance_cache()
    with pytest.raises(
        UserError, match=rf"^s3://bucket/data/noise: .*{message}.*credentials"
    ) as error:
        Store.open(as_folder("s3://bucket/data/noise"))
    assert "\n" not in str(error.value)
    folder.fs.clear_instance_cache()


def test_a_server_that_stops_while_images_are_read_is_reported(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with serving() as address:  # moto's servers share their buckets
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        as_folder(url).fs.clear_instance_cache()
        store = Store.open(as_folder(url))
        split = store.split("train")
    with pytest.raises(UserError, match=r"train-000000\.tar: can't be read .*network"):
        split.encoded(0)
    with pytest.raises(UserError, match=r"val\.parquet: can't be read .*network"):
        store.split("val")
    as_folder(url).fs.invalidate_cache()
    with pytest.raises(UserError, match=r"s3://bucket/data/noise: can't be read .*network"):
        stage(as_folder(url), tmp_path)
    as_folder(url).fs.clear_instance_cache()


WITHOUT = """
import sys
sys.modules["s3fs"] = None
from pipeline.cli.app import main
sys.argv[1:] = ["doctor", "s3://bucket/data"]
main()
"""


def test_a_missing_package_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ilsvrc: s3://bucket/data: can't be read (")
    assert "pip install 'ilsvrc[s3]'" in done.stderr


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(UserError, match=r"foo://bucket: .*foo.*; write a path, or a URL as s3://"):
        as_folder("foo://bucket")
