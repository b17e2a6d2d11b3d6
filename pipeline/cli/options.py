"""The options by which commands name a training: a recipe, a cluster, and overrides of both."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.completion import complete_cluster, complete_recipe, complete_run
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from pipeline.config.cluster import Cluster
    from pipeline.config.recipe import Recipe

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="What to train: a name in configs/recipes, or a YAML file.",
        autocompletion=complete_recipe,
    ),
]
ClusterName = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="CLUSTER",
        help="Where: a name in configs/clusters, or a YAML file.",
        autocompletion=complete_cluster,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change one value of the recipe (epochs=3), or of the cluster "
        "(cluster.workers.count=1). Can be given again.",
    ),
]
ClusterAssignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="cluster.SECTION.KEY=VALUE",
        help="Change one value of the cluster. Can be given again.",
    ),
]
StartFrom = Annotated[
    str | None,
    typer.Option(
        metavar="RUN|[FORMAT:]FILE",
        help="A trained run, or a file of weights, to start from; of elsewhere, as torchvision:"
        "resnet50.pth. A deeper VGG takes what its paper takes from vgg_a.",
        autocompletion=complete_run,
        show_default="the published random start",
    ),
]
NewHead = Annotated[
    bool,
    typer.Option(
        "--new-head",
        help="With --start-from: train other classes, the layers that give logits from their "
        "random start.",
    ),
]


def load_training(
    recipe: str, cluster: str, assignments: list[str] | None
) -> tuple["Recipe", "Cluster"]:
    from pipeline.config.recipe import load_recipe

    return load_recipe(recipe, of_recipe(assignments)), load_cluster(
        cluster, of_cluster(assignments)
    )


def load_cluster(cluster: str, assignments: list[str] | None = None) -> "Cluster":
    """Load a cluster; its module is imported only then, so that `--help` answers at once."""
    from pipeline.config import cluster as clusters

    return clusters.load_cluster(cluster, assignments)


def load_only_cluster(cluster: str, assignments: list[str] | None) -> "Cluster":
    """Load the cluster for a command that takes no recipe; `UserError` for what isn't its own."""
    if others := of_recipe(assignments):
        raise UserError(f"--set {others[0]}: no recipe is changed here; set cluster.* only")
    return load_cluster(cluster, of_cluster(assignments))


def of_recipe(assignments: list[str] | None) -> list[str]:
    return [text for text in assignments or [] if not text.startswith("cluster.")]


def of_cluster(assignments: list[str] | None) -> list[str]:
    prefix = "cluster."
    return [text.removeprefix(prefix) for text in assignments or [] if text.startswith(prefix)]
