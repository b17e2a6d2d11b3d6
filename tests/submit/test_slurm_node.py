"""Nodes of an allocation join one Ray, run the command once and end with it; without Slurm."""

import os
import secrets
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_all_nodes_end_with_the_command() -> None:
    environment = os.environ | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "pipeline.submit.slurm_node", "describe", "lenet5"]
    nodes = [
        subprocess.Popen(
            command, env=environment | {"SLURM_PROCID": number, "SLURM_NODEID": number}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for number in ("0", "1")
    ]  # fmt: skip
    outputs = [node.communicate(timeout=250)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    assert "lenet5" in outputs[0]
    assert not outputs[1]
