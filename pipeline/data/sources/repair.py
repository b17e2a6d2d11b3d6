"""Packing damaged shards again from the source of the data set."""

import shutil
from pathlib import Path

from pipeline.data.sources.folder import list_folder
from pipeline.data.sources.ilsvrc2012 import ILSVRC2012, Edition, Sources, Subset, list_ilsvrc2012
from pipeline.data.sources.parquet import list_parquet
from pipeline.data.sources.tiny_imagenet import list_tiny_imagenet
from pipeline.data.sources.webdataset import list_webdataset
from pipeline.data.store.image_check import Shrinking
from pipeline.data.store.manifest import Manifest, ManifestFile, damaged, read_manifest, sha256
from pipeline.data.store.packing import ProgressCallback
from pipeline.data.store.parallel_packing import (
    UNFINISHED,
    Listing,
    pack_shards,
    plan_all_shards,
)
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import sync


def repair(
    folder: Path, num_workers: int, progress: ProgressCallback, edition: Edition = ILSVRC2012
) -> list[str]:
    """Pack the damaged and missing shards of `folder` again; return their names.

    Only the images of these shards are read from the source. Raises `UserError` for a damaged
    index, for damage in a data set that was computed, and for a source that has changed since.
    """
    manifest = read_manifest(folder)
    bad: dict[str, ManifestFile] = {}
    for split in manifest.splits.values():
        if not _is_intact(folder, split.index):
            raise damaged(folder / split.index.name, "the index is damaged")
        bad |= {shard.name: shard for shard in split.shards if not _is_intact(folder, shard)}
    if not bad:
        return []
    if not manifest.places:
        raise damaged(folder / min(bad), "was computed, from no files to go back to")
    source = manifest.source
    listing = _list_source(manifest, edition)
    shrinking = Shrinking(**source["shrinking"]) if source.get("shrinking") else None
    scratch = folder / ".repair"
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / UNFINISHED).mkdir(parents=True)
    try:
        plans = [
            plan
            for plan in plan_all_shards(scratch, listing.splits, shrinking, source["part_bytes"])
            if plan.shard.name in bad
        ]
        if missing := bad.keys() - {plan.shard.name for plan in plans}:
            problem = "can't be repaired, the source has nothing more for it"
            raise damaged(folder / min(missing), problem)
        pack_shards(plans, num_workers, progress)
        for plan in plans:
            if sha256(plan.shard) != bad[plan.shard.name].sha256:
                problem = "can't be repaired, the source now gives other bytes"
                raise damaged(folder / plan.shard.name, problem)
        for plan in plans:
            plan.shard.replace(folder / plan.shard.name)
        sync(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return sorted(bad)


def _list_source(manifest: Manifest, edition: Edition) -> Listing:
    source = manifest.source
    places = {name: Path(place) for name, place in manifest.places.items()}
    match source["kind"]:
        case "folder":
            return list_folder(
                places["folder"],
                source.get("val_share", 0.1),
                only_val=source.get("only_val", False),
                labels=places.get("labels"),
                follow_links=source.get("follow_links", False),
            )
        case "webdataset":
            split, label_key = source.get("split"), source.get("label_key")
            return list_webdataset(places["folder"], split=split, label_key=label_key)
        case "parquet":
            keys = {key: source[key] for key in ("image_key", "label_key", "split")}
            return list_parquet(places["source"], **keys)
        case "tiny-imagenet":
            return list_tiny_imagenet(places["folder"])
        case "ilsvrc2012":
            subset = Subset(source["classes"], source["images_per_class"])
            links = source.get("follow_links", False)
            return list_ilsvrc2012(Sources(**places), subset, edition, links)
        case kind:
            raise UserError(f"{manifest.name}: its source, '{kind}', can't be read again")


def _is_intact(folder: Path, file: ManifestFile) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.size and sha256(path) == file.sha256
