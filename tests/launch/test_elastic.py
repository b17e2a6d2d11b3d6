"""Nodes join and leave, with notice and without: the training grows, shrinks and continues."""

import json
import multiprocessing
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_jobs import MakeJob, tracked_losses

from pipeline.launch.events import Event, Message, StepsReport
from pipeline.launch.ray_train import run_on_workers
from pipeline.launch.training_job import TrainingJob
from pipeline.trainer.worker import train
from pipeline.training.checkpoint import checkpoints, position_of

RAY = Path(sys.executable).with_name("ray")
EPOCHS, STEPS = 60, 15


class Nodes:
    """A Ray whose nodes are processes of this machine, in a process that has no other Ray."""

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self._first = self.add()
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level="ERROR")

    def add(self) -> Any:
        return self._cluster.add_node(num_cpus=1)

    def remove(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any, seconds: int) -> None:
        """Give notice that `node` leaves in so many seconds, as a cloud does; then remove it."""
        subprocess.run(
            [str(RAY), "drain-node", "--address", self._cluster.address, "--node-id", node.node_id,
             "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
             "--deadline-remaining-seconds", str(seconds)],
            check=True, capture_output=True,
        )  # fmt: skip
        time.sleep(seconds)
        self.remove(node)

    def close(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()


def train_elastically(job: TrainingJob, is_warned: bool, output: Path) -> None:
    """Train on one node, add a second, remove it again; write the messages to `output`."""
    nodes = Nodes()
    events: queue.Queue[Event] = queue.Queue()
    done = threading.Event()
    messages: list[str] = []

    def run() -> None:
        try:
            run_on_workers(train, job, events.put)
        finally:
            done.set()

    thread = threading.Thread(target=run)
    thread.start()  # nodes can be made in the main thread only

    def await_event(is_it: Callable[[Event], bool]) -> None:
        while True:
            event = events.get(timeout=150)
            if isinstance(event, Message):
                messages.append(event.text)
            if is_it(event):
                return

    try:
        await_event(lambda event: isinstance(event, StepsReport) and event.epoch == 1)
        second = nodes.add()
        await_event(lambda event: isinstance(event, Message) and "with 2 workers" in event.text)
        await_event(lambda event: isinstance(event, StepsReport))
        if is_warned:
            nodes.drain(second, seconds=6)
            messages.append(f"newest {position_of(checkpoints(job.folder.checkpoints)[0])}")
        else:
            nodes.remove(second)
        await_event(lambda event: isinstance(event, Message) and "with 1 worker " in event.text)
        thread.join()
        output.write_text(json.dumps(messages))
    finally:
        nodes.close()


@pytest.mark.slow
@pytest.mark.parametrize("is_warned", [True, False], ids=["warned", "abrupt"])
def test_a_training_grows_and_shrinks_with_its_nodes(
    make_job: MakeJob, tmp_path: Path, is_warned: bool
) -> None:
    # With small steps, rounding in another order stays rounding over many of them.
    recipe = [f"epochs={EPOCHS}", "optimizer.learning_rate=0.001"]
    saving = "saving={log_every_steps: 1, checkpoint_every_steps: 10}"
    steady = make_job("steady", recipe, ["workers.count=0"])
    run_on_workers(train, steady, lambda event: None)
    workers = (
        "workers={min: 1, max: 2, device: cpu, resize_seconds: 2, ray_address: auto, "
        "max_failures: 3}"
    )
    elastic = make_job("elastic", recipe, [saving, workers])
    output = tmp_path / "messages.json"
    process = multiprocessing.get_context("spawn").Process(
        target=train_elastically, args=(elastic, is_warned, output)
    )
    process.start()
    process.join(280)
    assert process.exitcode == 0
    resumed = [text for text in json.loads(output.read_text()) if "goes on" in text]
    assert [re.search(r"with (\d) worker", text)[1] for text in resumed] == ["2", "1"]
    assert all(re.search(r"after ([1-9]\d*) epochs", text) for text in resumed)  # never from zero

    ours, theirs = load_file(elastic.folder.weights), load_file(steady.folder.weights)
    assert max((ours[name] - theirs[name]).abs().max().item() for name in theirs) < 1e-4
    steps = [step for step, _ in tracked_losses(elastic)]
    assert steps == list(range(1, EPOCHS * STEPS + 1))
