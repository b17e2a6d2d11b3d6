"""Every backend shows the planned views, in the planned order, or says which image is damaged.

DALI is tested against PIL, the reference backend. Figures in docstrings are in grey levels.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import Pack, photo_samples
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from pipeline.config.augmentation import (
    AlexNetCrop,
    Augmentation,
    NoAugmentation,
    RandomAffine,
    RandomResizedCrop,
    ScaleJitter,
)
from pipeline.config.boxes import Interpolation
from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import CenterCrop, WholeImage
from pipeline.config.recipe import InputConfig
from pipeline.data.loading.dali import dali_inputs
from pipeline.data.loading.loader import Loader, build_loader
from pipeline.data.loading.plans import evaluation_plan
from pipeline.data.loading.quarantine import Quarantine
from pipeline.data.loading.views import Views, evaluation_views, training_views
from pipeline.data.store.packing import Sample
from pipeline.data.store.store import Split, Store
from pipeline.runtime.errors import UserError

CPU = torch.device("cpu")
BACKENDS = ("dali", "reference")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")
GREY_LEVELS = InputConfig(size=224, mean=(0, 0, 0), std=(1, 1, 1))
CENTER = CenterCrop(resize=256)
AUGMENTATIONS: dict[str, Augmentation] = {
    "center": NoAugmentation(),
    "shift-scale": RandomAffine(max_shift=0.2, min_scale=0.7, max_scale=1.4, fill=90),
    "alexnet": AlexNetCrop(color_noise=0.1),
    "scale-jitter": ScaleJitter(min_side=256, max_side=512, color_noise=0.1),
    "area": RandomResizedCrop(color_noise=0.1),
}
every_augmentation = pytest.mark.parametrize("name", AUGMENTATIONS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def load(
    split: Split,
    views: Iterable[Views],
    backend: str = "dali",
    *,
    input: InputConfig = GREY_LEVELS,
    device: torch.device = CPU,
    fill: int | None = None,
    channels_last: bool = True,
    quarantine: Quarantine | None = None,
    **loading: int,
) -> Loader:
    return build_loader(
        split,
        views,
        input,
        LoadingConfig.model_validate({"backend": backend, **loading}),
        device,
        max_batch_size=len(split),
        fill=fill,
        channels_last=channels_last,
        quarantine=quarantine,
    )


def images_of(split: Split, views: Views, backend: str, **options: Any) -> Tensor:
    loader = load(split, [views], backend, **options)
    images = next(loader).images
    loader.close()
    return images


def views_of(name: str, split: Split, size: int = 224, epoch: int = 0) -> Views:
    images = np.arange(len(split))
    return training_views(AUGMENTATIONS[name], CENTER, size, images, split.sizes, 0, epoch)


def difference(first: Tensor, second: Tensor) -> float:
    """Return the largest of the images' mean absolute differences."""
    return float((first - second).abs().mean(dim=(1, 2, 3)).max())


@every_augmentation
def test_dali_shows_what_the_reference_shows(name: str, photos: Split) -> None:
    """Measured means: 0.12 to 0.15 for each augmentation, 0.19 for the worst image."""
    views, fill = views_of(name, photos), AUGMENTATIONS[name].appearance.fill
    dali = images_of(photos, views, "dali", fill=fill)
    reference = images_of(photos, views, "reference", fill=fill)
    assert dali.shape == reference.shape == (len(photos), 3, 224, 224)
    assert dali.dtype == reference.dtype == torch.float32
    assert difference(dali, reference) < 0.5


@every_augmentation
def test_one_loader_shows_images_of_several_sizes(name: str, photos: Split) -> None:
    images, augmentation = np.arange(len(photos)), AUGMENTATIONS[name]
    views = [
        training_views(augmentation, CENTER, 224, images, photos.sizes, 0, 0, size)
        for size in (96, 160, 224)
    ]
    loaders = [
        load(photos, views, backend, fill=augmentation.appearance.fill)
        for backend in ("dali", "reference")
    ]
    for size, (dali, reference) in zip((96, 160, 224), zip(*loaders, strict=True), strict=True):
        assert dali.images.shape == reference.images.shape == (len(photos), 3, size, size)
        assert difference(dali.images, reference.images) < 0.5
    for loader in loaders:
        loader.close()


@every_backend
def test_center_crop_is_torchvisions(backend: str, photos: Split) -> None:
    """Measured means: DALI 0.12 (worst image 0.18), the reference 0.001; on PIL and on tensors."""
    ours = images_of(photos, views_of("center", photos), backend)
    crop = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    on_pil = torch.stack([v2.functional.pil_to_tensor(crop(image)) for image in decoded(photos)])
    on_tensors = torch.stack(
        [crop(v2.functional.pil_to_tensor(image)) for image in decoded(photos)]
    )
    assert difference(ours, on_pil.float()) < 0.5
    assert difference(ours, on_tensors.float()) < 0.5


def decoded(split: Split) -> list[Image.Image]:
    return [Image.open(io.BytesIO(split.encoded(i).tobytes())) for i in range(len(split))]


def encoded_as(kind: str, image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_unusual_encodings_agree(photos: Split, pack: Pack) -> None:
    """ImageNet has grey, CMYK and PNG files among its JPEGs, and rotations that its labels ignore.

    Measured: 0.11 to 0.16.
    """
    photo = decoded(photos)[0]
    grey = photo.convert("L")
    sixteen_bits = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    rotated = Image.Exif()
    rotated[0x112] = 6
    files = {
        "rotated": encoded_as("JPEG", photo, quality=90, exif=rotated),
        "progressive": encoded_as("JPEG", photo, progressive=True),
        "grey": encoded_as("JPEG", grey),
        "cmyk": encoded_as("JPEG", photo.convert("CMYK")),
        "palette": encoded_as("PNG", photo.quantize(64)),
        "transparent": encoded_as("PNG", photo.convert("RGBA")),
        "grey-transparent": encoded_as("PNG", photo.convert("LA")),
        "sixteen-bits": encoded_as("PNG", sixteen_bits),
        "webp": encoded_as("WEBP", photo, quality=90),
    }
    samples = [Sample(key, data, 0, photo.height, photo.width) for key, data in files.items()]
    split = pack(samples).split("train")
    views = views_of("center", split)
    apart = images_of(split, views, "dali") - images_of(split, views, "reference")
    for key, image in zip(files, apart, strict=True):
        assert image.abs().mean() < 0.5, key


@pytest.mark.parametrize("name", ["center", "alexnet", "scale-jitter"])
def test_the_support_holds_all_that_the_filter_reads(name: str, photos: Split) -> None:
    """Only PIL's rounding of a box to float32 tells the two apart, by one grey level at most."""
    views = views_of(name, photos)
    whole = np.concatenate([np.zeros_like(photos.sizes), photos.sizes], axis=1).astype(np.int64)
    assert (views.support != whole).any()
    apart = images_of(photos, views, "reference") - images_of(
        photos, replace(views, support=whole), "reference"
    )
    assert apart.abs().max() < 1.001
    assert (apart.abs() > 0.5).float().mean() < 0.02


@every_augmentation
@given(epoch=st.integers(0, 50))
@settings(max_examples=10)
def test_dalis_inputs_are_the_boxes_of_the_views(name: str, photos: Split, epoch: int) -> None:
    views = views_of(name, photos, epoch=epoch)
    inputs = dali_inputs(photos, views, GREY_LEVELS)
    support_start = inputs.start + inputs.support_start
    np.testing.assert_array_equal(support_start, views.support[:, :2])
    np.testing.assert_array_equal(inputs.support_shape, views.support[:, 2:])
    np.testing.assert_allclose(support_start + inputs.boxes[0], views.boxes[:, :2], atol=1e-4)
    np.testing.assert_allclose(inputs.boxes[1] - inputs.boxes[0], views.boxes[:, 2:], atol=1e-4)
    assert (inputs.start >= 0).all()
    assert (inputs.shape > 0).all()
    assert (inputs.start + inputs.shape <= photos.sizes).all()
    if AUGMENTATIONS[name].appearance.fill is None:
        assert not inputs.support_start.any()


@every_backend
def test_flips_lighting_and_normalization_are_executed(backend: str, photos: Split) -> None:
    views = views_of("area", photos)
    input = InputConfig(size=32, mean=(120, 110, 100), std=(60, 50, 40))
    plain = replace(
        views,
        flips=np.zeros_like(views.flips),
        lighting=np.zeros_like(views.lighting),
    )
    assert views.flips.any()
    assert not views.flips.all()
    expected = images_of(photos, plain, backend, input=GREY_LEVELS.model_copy(update={"size": 32}))
    flips = torch.from_numpy(views.flips)
    expected[flips] = expected[flips].flip(3)
    expected += torch.from_numpy(views.lighting)[:, :, None, None]
    expected -= torch.tensor(input.mean)[:, None, None]
    expected /= torch.tensor(input.std)[:, None, None]
    torch.testing.assert_close(
        images_of(photos, views, backend, input=input), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("size", [64, 500])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_backends_resize_alike_by_every_filter(
    interpolation: Interpolation, size: int, photos: Split
) -> None:
    """Measured means of the worst image: 0.18, 0.22 and 0.27; by another filter at least 1.65.

    Single pixels differ by up to 1, 12 and 19: PIL rounds to 8 bits between rows and columns.
    """
    input = GREY_LEVELS.model_copy(update={"interpolation": interpolation, "size": size})
    protocol, images = CenterCrop(resize=size * 8 // 7), np.arange(len(photos))
    views = evaluation_views(protocol, size, images, photos.sizes, interpolation=interpolation)
    dali, reference = (images_of(photos, views, backend, input=input) for backend in BACKENDS)
    assert difference(dali, reference) < 0.5
    for other in set(INTERPOLATIONS) - {interpolation}:
        changed = input.model_copy(update={"interpolation": other})
        assert difference(images_of(photos, views, "dali", input=changed), reference) > 1.4
    # What the filter may read is no less than it reads.
    kind = Image.Resampling[interpolation.upper()]
    for photo, box, shown in zip(decoded(photos), views.boxes, reference, strict=True):
        y, x, height, width = box
        whole = photo.resize((size, size), kind, box=(x, y, x + width, y + height))
        assert np.abs(np.asarray(whole) - shown.permute(1, 2, 0).numpy()).max() <= 2


@every_backend
def test_outside_an_image_is_the_fill(backend: str, photos: Split) -> None:
    sizes = photos.sizes.astype(np.float64)
    beside = np.concatenate([-3 * sizes, sizes], axis=1)
    half_out = np.concatenate([-sizes / 2, sizes], axis=1)
    views = evaluation_views(WholeImage(), 224, np.arange(len(photos)), photos.sizes)
    far = replace(views, boxes=beside, support=beside.astype(np.int64))
    assert (images_of(photos, far, backend, fill=90) == 90).all()
    near = replace(views, boxes=half_out, support=np.floor(half_out).astype(np.int64))
    images = images_of(photos, near, backend, fill=90)
    assert (images[:, :, :100] == 90).all()
    assert (images[:, :, :, :100] == 90).all()
    assert (images[:, :, 124:, 124:] != 90).float().mean() > 0.9


@every_backend
def test_grey_digits_of_eight_pixels(backend: str, data_dir: Path) -> None:
    digits = Store.open(data_dir / "digits").split("train")
    input = InputConfig(size=8, color="gray", mean=(0,), std=(1,))
    views = evaluation_views(WholeImage(), 8, np.arange(20), digits.sizes[:20])
    images = images_of(digits, views, backend, input=input)
    expected = [np.asarray(image) for image in decoded(digits)[:20]]
    np.testing.assert_array_equal(images[:, 0].numpy(), np.stack(expected))


def test_shifted_grey_digits_agree(data_dir: Path) -> None:
    """Measured mean: 0.11 (worst image 0.19)."""
    digits = Store.open(data_dir / "digits").split("train")
    input = InputConfig(size=32, color="gray", mean=(0,), std=(1,))
    augmentation = RandomAffine(max_shift=0.2, min_scale=0.8, max_scale=1.2, fill=0)
    images = np.arange(len(digits))
    views = training_views(augmentation, WholeImage(), 32, images, digits.sizes, 0, 0)
    dali = images_of(digits, views, "dali", input=input, fill=0)
    reference = images_of(digits, views, "reference", input=input, fill=0)
    assert dali.shape == (len(digits), 1, 32, 32)
    assert difference(dali, reference) < 0.5


@every_augmentation
def test_threads_prefetch_and_layout_change_no_pixel(name: str, photos: Split) -> None:
    fill = AUGMENTATIONS[name].appearance.fill
    views = views_of(name, photos)
    first = images_of(photos, views, "dali", fill=fill)
    second = images_of(photos, views, "dali", fill=fill, threads=3, prefetch=4, channels_last=False)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert second.is_contiguous()
    assert torch.equal(first, second)


@every_backend
@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_batches_come_whole_in_order_and_keep_their_memory(
    backend: str, prefetch: int, photos: Split
) -> None:
    input = GREY_LEVELS.model_copy(update={"size": 16})
    batches = [np.array([3, 1]), np.array([5]), np.array([0, 2, 4, 11]), np.array([3])] * 3
    plan = [evaluation_views(CENTER, 16, b, photos.sizes[b]) for b in batches]
    loader = load(photos, plan, backend, input=input, prefetch=prefetch)
    kept = list(loader)  # all at once: none may lie in memory that a later one overwrites
    with pytest.raises(StopIteration):
        next(loader)
    loader.close()
    alone = images_of(photos, evaluation_views(CENTER, 16, np.arange(12), photos.sizes), backend,
                      input=input)  # fmt: skip
    assert len(kept) == len(batches)
    for batch, indices in zip(kept, batches, strict=True):
        assert batch.indices.tolist() == indices.tolist()
        assert batch.labels.tolist() == photos.labels[indices].tolist()
        assert torch.equal(batch.images, alone[indices])


def test_an_empty_plan_ends_at_once(photos: Split) -> None:
    for backend in BACKENDS:
        assert list(load(photos, [], backend)) == []


@every_backend
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], r"can't be decoded \(.+\)"),
        (lambda data: b"", "is in no known format"),
        (lambda data: data[:300], "(can't be decoded|is in no known format)"),
    ],
    ids=["truncated", "zeros", "header"],
)
def test_a_damaged_image_is_named(
    backend: str, damage: Callable[[bytes], bytes], reason: str, pack: Pack
) -> None:
    """The shard is damaged after it was packed, as by a disk. Three batches are loaded ahead."""
    samples = list(photo_samples([(90, 120)] * 12))
    store = pack(samples)
    shard, data = store.folder / "train-000000.tar", samples[7].data
    damaged = damage(data).ljust(len(data), b"\0")
    shard.write_bytes(shard.read_bytes().replace(data, damaged))
    split = store.split("train")
    plan = evaluation_plan(CENTER, 224, split, 0, 1, 2)
    loader = load(split, plan, backend, prefetch=3)
    loaded: list[int] = []
    place = rf"train-000000\.tar: photo/07: the image {reason}.*; .*`ilsvrc prepare` again"
    with pytest.raises(UserError, match=place):  # noqa: PT012  the good batches come first
        for batch in loader:
            loaded += batch.indices.tolist()
    loader.close()
    assert loaded == list(range(len(loaded)))
    assert len(loaded) <= 6


@every_backend
def test_damaged_images_are_left_out_and_listed(backend: str, pack: Pack, tmp_path: Path) -> None:
    """Batches of three, three ahead; the second image of two batches is cut off by a disk."""
    samples = list(photo_samples([(90, 120)] * 15))
    store = pack(samples)
    split = store.split("train")
    views = list(evaluation_plan(CENTER, 224, split, 0, 1, 3))
    healthy = torch.cat([batch.images for batch in load(split, views, backend)])
    shard = store.folder / "train-000000.tar"
    content = shard.read_bytes()
    for number in (4, 10):
        data = samples[number].data
        content = content.replace(data, data[: len(data) // 2].ljust(len(data), b"\0"))
    shard.write_bytes(content)

    warnings: list[str] = []
    file = tmp_path / "quarantined.txt"
    for _ in range(2):  # epochs
        quarantine = Quarantine(file, split, 0.15, warnings.append)
        loader = load(split, views, backend, prefetch=3, quarantine=quarantine)
        batches = list(loader)
        loader.close()
        indices = [batch.indices.tolist() for batch in batches]
        assert indices == [[0, 1, 2], [3, 5], [6, 7, 8], [9, 11], [12, 13, 14]]
        assert torch.equal(
            torch.cat([batch.images for batch in batches]), healthy[list(chain(*indices))]
        )
        assert all(len(batch.images) == len(batch.labels) for batch in batches)
    lines = file.read_text().splitlines()
    assert [line.split(": ")[1] for line in lines] == ["photo/04", "photo/10"]
    assert [text.partition(": photo")[0] for text in warnings] == ["left out train-000000.tar"] * 2
    assert warnings[1].endswith("(2 so far, at most 2)")

    file.unlink()
    strict = Quarantine(file, split, 0.1, warnings.append)
    with pytest.raises(UserError, match=r"photo/10.*2 images are bad.*allows 1 of 15"):
        list(load(split, views, backend, quarantine=strict))


@every_backend
def test_a_view_on_the_undamaged_part_of_an_image_is_shown(
    backend: str, pack: Pack, tmp_path: Path
) -> None:
    """Whether an image is left out depends on its own view alone, not on its neighbours'."""
    samples = list(photo_samples([(400, 300)] * 4))
    for number in (1, 2):
        data = samples[number].data
        samples[number] = replace(samples[number], data=data[: len(data) // 2])
    split = pack(samples).split("train")
    views = views_of("area", split, size=64)
    views.boxes[:] = views.support[:] = (0, 0, 60, 60)
    views.boxes[2] = views.support[2] = (300, 0, 60, 60)  # below the cut
    quarantine = Quarantine(tmp_path / "quarantined.txt", split, 1.0, lambda text: None)
    (batch,) = load(split, [views], backend, quarantine=quarantine)
    # DALI stops decoding at the end of the support; PIL decodes whole images or none.
    assert batch.indices.tolist() == ([0, 1, 3] if backend == "dali" else [0, 3])


@pytest.mark.parametrize("leaves_out", [False, True])
def test_an_image_that_only_pil_reads_is_found_by_asking_dali(
    leaves_out: bool, pack: Pack, tmp_path: Path
) -> None:
    """A lossless WebP with metadata, as it was packed before such were made PNGs."""
    samples = list(photo_samples([(90, 120)] * 6))
    photo = Image.open(io.BytesIO(samples[3].data))
    webp = encoded_as("WEBP", photo, lossless=True, xmp=b"<x:xmpmeta/>", exif=Image.Exif())
    assert b"VP8L" in webp
    samples[3] = replace(samples[3], data=webp)
    split = pack(samples).split("train")
    quarantine = Quarantine(tmp_path / "quarantined.txt", split, 0.5, lambda text: None)
    plan = evaluation_plan(CENTER, 224, split, 0, 1, 2)
    loader = load(split, plan, quarantine=quarantine if leaves_out else None)
    if leaves_out:
        assert [batch.indices.tolist() for batch in loader] == [[0, 1], [2], [4, 5]]
    else:
        with pytest.raises(UserError, match=r"photo/03: the image can't be decoded here, though"):
            list(loader)
    loader.close()


@every_backend
def test_images_that_were_exchanged_are_named_and_can_be_left_out(
    backend: str, pack: Pack, tmp_path: Path
) -> None:
    """Both decode, to the sizes in the index: only their digests tell."""
    samples = list(photo_samples([(90, 120)] * 9))
    size = max(len(samples[number].data) for number in (4, 7))
    for number in (4, 7):  # decoders take zeros after the end
        data = samples[number].data.ljust(size, b"\0")
        samples[number] = replace(samples[number], data=data)
    store = pack(samples)
    split = store.split("train")
    views = list(evaluation_plan(CENTER, 224, split, 0, 1, 3))
    shard = store.folder / "train-000000.tar"
    content, marker = shard.read_bytes(), b"?" * size
    four, seven = (samples[number].data for number in (4, 7))
    content = content.replace(four, marker).replace(seven, four).replace(marker, seven)
    shard.write_bytes(content)

    loader = load(split, views, backend, prefetch=3)
    with pytest.raises(UserError, match=r"tar: photo/04: its bytes have changed since it was pack"):
        list(loader)
    loader.close()
    quarantine = Quarantine(tmp_path / "quarantined.txt", split, 0.3, lambda text: None)
    loader = load(split, views, backend, prefetch=3, quarantine=quarantine)
    assert [batch.indices.tolist() for batch in loader] == [[0, 1, 2], [3, 5], [6, 8]]
    loader.close()


def test_an_image_of_another_size_than_indexed_is_named(pack: Pack) -> None:
    samples = list(photo_samples([(90, 120)] * 4))
    samples[2] = replace(samples[2], height=120, width=90)
    split = pack(samples).split("train")
    loader = load(split, evaluation_plan(WholeImage(), 224, split, 0, 1, 2))
    with pytest.raises(UserError, match="photo/02: the image is 120×90, but its index says 90×120"):
        list(loader)


def test_other_errors_keep_their_name(photos: Split) -> None:
    def broken() -> Iterator[Views]:
        yield views_of("center", photos)
        raise KeyError("a defect")

    for backend in BACKENDS:
        with pytest.raises(KeyError, match="a defect"):
            list(load(photos, broken(), backend))


@pytest.mark.gpu
@every_augmentation
def test_gpu_shows_what_the_reference_shows(name: str, photos: Split) -> None:
    """Wider than on the CPU: nvJPEG has its own inverse DCT and chroma upsampling."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    views, fill = views_of(name, photos), AUGMENTATIONS[name].appearance.fill
    images = images_of(photos, views, "dali", fill=fill, device=torch.device("cuda", 0))
    assert images.device == torch.device("cuda", 0)
    reference = images_of(photos, views, "reference", fill=fill)
    assert difference(images.cpu(), reference) < 2.0


@pytest.mark.gpu
def test_gpu_batches_come_in_order(photos: Split) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    device = torch.device("cuda", 0)
    plan = evaluation_plan(CENTER, 224, photos, 0, 1, 5)
    loader = load(photos, plan, device=device)
    batches = list(loader)
    assert [image for b in batches for image in b.indices.tolist()] == list(range(len(photos)))
    assert all(batch.labels.device == device for batch in batches)
    cpu = images_of(photos, views_of("center", photos), "dali")
    assert difference(torch.cat([batch.images for batch in batches]).cpu(), cpu) < 2.0
