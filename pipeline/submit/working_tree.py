"""Packs the working tree for a job elsewhere: code and configurations, no data, runs or caches."""

import fnmatch
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.cluster import Cluster
from pipeline.runtime.errors import UserError

PROJECT = Path(__file__).parents[2]

_LEFT_OUT = (
    ".*", "__pycache__", "*.egg-info", "build", "data", "runs", "mlruns", "mlartifacts",
    "mlflow.db*",
)  # fmt: skip
# The earliest time of a zip file: the same tree must give the same package.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20


def files_of_tree(tree: Path, cluster: Cluster) -> Iterator[Path]:
    """Yield the files to send, in order, without hidden ones and the cluster's own folders.

    Of a tree that is no clone of the project, but where the package is installed, only the package.
    """
    cache = cluster.cache.folder if cluster.cache else None
    excluded = {Path(cluster.data_dir), cluster.runs_dir, cluster.stage_to, cache}
    for folder, subfolders, names in os.walk(tree if _is_clone(tree) else tree / "pipeline"):
        here = Path(folder)
        # Changed in place, so that os.walk does not enter the others.
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not _is_left_out(here == tree, name) and here / name not in excluded
        )
        for name in sorted(names):
            if not _is_left_out(here == tree, name) and (here / name).is_file():
                yield here / name


def _is_clone(tree: Path) -> bool:
    return (tree / "pyproject.toml").is_file()


def _is_left_out(at_top: bool, name: str) -> bool:
    # `pipeline/data` is code; only at the top are these names data.
    patterns = _LEFT_OUT if at_top else (".*", "__pycache__")
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def pack(tree: Path, cluster: Cluster, target: Path, limit_bytes: float) -> None:
    """Write the tree to the zip file `target`, the same bytes for the same files.

    Raises `UserError` that names the largest file as soon as there are more than `limit_bytes`.
    """
    files = list(files_of_tree(tree, cluster))
    with target.open("wb") as file, zipfile.ZipFile(file, "w") as package:
        for path in files:
            entry = zipfile.ZipInfo(str(path.relative_to(tree)), _NO_TIME)
            entry.external_attr = (path.stat().st_mode & 0o777) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            with package.open(entry, "w", force_zip64=True) as packed, path.open("rb") as source:
                while chunk := source.read(_CHUNK):
                    packed.write(chunk)
                    if file.tell() > limit_bytes:
                        raise _too_large(tree, files, limit_bytes)


def _too_large(tree: Path, files: list[Path], limit_bytes: float) -> UserError:
    largest = max(files, key=lambda path: path.stat().st_size)
    return UserError(
        f"{tree}: more than {limit_bytes / 1e6:g} MB to send, compressed; its largest file is "
        f"{largest.relative_to(tree)} with {largest.stat().st_size / 1e6:,.0f} MB: move it to "
        f"data/ or out of the tree, or raise engine.upload_megabytes"
    )


def within_tree(document: Path, name: str) -> str:
    """Return the name or path of a document for a job that has the tree.

    Raises `UserError` for a document outside of it.
    """
    if not document.is_relative_to(PROJECT):
        mend = (
            f"put it into {PROJECT}/configs"
            if _is_clone(PROJECT)
            else "submit from a clone of the project that has it in configs/"
        )
        raise UserError(f"{document} is not sent: it lies outside of {PROJECT}; {mend}")
    return str(document.relative_to(PROJECT)) if document.suffix == Path(name).suffix else name
