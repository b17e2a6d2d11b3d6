"""The MLflow run of a training: made before it starts, or once the tracking store is reachable.

The run's folder holds its id, from where the workers' tracker takes it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from pipeline.config.cluster import Cluster
from pipeline.config.recipe import Recipe
from pipeline.config.yaml import digest, flatten
from pipeline.data.store.store import Store
from pipeline.runs.initial_weights import InitialWeights
from pipeline.runs.run_folder import RunFolder, RunRecord
from pipeline.runtime.background import in_background
from pipeline.runtime.errors import UserError
from pipeline.runtime.plain_text import markdown_text
from pipeline.tracking import mlflow_page, mlflow_runs
from pipeline.tracking.environment import environment_tags
from pipeline.tracking.job_runs import job_tags, start_job_run
from pipeline.tracking.measured_runs import images_tag
from pipeline.tracking.run_note import run_note

_SECONDS_BETWEEN_TRIES = 5.0


@dataclass(frozen=True)
class RunRegistration:
    """What is recorded of a training before it starts, in the run's folder and in MLflow."""

    folder: RunFolder
    recipe: Recipe
    cluster: Cluster
    store: Store
    start: InitialWeights | None
    command: str | None = None
    job_name: str | None = None

    def prepare(self) -> None:
        """Write the recipe and the record to the run's folder, without the tracking store."""
        record, start = self.folder.record(), self.start
        self.folder.write_recipe(self.recipe)
        self.folder.write_record(
            RunRecord(
                dataset_digest=self.store.digest,
                tracking_run_id=record.tracking_run_id if record else "",
                start_digest=start.digest if start else "",
                extra_data=start.extra_data(self.store.digest) if start else "none",
                dataset_name=self.store.name,
                classes=self.store.classes,
                recipe_digest=digest(self.recipe.without_expectation()),
                weights_digest=record.weights_digest if record else "",
                tracking_key=(record and record.tracking_key) or uuid4().hex,
                start_weights=start.source.name if start else "",
                new_head=start.new_head if start else False,
                new_layers=start.layers.new if start else (),
            )
        )

    def make(self) -> None:
        """Make the MLflow run, or continue the one that the folder names; record its id.

        Raises `UserError`, within seconds if the store can't be reached.
        """
        uri, record = self.cluster.tracking.uri, self.folder.record()
        assert record is not None
        mlflow_runs.check_reachable(uri)
        run_id = mlflow_runs.start_run(
            uri,
            self.cluster.tracking.experiment,
            run_name=self.folder.name,
            params=self._params(),
            tags={**self._tags(record), **self._job_tags()},
            identity={"run.key": record.tracking_key},
            existing_run_id=record.tracking_run_id,
            command=self.command,
            note=run_note(training_words(self.recipe, self.store.name), (), self.command),
        )
        recipe, store = self.recipe, self.store
        mlflow_page.show_errors(
            uri,
            self.cluster.tracking.experiment,
            recipe.data.test_split,
            recipe.evaluation.name(recipe.input.size),
            recipe.network.num_classes,
        )
        mlflow_runs.log_dataset(uri, run_id, store.name, store.digest, str(store.folder))
        self.folder.update_record(tracking_run_id=run_id)

    def _params(self) -> dict[str, object]:
        return {
            f"{section}.{key}": value
            for section, document in (("recipe", self.recipe), ("cluster", self.cluster))
            for key, value in flatten(document).items()
        }

    def _job_tags(self) -> dict[str, str]:
        if self.job_name is None:
            return {}
        return job_tags(self.job_name, start_job_run(self.cluster, self.job_name))

    def _tags(self, record: RunRecord) -> dict[str, str]:
        recipe, start = self.recipe, self.start
        split, protocol = recipe.data.test_split, recipe.evaluation.name(recipe.input.size)
        return {
            **images_tag(split, protocol, self.store.split_manifest(split).num_images),
            **environment_tags(self.cluster.workers.device),
            **(_start_tags(start) if start else {}),
            "recipe.digest": digest(recipe.without_expectation()),
            "dataset.name": self.store.name,
            "dataset.digest": self.store.digest,
            "dataset.extra": record.extra_data,
            "protocol": protocol,
        }


def training_words(recipe: Recipe, data: str) -> str:
    """Return in a sentence of Markdown what a training is, for the description of its run."""
    return (
        f"`{recipe.network.name}` trained on {markdown_text(data)} for {recipe.epochs} epochs, "
        f"seed {recipe.seed}."
    )


def _start_tags(start: InitialWeights) -> dict[str, str]:
    return {
        "start.from": start.name,
        "start.file": str(start.source.file),
        "start.format": start.source.format or "ilsvrc",
        "start.digest": start.digest,
        "start.new_layers": ", ".join(start.layers.new) or "none",
    }


@contextmanager
def registered_run(registration: RunRegistration, warn: Callable[[str], None]) -> Iterator[None]:
    """Make the MLflow run, before or during the block.

    Unless `tracking.required`, a store that can't be reached is tried again every few seconds.
    """
    tracking = registration.cluster.tracking
    registration.prepare()
    try:
        registration.make()
    except UserError as error:
        if tracking.required:
            raise
        warn(
            f"{error}. The training goes on without it; metrics wait in {registration.folder.path}"
        )
        with in_background("registering", partial(_make_later, registration)):
            yield
    else:
        yield


def _make_later(registration: RunRegistration, is_over: threading.Event) -> None:
    while not is_over.wait(_SECONDS_BETWEEN_TRIES):
        with suppress(UserError):
            registration.make()
            return
