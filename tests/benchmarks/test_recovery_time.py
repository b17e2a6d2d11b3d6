"""Which processes the recovery benchmark kills."""

import subprocess
import time

import psutil

from benchmarks.recovery_time import worker_processes


def test_only_running_training_workers_are_found() -> None:
    worker = subprocess.Popen(["sh", "-c", "sleep 60; :", "RayTrainWorker"])
    ended = subprocess.Popen(["true"])  # and stays as a zombie until it is waited for
    while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    try:
        assert [process.pid for process in worker_processes()] == [worker.pid]
    finally:
        for process in psutil.Process(worker.pid).children():
            process.kill()
        worker.kill()
        worker.wait()
        ended.wait()
