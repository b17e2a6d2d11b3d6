"""The folder of one training: its recipe, records, checkpoints and results.

recipe.yaml           the resolved recipe; its digest names the run
run.json              digests of the data set, the recipe and the final weights, its classes, the
                      MLflow run, the weights that it started from
.lock                 held by the process that trains
checkpoints/          pipeline.training.checkpoint
metrics.jsonl         every metric, also while the tracking server is away
weights.safetensors   the final weights; their presence means that the training is done
predictions/          their predictions for every image (pipeline.evaluation.predictions)
pictures/             drawings of them by `ilsvrc visualize`
comparison.md         the result beside the published ones
quarantined.txt       images that the training left out, where its recipe lets it
errors.log            the workers' traceback, where one failed
stacks-of-worker-N.txt  the stacks of a worker that hung (launch.heartbeat)
save, stop            request a checkpoint, or a stop, after the next step (launch.stop_signal)
"""

import hashlib
import json
import re
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.config.recipe import Recipe, default_run_name, read_recipe
from pipeline.config.yaml import digest, flatten, to_yaml
from pipeline.data.store.manifest import ImageClass
from pipeline.pretrained.weights_name import WeightsFile, parse_weights
from pipeline.runtime.errors import UserError
from pipeline.runtime.names import suggest
from pipeline.runtime.storage import file_digest, file_lock, write_atomically
from pipeline.tracking.metric_log import METRICS_FILE


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder records besides its recipe."""

    dataset_digest: str
    tracking_run_id: str
    start_digest: str = ""  # of the weights it started from
    extra_data: str = (
        "none"  # on which those were trained, see `pipeline.results.published.ResultKey`
    )
    is_recorded: bool = False  # trained, and all results are in the tracking store
    dataset_name: str = ""  # the packed data set's own, whatever its folder is called
    classes: tuple[ImageClass, ...] = ()  # the network's outputs; older records have none
    recipe_digest: str = ""  # without what it expects
    weights_digest: str = ""  # of the file of final weights, SHA-256
    tracking_key: str = ""  # a tag of the MLflow run, by which it is found before its id is known
    start_weights: str = ""  # the file, [FORMAT:]FILE, of `start_digest`
    new_head: bool = False  # whether the head did not start from these
    new_layers: tuple[str, ...] = ()  # those that did not start from these, the head among them


@dataclass(frozen=True)
class RunFolder:
    """Paths and records of one training."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def checkpoint_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.checkpoints.glob("*.pt"))

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def comparison(self) -> Path:
        return self.path / "comparison.md"

    @property
    def metrics(self) -> Path:
        return self.path / METRICS_FILE

    @property
    def errors(self) -> Path:
        return self.path / "errors.log"

    @property
    def quarantined(self) -> Path:
        return self.path / "quarantined.txt"

    @property
    def stop_request(self) -> Path:
        return self.path / "stop"

    @property
    def save_request(self) -> Path:
        return self.path / "save"

    @property
    def is_trained(self) -> bool:
        return self.weights.is_file()

    def results(self) -> list[Path]:
        """Return the files of a trained run that are copied to the tracking store."""
        files = (self.recipe_file, self.weights, self.quarantined)
        return [path for path in files if path.exists()]

    def recipe(self) -> Recipe:
        """Return the recipe; `UserError` if it isn't the one that the run was made with."""
        recipe, record = read_recipe(self.recipe_file), self.record()
        if record and record.recipe_digest not in ("", digest(recipe.without_expectation())):
            raise UserError(
                f"{self.recipe_file}: has changed since the training wrote it; remove it, and "
                f"`ilsvrc train` of the same recipe writes it again"
            )
        return recipe

    def last_day(self) -> str:
        """Return the day of its last metric, as 2026-11-29 (UTC); empty where none is kept."""
        text = self.metrics.read_text(encoding="utf-8") if self.metrics.is_file() else ""
        times = re.findall(r'"time": (\d+)', text)
        return f"{datetime.fromtimestamp(int(times[-1]) / 1000, UTC):%Y-%m-%d}" if times else ""

    def record(self) -> RunRecord | None:
        """Return the record, or None for a run that never started."""
        path = self.path / "run.json"
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            classes = tuple(ImageClass(**each) for each in content.pop("classes", ()))
            new_layers = tuple(content.pop("new_layers", ()))
            return RunRecord(**content, classes=classes, new_layers=new_layers)
        except (ValueError, TypeError, AttributeError):
            raise UserError(
                f"{path}: not a run's record; remove it, and the same `ilsvrc train` goes on from "
                f"the last checkpoint as a new MLflow run"
            ) from None

    def trained_record(self) -> RunRecord:
        """Return the record of a trained run whose final weights are as they were written.

        Raises `UserError` if it isn't trained yet, or the weights are damaged. Reads the weights.
        """
        record = self.record()
        if record is None or not self.is_trained:
            raise UserError(
                f"run '{self.name}' has no final weights yet; `ilsvrc train` goes on training it"
            )
        if record.weights_digest not in ("", file_digest(self.weights)):
            raise UserError(
                f"{self.weights}: its bytes have changed since the training wrote it; remove it, "
                f"and the same `ilsvrc train` writes it again from the last checkpoint"
            )
        return record

    def tracking_run_id(self) -> str:
        """Return the id of the run's MLflow run; empty until one is made."""
        record = self.record()
        return record.tracking_run_id if record else ""

    def write_recipe(self, recipe: Recipe) -> None:
        write_atomically(self.recipe_file, to_yaml(recipe).encode())

    def write_record(self, record: RunRecord) -> None:
        content = json.dumps(asdict(record), indent=2) + "\n"
        write_atomically(self.path / "run.json", content.encode())

    def update_record(self, **changes: object) -> None:
        """Replace some fields of the record; the command and its workers may do so at once."""
        with file_lock(self.path / ".run.json.lock"):
            record = self.record()
            assert record is not None
            self.write_record(replace(record, **changes))  # type: ignore[arg-type]

    def write_weights(self, content: bytes) -> None:
        """Write the final weights, a safetensors file, which marks the run as trained."""
        self.update_record(weights_digest=hashlib.sha256(content).hexdigest())
        write_atomically(self.weights, content)

    def held(self) -> AbstractContextManager[None]:
        """Lock the run, so that no other process trains it."""
        return file_lock(
            self.path / ".lock",
            f"run '{self.name}' is being trained by another process; wait for it, or give this "
            f"training another name with --run",
        )


def name_run(
    runs_dir: Path,
    name: str | None,
    recipe: Recipe,
    recipe_name: str,
    start_digest: str = "",
    *,
    new_head: bool = False,
) -> RunFolder:
    """Return the run's folder, which need not exist yet.

    Without a name the run is called after its recipe, the recipe's digest and that of the weights
    it starts from, and whether with a new head, so that the same training gets the same folder, and
    another one never does. Raises `UserError` when the folder belongs to another recipe or start.
    """
    if name is None:
        name = default_run_name(recipe_name, recipe)
        name += f"-from-{start_digest[:8]}" if start_digest else ""
        name += "-new-head" if new_head else ""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"--run '{name}': use letters, digits, '-', '_' and '.' only")
    folder = RunFolder(runs_dir / name)
    before = folder.record()
    if folder.recipe_file.is_file():
        _refuse_another_recipe(folder, recipe)
    elif before and before.recipe_digest not in ("", digest(recipe.without_expectation())):
        raise UserError(
            f"run '{folder.name}' was made with another recipe, and its {folder.recipe_file.name} "
            f"is gone; give this one another name with --run"
        )
    ours, theirs = (start_digest, new_head), before and (before.start_digest, before.new_head)
    if theirs and theirs != ours:
        raise UserError(
            f"run '{folder.name}' started from {_start_name(*theirs)}, not from "
            f"{_start_name(*ours)}; give this one another name with --run"
        )
    return folder


def _start_name(digest: str, new_head: bool) -> str:
    name = f"weights {digest[:8]}" if digest else "random weights"
    return f"{name} with a new head" if new_head else name


def find_run(runs_dir: Path, name: str) -> RunFolder:
    """Return the run `name` of `runs_dir`, or at the path `name`; `UserError` if there is none."""
    for path in (runs_dir / name, Path(name).absolute()):
        if (path / "recipe.yaml").is_file():
            return RunFolder(path)
    known = sorted(path.parent.name for path in runs_dir.glob("*/recipe.yaml"))
    raise UserError(f"no run '{name}' in {runs_dir}; {suggest(name, known)}")


def find_start(runs_dir: Path, name: str) -> WeightsFile | RunFolder:
    """Return the file [FORMAT:]FILE, or else the run, whose weights a training starts from.

    Raises `UserError` where there is neither, and for a run that isn't trained yet.
    """
    given = parse_weights(name)
    if given.path.is_file():
        return given
    if given.format:
        raise UserError(f"--start-from {name}: no such file")
    run = find_run(runs_dir, name)
    run.trained_record()
    return run


def _refuse_another_recipe(folder: RunFolder, recipe: Recipe) -> None:
    before = flatten(folder.recipe().without_expectation())
    now = flatten(recipe.without_expectation())
    changed = [key for key in now | before if before.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        more = f" and {len(changed) - 1} more keys" if len(changed) > 1 else ""
        raise UserError(
            f"run '{folder.name}' was made with {key}={before.get(key)}, not {now.get(key)}{more}; "
            f"give this one another name with --run"
        )
