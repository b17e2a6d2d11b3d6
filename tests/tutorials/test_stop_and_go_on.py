"""A training that is stopped goes on by the same command, and ends in the same bits."""

import threading
import time
from pathlib import Path

import numpy as np
from command import Shell

from pipeline.models.weights_file import read_weights

TRAIN = (
    "ilsvrc train smoke --set epochs=4 --set cluster.workers.count=0 "
    "--set cluster.saving.log_every_steps=1"
)


def test_a_stopped_training_goes_on_and_ends_in_the_same_weights(
    shell: Shell, tmp_path: Path
) -> None:
    shell("ilsvrc prepare digits")

    # 1. A training that nothing disturbs.
    shell(f"{TRAIN} --run calm")

    # 2. The same training, stopped by a file in its folder once it has begun. It saves a checkpoint
    # after the step at hand, and says how to go on.
    stopped = tmp_path / "runs" / "stopped"
    stopper = threading.Thread(target=stop_when_it_has_begun, args=(stopped,))
    stopper.start()
    printed = shell(f"{TRAIN} --run stopped", exit_code=130)
    stopper.join()
    assert "the same command goes on from there" in " ".join(printed.split())
    assert not (stopped / "weights.safetensors").exists()

    # 3. The same command goes on. Both end in the same weights, bit by bit: the order of the images
    # and their random crops depend on seed, epoch and image alone.
    shell(f"{TRAIN} --run stopped")
    ours, theirs = (
        read_weights(tmp_path / "runs" / name / "weights.safetensors")
        for name in ("stopped", "calm")
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name].numpy(), theirs[name].numpy())


def stop_when_it_has_begun(run: Path) -> None:
    while not (run / "metrics.jsonl").exists():
        time.sleep(0.02)
    (run / "stop").touch()
