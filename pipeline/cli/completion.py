"""What a shell completes: names of recipes, clusters, runs and networks.

Without a word where something is wrong: a shell has no place for an error.
"""

from collections.abc import Iterable

from typer import Context

from pipeline.config.first_sentence import first_sentence
from pipeline.runtime.errors import UserError


def complete_recipe(incomplete: str) -> list[tuple[str, str]]:
    return _config_names("recipes", incomplete)


def complete_cluster(incomplete: str) -> list[tuple[str, str]]:
    return _config_names("clusters", incomplete)


def complete_run(context: Context, incomplete: str) -> list[str]:
    """Return the runs in the folder of the cluster that is named so far."""
    from pipeline.config.cluster import load_cluster

    try:
        folder = load_cluster(context.params.get("on") or "laptop").runs_dir
        runs = sorted(path.parent.name for path in folder.glob("*/recipe.yaml"))
    except (UserError, OSError):
        return []
    return _beginning(incomplete, runs)


def complete_network(incomplete: str) -> list[str]:
    from pipeline.models.zoo import NETWORKS

    return _beginning(incomplete, NETWORKS)


def complete_published(incomplete: str) -> list[str]:
    from pipeline.results.published import published

    names = {result.network for result in published() if " " not in result.network}
    return _beginning(incomplete, sorted(names))


def _config_names(folder: str, incomplete: str) -> list[tuple[str, str]]:
    from pipeline.config.yaml import config_files

    files = config_files(folder)
    return [(file.stem, first_sentence(file)) for file in files if file.stem.startswith(incomplete)]


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
