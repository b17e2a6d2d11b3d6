"""The script that Slurm runs: Ray on the nodes, the training on Ray, and a requeue when stopped."""

import math
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.config.cluster import Cluster, as_folder
from pipeline.config.engine import Slurm
from pipeline.submit.job_engine import SubmittedTraining

# Signals reach only the script (`B:`); the training looks for the run's `stop` file. The script
# writes it again and again until the end, since a training that starts removes an earlier one's.
_SCRIPT = """\
#!/bin/bash
# {submitted by}
{options}

set -euo pipefail
{setup}
run={run}
stop={runs_dir}/$run/stop
requeue=no
stopping=

request_stop() {
    requeue=$1
    [ -z "$stopping" ] || return 0
    mkdir -p "${stop%/*}"
    while touch "$stop"; do sleep 5; done &
    stopping=$!
}
trap '[ -z "$stopping" ] || { kill "$stopping"; rm -f "$stop"; }' EXIT
trap 'request_stop yes' USR1 TERM # the time limit, or a preemption
trap 'request_stop no' USR2       # ilsvrc jobs stop

# A token of this job's own: no other user of these machines can join its Ray.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 --wait=60 \\
{container}    {python} -m {module} \\
    {arguments} --run "$run" &
step=$!
while true; do
    status=0
    wait "$step" || status=$?
    kill -0 "$step" 2>/dev/null || break # else a signal ended only the `wait`
done

if [ "$requeue" = yes ] && [ "$status" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def render_script(trainings: list[SubmittedTraining], engine: Slurm, command: str) -> str:
    """Return the script for `trainings`: seeds of a recipe, or those of a job.

    With an `index` they are an array of jobs, which has the same numbers.
    """
    first = trainings[0]
    run = shlex.quote(first.run)
    arguments = shlex.join(replace(first, index=None).arguments()[:-2])
    if first.index is not None:
        runs = " ".join(f"[{one.index}]={shlex.quote(one.run)}" for one in trainings)
        run = f"({runs})\nrun=${{run[$SLURM_ARRAY_TASK_ID]}}"
        arguments += "" if first.job else ' --set seed="$SLURM_ARRAY_TASK_ID"'
    ray_on_nodes = "pipeline.submit.slurm_node"
    parts = {
        "submitted by": command,
        "options": "\n".join(f"#SBATCH --{option}" for option in _options(trainings, engine)),
        "setup": "".join(f"{line}\n" for line in engine.setup),
        "run": run,
        "runs_dir": shlex.quote(from_here(first.cluster.runs_dir)),
        "container": _container(first.cluster, engine),
        "python": shlex.quote(engine.python),
        "module": "pipeline" if first.cluster.workers.are_in_process else ray_on_nodes,
        "arguments": arguments,
    }
    script = _SCRIPT
    for name, text in parts.items():
        script = script.replace(f"{{{name}}}", text)
    return script


def from_here(path: Path) -> str:
    """Return `path` relative to the working folder, the job's as well, where it lies inside."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _container(cluster: Cluster, engine: Slurm) -> str:
    """Return srun's options of pyxis, which mount the folders of a training at their own paths."""
    if engine.container is None:
        return ""
    folders = [str(Path.cwd()), str(cluster.runs_dir)]
    if isinstance(data_dir := as_folder(cluster.data_dir), Path):
        folders.append(str(data_dir))
    own = dict.fromkeys(f"{folder}:{folder}" for folder in folders)
    mounts = ",".join([*own, *engine.container_mounts])
    options = {"image": engine.container, "mounts": mounts, "workdir": str(Path.cwd())}
    return "".join(
        f"    {shlex.quote(f'--container-{name}={value}')} \\\n" for name, value in options.items()
    )


def runs_of_comment(comment: str) -> dict[str, str]:
    """Read the runs from a job's comment: {index, or nothing: run}."""
    words = comment.split()[1:] if comment.startswith("ilsvrc ") else []
    return {index: run for index, _, run in (word.rpartition("=") for word in words)}


def _options(trainings: list[SubmittedTraining], engine: Slurm) -> Iterator[str]:
    first = trainings[0]
    workers, each = first.cluster.workers, engine.workers_per_node
    array = [one.index for one in trainings if one.index is not None]
    runs = [one.run if one.index is None else f"{one.index}={one.run}" for one in trainings]
    yield f"job-name={Path(first.document).stem}"
    yield f'comment="ilsvrc {" ".join(runs)}"'
    nodes = sorted({max(1, workers.fewest // each), max(1, workers.most // each)})
    yield f"nodes={'-'.join(map(str, nodes))}"
    yield "ntasks-per-node=1"
    yield f"cpus-per-task={workers.cpus * each}"
    if workers.device == "gpu":
        yield f"gpus-per-node={each}"
    known = {
        "mem": engine.memory,
        "time": str(math.ceil(engine.hours * 60)),  # minutes
        "partition": engine.partition,
        "account": engine.account,
        "qos": engine.qos,
        "array": ",".join(map(str, array)),
    }
    yield from (f"{key}={value}" for key, value in known.items() if value)
    yield "requeue"
    yield f"signal=B:USR1@{engine.warning_seconds}"
    yield "open-mode=append"
    yield f"output={from_here(first.cluster.runs_dir)}/slurm-{'%A_%a' if array else '%j'}.log"
    yield from (f"{key}={value}" if value else key for key, value in engine.options.items())
