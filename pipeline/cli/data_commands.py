"""The commands that make, look at, copy and export data sets: parse, call one function each."""

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import Console, progress, say, transfer, transfers
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from pipeline.data.sources.ilsvrc2012 import Sources
    from pipeline.data.sources.prepare import Prepared
    from pipeline.data.store.parallel_packing import Listing
    from pipeline.data.store.store import Store

_MOST_NAMED = 5  # images left out, of those that the index lists

prepare = typer.Typer(
    help="Make a packed data set of what you have: shuffled access, an index, digests.",
    no_args_is_help=True,
)
export = typer.Typer(
    help="Write a packed data set as files that others read.", no_args_is_help=True
)

To = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where the data set goes.", show_default="data/NAME"),
]
StorePlace = Annotated[str, typer.Argument(metavar="DIR", help="A packed data set, or its URL.")]
ExportTo = Annotated[Path, typer.Option(metavar="DIR", help="A folder that does not exist yet.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="How many at a time; 0: none but this.", show_default="the CPUs"),
]
FollowLinks = Annotated[
    bool,
    typer.Option("--follow-links", help="Read what symbolic links lead to, wherever that is."),
]
OnBad = Annotated[
    str,
    typer.Option(
        metavar="stop|quarantine",
        help="An image that can't be read stops all, or is left out and listed in the index.",
    ),
]
ListBad = Annotated[
    bool, typer.Option("--list-bad", help="List all images that can't be read, and pack nothing.")
]
SplitOfAll = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of all files.", show_default="told by the files' names"),
]
NumClasses = Annotated[
    int | None, typer.Option(min=2, help="Only so many classes, the first by WNID.")
]
ImagesPerClass = Annotated[
    int | None, typer.Option(min=1, help="Only so many images of each class and split.")
]
ShorterSide = Annotated[
    int | None, typer.Option(min=32, help="Make larger images smaller; changes results.")
]
Quality = Annotated[int, typer.Option(min=1, max=95, help="JPEG quality of those.")]


@prepare.command()
def folder(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="DIR/CLASS/*.jpg, or DIR/train/CLASS and DIR/val/CLASS."
        ),
    ],
    to: To = None,
    val_share: Annotated[
        float,
        typer.Option(help="Share of each class held out as val, where DIR has no val of its own."),
    ] = 0.1,
    only_val: Annotated[
        bool, typer.Option("--only-val", help="All are val: to evaluate on, not to train.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Labels of a flat DIR, with --only-val: 'IMAGE LABEL' lines, Kaggle's CSV, JSON.",
        ),
    ] = None,
    follow_links: FollowLinks = False,
    on_bad: OnBad = "stop",
    list_bad: ListBad = False,
    workers: Workers = None,
) -> None:
    """Your own images, one folder a class; or a set to test on.

    Stopped at any moment, the same command goes on.
    """
    from pipeline.data.sources.folder import list_folder
    from pipeline.data.sources.prepare import prepare_folder

    name = (to or source).absolute().name
    target = to or Path("data") / name
    if list_bad:
        _list_bad(
            lambda: list_folder(
                source, val_share, only_val=only_val, labels=labels, follow_links=follow_links
            ),
            target,
            workers,
        )
        return
    with transfer("packing") as show:
        prepared = prepare_folder(
            source,
            target,
            name,
            val_share=val_share,
            only_val=only_val,
            labels=labels,
            follow_links=follow_links,
            on_bad=on_bad,
            num_workers=_workers(workers),
            progress=show,
        )
    _say_prepared(prepared)


@prepare.command()
def kaggle(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|ZIP", help="With ILSVRC/, LOC_synset_mapping.txt, LOC_val_solution.csv."
        ),
    ],
    to: To = None,
    only_val: Annotated[
        bool, typer.Option("--only-val", help="Leave out train, to test networks from elsewhere.")
    ] = False,
    test: Annotated[
        bool, typer.Option("--test", help="Pack the test images, whose labels are secret, too.")
    ] = False,
    classes: NumClasses = None,
    images_per_class: ImagesPerClass = None,
    shorter_side: ShorterSide = None,
    quality: Quality = 95,
    follow_links: FollowLinks = False,
    on_bad: OnBad = "quarantine",
    list_bad: ListBad = False,
    workers: Workers = None,
) -> None:
    """ILSVRC as Kaggle gives it: a folder, or the zip itself.

    Stopped at any moment, the same command goes on.
    """
    from pipeline.data.sources.ilsvrc2012 import kaggle_sources

    _ilsvrc(
        kaggle_sources(source.absolute(), with_train=not only_val, with_test=test),
        to or Path("data/ilsvrc-kaggle"),
        (classes, images_per_class),
        (shorter_side, quality),
        checksum=False,
        follow_links=follow_links,
        on_bad=on_bad,
        list_bad=list_bad,
        workers=workers,
    )


@prepare.command()
def ilsvrc2012(
    val: Annotated[Path, typer.Option(metavar="TAR", help="ILSVRC2012_img_val.tar.")],
    devkit: Annotated[
        Path,
        typer.Option(metavar="TGZ", help="ILSVRC2012_devkit_t12.tar.gz, or Kaggle's folder."),
    ],
    train: Annotated[
        Path | None,
        typer.Option(
            metavar="TAR",
            help="ILSVRC2012_img_train.tar.",
            show_default="none: only networks from elsewhere are tested",
        ),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(metavar="TAR", help="ILSVRC2012_img_test_v10102019.tar.")
    ] = None,
    to: To = None,
    classes: NumClasses = None,
    images_per_class: ImagesPerClass = None,
    shorter_side: ShorterSide = None,
    quality: Quality = 95,
    checksum: Annotated[
        bool,
        typer.Option(
            help="Compare the archives with their official MD5 sums first; only then the data set "
            "is called ilsvrc2012, as published results call it."
        ),
    ] = True,
    follow_links: FollowLinks = False,
    on_bad: OnBad = "quarantine",
    list_bad: ListBad = False,
    workers: Workers = None,
) -> None:
    """ILSVRC-2012's official archives, or what they unpack to.

    Stopped at any moment, the same command goes on.
    """
    from pipeline.data.sources.ilsvrc2012 import Sources

    _ilsvrc(
        Sources(
            train and train.absolute(),
            val.absolute(),
            devkit.absolute(),
            test and test.absolute(),
        ),
        to or Path("data/ilsvrc2012"),
        (classes, images_per_class),
        (shorter_side, quality),
        checksum=checksum,
        follow_links=follow_links,
        on_bad=on_bad,
        list_bad=list_bad,
        workers=workers,
    )


def _ilsvrc(
    sources: "Sources",
    to: Path,
    chosen: tuple[int | None, int | None],
    shrinking: tuple[int | None, int],
    *,
    checksum: bool,
    follow_links: bool,
    on_bad: str,
    list_bad: bool,
    workers: int | None,
) -> None:
    from pipeline.data.sources.ilsvrc2012 import Subset, list_ilsvrc2012
    from pipeline.data.sources.prepare import prepare_ilsvrc2012
    from pipeline.data.store.image_check import Shrinking

    subset, (side, quality) = Subset(*chosen), shrinking
    if list_bad:
        _list_bad(lambda: list_ilsvrc2012(sources, subset, follow_links=follow_links), to, workers)
        return
    with transfers("listing", "comparing MD5 sums", "packing") as (_, compare, pack):
        prepared = prepare_ilsvrc2012(
            sources,
            to,
            subset=subset,
            shrinking=Shrinking(side, quality) if side else None,
            follow_links=follow_links,
            checking=compare if checksum else None,
            on_bad=on_bad,
            num_workers=_workers(workers),
            progress=pack,
        )
    _say_prepared(prepared)


@prepare.command()
def parquet(
    source: Annotated[
        Path, typer.Argument(metavar="DIR|FILE", help="With train-00000-of-00010.parquet …")
    ],
    to: To = None,
    image_key: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Of {bytes, path}, or of bytes.", show_default="image"),
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Of the class's number.", show_default="label"),
    ] = None,
    split: SplitOfAll = None,
    on_bad: OnBad = "stop",
    list_bad: ListBad = False,
    workers: Workers = None,
) -> None:
    """Hugging Face's Parquet files, as of imagenet-1k.

    Stopped at any moment, the same command goes on.
    """
    from pipeline.data.sources.parquet import list_parquet

    _pack(
        lambda: list_parquet(source, image_key=image_key, label_key=label_key, split=split),
        (to or source).absolute().name,
        to,
        on_bad,
        list_bad,
        workers,
    )


@prepare.command()
def webdataset(
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="With train-000000.tar … or names like it.")
    ],
    to: To = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Labels in KEY.txt: txt; in a field of KEY.json: its name.",
            show_default="cls",
        ),
    ] = None,
    split: SplitOfAll = None,
    on_bad: OnBad = "stop",
    list_bad: ListBad = False,
    workers: Workers = None,
) -> None:
    """WebDataset's shards: tars of images and labels.

    Stopped at any moment, the same command goes on.
    """
    from pipeline.data.sources.webdataset import list_webdataset

    _pack(
        lambda: list_webdataset(source.absolute(), split=split, label_key=label_key),
        (to or source).absolute().name,
        to,
        on_bad,
        list_bad,
        workers,
    )


@prepare.command("tiny-imagenet")
def tiny_imagenet(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="tiny-imagenet-200.")],
    to: To = None,
    on_bad: OnBad = "stop",
    list_bad: ListBad = False,
    workers: Workers = None,
) -> None:
    """Tiny ImageNet as it is handed out, unpacked.

    Stopped at any moment, the same command goes on.
    """
    from pipeline.data.sources.tiny_imagenet import list_tiny_imagenet

    _pack(
        lambda: list_tiny_imagenet(source),
        (to or source).absolute().name,
        to,
        on_bad,
        list_bad,
        workers,
    )


@prepare.command()
def mnist(
    images: Annotated[Path, typer.Option(metavar="FILE", help="Training images, IDX or IDX.gz.")],
    labels: Annotated[Path, typer.Option(metavar="FILE", help="Their labels.")],
    test_images: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Test images; without them a share is held out as val."),
    ] = None,
    test_labels: Annotated[Path | None, typer.Option(metavar="FILE", help="Their labels.")] = None,
    to: To = None,
    val_share: Annotated[
        float, typer.Option(help="Share of each class held out as val, without test files.")
    ] = 0.1,
) -> None:
    """MNIST's IDX files: 28×28 digits, centred in 32×32."""
    from pipeline.data.sources.prepare import prepare_mnist

    target = to or Path("data/mnist")
    with progress("packing") as show:
        prepared = prepare_mnist(images, labels, test_images, test_labels, target, val_share, show)
    _say_prepared(prepared)


@prepare.command()
def digits(to: To = None) -> None:
    """The 1,797 handwritten digits that scikit-learn ships: 898 as train, 899 as val."""
    from pipeline.data.sources.prepare import prepare_digits

    with progress("packing") as show:
        prepared = prepare_digits(to or Path("data/digits"), show)
    _say_prepared(prepared)


@prepare.command()
def mnist1d(to: To = None) -> None:
    """MNIST-1D's signals of 40 values, drawn here: 4,000 as train, 1,000 as test."""
    from pipeline.data.sources.prepare import prepare_mnist1d

    with progress("packing") as show:
        prepared = prepare_mnist1d(to or Path("data/mnist1d"), show)
    _say_prepared(prepared)


@export.command("folder")
def export_folder(source: StorePlace, to: ExportTo) -> None:
    """Images in SPLIT/CLASS/NAME.jpg, as torchvision's ImageFolder and ImageNet read them."""
    from pipeline.config.cluster import as_folder
    from pipeline.data.store.export import export_folder
    from pipeline.data.store.store import Store

    store = Store.open(as_folder(source))
    with progress("writing") as show:
        export_folder(store, to.absolute(), show)
    say(Console(), f"{_num_images(store):,} images in {to}/SPLIT/CLASS")


@export.command("webdataset")
def export_webdataset(source: StorePlace, to: ExportTo) -> None:
    """The shards alone, for any WebDataset reader."""
    from pipeline.config.cluster import as_folder
    from pipeline.data.store.export import export_webdataset
    from pipeline.data.store.store import Store

    store = Store.open(as_folder(source))
    with transfer("writing") as show:
        export_webdataset(store, to.absolute(), show)
    say(Console(), f"{_num_images(store):,} images in the shards of {to}")


def _num_images(store: "Store") -> int:
    return sum(len(store.split(name)) for name in store.split_names)


def doctor(
    folder: StorePlace,
    sample: Annotated[
        int, typer.Option(min=0, help="How many images of each split to decode.")
    ] = 1000,
    all_: Annotated[bool, typer.Option("--all", help="Decode every image.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="First pack damaged shards again from the archives.")
    ] = False,
) -> None:
    """Look at a data set's health: every byte, a sample of images. Exit code 1 if any is wrong."""
    from pipeline.config.cluster import as_folder
    from pipeline.data.sources.repair import repair as repair_store
    from pipeline.data.sources.verify import verify
    from pipeline.data.store.store import Store
    from pipeline.reports.verify_tables import verify_notes, verify_table

    place, console = as_folder(folder), Console()
    if repair:
        if not isinstance(place, Path):
            raise UserError(
                f"{folder}: only a folder on this machine can be repaired; repair the one that it "
                "was copied from"
            )
        with transfer("repairing") as show:
            repaired = repair_store(place, _workers(None), show)
        say(console, f"repaired: {', '.join(repaired) or 'nothing was damaged'}")
    store = Store.open(place)
    with transfer("reading") as show:
        health = verify(store, None if all_ else sample, show)
    console.print(verify_table(health))
    for note in verify_notes(health):
        say(console, note)
    if not health.is_intact:
        raise typer.Exit(1)


def stage(
    source: StorePlace,
    to: Annotated[Path, typer.Option(metavar="DIR", help="A folder on this machine's own disk.")],
) -> None:
    """Copy a data set to this machine's own disk, checked; again: goes on where it stopped."""
    from pipeline.config.cluster import as_folder
    from pipeline.data.store.stage import stage

    with transfer("copying") as show:
        store = stage(as_folder(source), to.absolute(), show)
    say(Console(), f"{store.name} is in {store.folder}; train with --set cluster.stage_to={to}")


def _pack(
    listing: Callable[[], "Listing"],
    name: str,
    to: Path | None,
    on_bad: str,
    list_bad: bool,
    workers: int | None,
) -> None:
    from pipeline.data.sources.prepare import prepare_listing

    target = to or Path("data") / name
    if list_bad:
        _list_bad(listing, target, workers)
        return
    with transfer("packing") as show:
        prepared = prepare_listing(
            listing(), target, name, on_bad=on_bad, num_workers=_workers(workers), progress=show
        )
    _say_prepared(prepared)


def _list_bad(listing: Callable[[], "Listing"], near: Path, workers: int | None) -> None:
    """Print every bad image; exit code 1 if there is any."""
    from pipeline.data.sources.prepare import bad_images

    with transfer("decoding") as show:
        bad = bad_images(listing(), near, _workers(workers), show)
    console = Console()
    for line in bad:
        say(console, line)
    say(console, f"{len(bad):,} bad images; nothing was packed")
    if bad:
        raise typer.Exit(1)


def _workers(count: int | None) -> int:
    return len(os.sched_getaffinity(0)) if count is None else count


def _say_prepared(prepared: "Prepared") -> None:
    from pipeline.data.store.index import read_rows

    store = prepared.store
    for note in prepared.notes:
        say(Console(), f"note: {note}")
    named = (
        f"{name}: {row.key}: {row.status}"
        for name in store.split_names
        if store.split_manifest(name).num_quarantined
        for row in read_rows(store.folder / store.split_manifest(name).index.name)
        if row.status != "ok"
    )
    for line in islice(named, _MOST_NAMED):
        say(Console(), f"left out: {line}")
    images = ", ".join(f"{len(store.split(name)):,} {name}" for name in store.split_names)
    left_out = f", {store.num_quarantined:,} left out" if store.num_quarantined else ""
    subset = ", a subset of ILSVRC-2012" if "subset" in store.source.get("edition", "") else ""
    there = " (was there already)" if prepared.already_there else ""
    say(
        Console(),
        f"{store.name}: {images} {store.contents}{left_out}{subset}, {len(store.classes):,} "
        f"classes in {store.folder}{there}",
    )
