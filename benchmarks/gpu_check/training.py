"""Section A: a GPU trains what a CPU trains, the same bits each time, and resumes."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu_check.loading import endless
from benchmarks.gpu_check.pictures import open_pictures
from benchmarks.gpu_check.sections import Case, Measured, Setting
from pipeline.benchmark.train_steps import Bench, first_batches, initial_train_state
from pipeline.config.cluster import LoadingConfig
from pipeline.config.recipe import Recipe, load_recipe
from pipeline.data.loading.loader import Batch
from pipeline.runtime.determinism import computing_on
from pipeline.runtime.distributed import Worker
from pipeline.training.checkpoint import Retention, load_checkpoint, save_checkpoint
from pipeline.training.grouped_forward import build_forward
from pipeline.training.loop import train_epoch
from pipeline.training.train_state import Progress, TrainState

_NETWORKS = ("alexnet", "googlenet", "resnet50", "densenet121")
_FLOAT32 = ("precision=float32", "batch={global_batch_size: 8, micro_batch_size: 4}")
_NUM_STEPS = 4

# Of the loss, and of a step's change of the weights. Other kernels on a CPU, which round otherwise,
# gave 1.4e-7 and 2.7e-4 at most.
_LOSS_TOLERANCE = 1e-5
_CHANGE_TOLERANCE = 5e-3

_CPU = torch.device("cpu")
_ROOT = Path(__file__).parents[2]


def training_cases(setting: Setting) -> Iterator[Case]:
    """Compare steps with a CPU's, with those by graphs, with themselves, and with resumed ones."""
    names = ["smoke"] if setting.small else list(_NETWORKS)
    benches = {name: _bench(setting, endless(load_recipe(name, list(_FLOAT32)))) for name in names}
    with computing_on(setting.device, deterministic=True), _float32():
        for name, bench in benches.items():
            yield Case(f"{name} as on a CPU", partial(_against_cpu, bench))
        for name, bench in benches.items():
            if setting.on_gpu:
                yield Case(f"{name} by graphs as eagerly", partial(_against_eager, bench))
        for name, bench in benches.items():
            yield Case(f"{name} again", partial(_again, bench))
            yield Case(f"{name} resumed", partial(_resumed, bench, setting.folder / "checkpoints"))


def marked_cases(setting: Setting) -> Iterator[Case]:
    """Run the project's own tests that need a GPU."""
    if setting.on_gpu:
        yield Case("tests marked gpu", _gpu_tests)


def _against_cpu(bench: Bench) -> Measured:
    """One step from the same weights: how far the weights and the loss differ."""
    batches = _batches(bench)[:1]
    on_cpu = replace(bench, device=_CPU, channels_last=False)
    return _apart(bench, _train(bench, batches), _train(on_cpu, batches))


def _against_eager(bench: Bench) -> Measured:
    """The same after two steps by an engine that writes to the same memory in each."""
    batches = _batches(bench)[:2]
    by_graphs = replace(bench, engine="graphs")
    return _apart(bench, _train(by_graphs, batches), _train(bench, batches))


def _again(bench: Bench) -> Measured:
    """Two trainings give the same bits."""
    batches = _batches(bench)
    first, second = (_train(bench, batches).weights for _ in range(2))
    return _same(first, second)


def _resumed(bench: Bench, folder: Path) -> Measured:
    """A training that is saved in its middle and resumed gives the bits of one that is not."""
    batches, half = _batches(bench), _NUM_STEPS // 2
    whole = _train(bench, batches).weights
    state = initial_train_state(bench)
    _take(bench, state, batches[:half], Progress())
    path = save_checkpoint(folder, state.to_checkpoint(Progress(0, half)), Retention(1))
    resumed = initial_train_state(bench)
    progress = resumed.load(load_checkpoint(path, bench.device))
    path.unlink()
    _take(bench, resumed, batches[half:], progress)
    return _same(whole, resumed.model.state_dict())


@dataclass(frozen=True)
class _Trained:
    """A network's state after some steps, and the loss an image of the last."""

    weights: dict[str, Tensor]
    loss: float


def _train(bench: Bench, batches: Sequence[Batch]) -> _Trained:
    """Take a step on each of `batches` from the first weights."""
    state = initial_train_state(bench)
    loss = _take(bench, state, batches, Progress())
    return _Trained(state.model.state_dict(), loss)


def _take(bench: Bench, state: TrainState, batches: Sequence[Batch], progress: Progress) -> float:
    """Take a step on each of `batches`; return the last one's loss an image."""
    sampler, worker = bench.sampler, Worker(0, 1, bench.device)
    forward = build_forward(bench.recipe, state.model, sampler, worker, bench.engine)
    here = (_moved(batch, bench.device) for batch in batches)
    steps = train_epoch(bench.recipe, forward, state.optimizer, here, sampler, worker, progress)
    results = list(islice(steps, len(batches)))
    return float(results[-1].sums.loss) / len(batches[-1].labels)


def _apart(bench: Bench, ours: _Trained, theirs: _Trained) -> Measured:
    before = initial_train_state(replace(bench, device=_CPU)).model.state_dict()
    our_end, their_end = _vector(ours.weights, before), _vector(theirs.weights, before)
    loss = abs(ours.loss - theirs.loss) / theirs.loss
    change = float((our_end - their_end).norm() / (their_end - _vector(before, before)).norm())
    holds = loss < _LOSS_TOLERANCE and change < _CHANGE_TOLERANCE
    return Measured({"loss": theirs.loss, "loss apart": loss, "change apart": change}, holds)


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> Measured:
    others = [name for name, value in first.items() if not torch.equal(value, second[name])]
    return Measured({"tensors that differ": len(others), "of": len(first)}, holds=not others)


def _bench(setting: Setting, recipe: Recipe) -> Bench:
    pictures = open_pictures(setting.folder / "pictures")
    loading = LoadingConfig(backend="reference")
    return Bench(recipe, pictures, loading, channels_last=True, device=setting.device)


def _batches(bench: Bench) -> list[Batch]:
    """Return the batches of the first steps, on the CPU."""
    return first_batches(replace(bench, device=_CPU), _NUM_STEPS)


def _moved(batch: Batch, device: torch.device) -> Batch:
    return replace(
        batch,
        images=batch.images.to(device),
        labels=batch.labels.to(device),
        keys=batch.keys.to(device),
    )


def _vector(state: dict[str, Tensor], like: dict[str, Tensor]) -> Tensor:
    """Return all weights as one vector, float64 on the CPU; `like` says in which order."""
    values = (state[name].cpu().double().flatten() for name in like if "num_batches" not in name)
    return torch.cat(list(values))


@contextmanager
def _float32() -> Iterator[None]:
    """Compute convolutions and products in float32, not in TensorFloat-32."""
    conv, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = conv.allow_tf32, matmul.allow_tf32
    conv.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        conv.allow_tf32, matmul.allow_tf32 = before


def _gpu_tests() -> Measured:
    missing = [name for name in ("pytest", "pytest_timeout") if find_spec(name) is None]
    if missing:
        return Measured({"not run": f"no {' nor '.join(missing)} here"})
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]
    return Measured({"pytest": last}, holds=done.returncode == 0)
