"""Put damaged shards right from the source that they were packed from."""

import shutil
from pathlib import Path

from pipeline.data.sources.folder import list_folder
from pipeline.data.sources.ilsvrc2012 import ILSVRC2012, Edition, Sources, Subset, list_ilsvrc2012
from pipeline.data.sources.webdataset import list_webdataset
from pipeline.data.store.image_check import Shrinking
from pipeline.data.store.manifest import Manifest, ManifestFile, again, read_manifest, sha256
from pipeline.data.store.packing import Progress
from pipeline.data.store.parallel_packing import PARTS, Listing, pack_shards, plan_all_shards
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import sync


def repair(
    folder: Path, num_workers: int, progress: Progress, edition: Edition = ILSVRC2012
) -> list[str]:
    """Pack the damaged and missing shards of `folder` again; return their names.

    Only what is damaged is read from the source. Raises `UserError` for a damaged index,
    for damage in a data set that was computed, and for a source that has changed since.
    """
    description = read_manifest(folder)
    damaged: dict[str, ManifestFile] = {}
    for split in description.splits.values():
        if not _is_whole(folder, split.index):
            raise UserError(f"{folder / split.index.name}: the index is damaged; {again(folder)}")
        damaged |= {shard.name: shard for shard in split.shards if not _is_whole(folder, shard)}
    if not damaged:
        return []
    if not description.places:
        raise UserError(f"{folder}: was computed, from no files to go back to; {again(folder)}")
    source = description.source
    listing = _list(description, edition)
    shrinking = Shrinking(**source["shrinking"]) if source.get("shrinking") else None
    scratch = folder / ".repair"
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / PARTS).mkdir(parents=True)
    try:
        parts = [
            part
            for part in plan_all_shards(scratch, listing.splits, shrinking, source["part_bytes"])
            if part.shard.name in damaged
        ]
        if gone := damaged.keys() - {part.shard.name for part in parts}:
            raise UserError(
                f"{folder / min(gone)}: can't be repaired, the source has nothing more for it; "
                f"{again(folder)}"
            )
        pack_shards(parts, num_workers, progress)
        for part in parts:
            if sha256(part.shard) != damaged[part.shard.name].sha256:
                raise UserError(
                    f"{folder / part.shard.name}: can't be repaired, the source now gives other "
                    f"bytes; {again(folder)}"
                )
        for part in parts:
            part.shard.replace(folder / part.shard.name)
        sync(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return sorted(damaged)


def _list(description: Manifest, edition: Edition) -> Listing:
    source = description.source
    places = {name: Path(place) for name, place in description.places.items()}
    if source["kind"] == "folder":
        return list_folder(places["folder"], source["val_share"])
    if source["kind"] == "webdataset":
        return list_webdataset(places["folder"])
    subset = Subset(source["classes"], source["images_per_class"])
    return list_ilsvrc2012(Sources(**places), subset, edition)


def _is_whole(folder: Path, file: ManifestFile) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.size and sha256(path) == file.sha256
