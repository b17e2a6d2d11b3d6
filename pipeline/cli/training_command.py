"""A command that trains, which answers options that other programs have with what mends them."""

from typing import Any

from typer.core import TyperCommand

from pipeline.runtime.errors import UserError

_OF_RECIPE = {
    "epochs": "epochs",
    "seed": "seed",
    "precision": "precision",
    "lr": "optimizer.learning_rate",
    "learning-rate": "optimizer.learning_rate",
    "momentum": "optimizer.momentum",
    "weight-decay": "optimizer.weight_decay",
    "wd": "optimizer.weight_decay",
    "optimizer": "optimizer.kind",
    "batch-size": "batch.global_batch_size",
    "data": "data.name",
    "dataset": "data.name",
    "model": "network.name",
    "network": "network.name",
    "arch": "network.name",
    "workers": "cluster.workers.count",
    "gpus": "cluster.workers.count",
    "device": "cluster.workers.device",
    "data-dir": "cluster.data_dir",
    "runs-dir": "cluster.runs_dir",
    "output": "cluster.runs_dir",
}
_RESUMING = ("resume", "continue", "resume-from", "restart")


class TrainingCommand(TyperCommand):
    """Raises `UserError` with a hint for an option that means a value of the recipe or cluster."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {name for each in self.params for name in (*each.opts, *each.secondary_opts)}
        for place, word in enumerate(args):
            if word == "--":
                break
            option, equals, value = word.partition("=")
            name = option.lstrip("-").replace("_", "-")
            if not option.startswith("--") or option in known:
                continue
            if name in _RESUMING:
                raise UserError(
                    f"there is no {option}: the same command goes on where it stopped; leave it out"
                )
            if key := _OF_RECIPE.get(name):
                value = value if equals else next(iter(args[place + 1 : place + 2]), "VALUE")
                raise UserError(f"there is no {option}; write --set {key}={value}")
        return super().parse_args(ctx, args)
