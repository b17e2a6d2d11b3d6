"""The image and the services as files: linted, valid, and closed to the outside."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
DOCKER = PROJECT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
OURS = ("mlflow", "head", "worker")


def run(program: str, *arguments: object) -> str:
    command = [str(Path(sys.executable).with_name(program)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hadolint_finds_nothing() -> None:
    assert run("hadolint", DOCKER / "Dockerfile") == ""


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_are_valid(name: str) -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / name)


def test_nothing_is_published_beyond_loopback() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_secrets_are_files_that_every_reader_is_given() -> None:
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("secrets/")
    made = re.search(r"^SECRETS := (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert made is not None
    assert set(made[1].split()) == set(COMPOSE["secrets"])
    for name, service in COMPOSE["services"].items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|KEY", key):
                assert value.removeprefix("/run/secrets/") in service["secrets"], (name, key)


def test_every_service_tells_its_health_and_starts_again() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped"
        for needed in service.get("depends_on", {}).values():
            assert needed == {"condition": "service_healthy"}


def test_our_containers_can_gain_no_rights() -> None:
    for name in OURS:
        service: dict[str, Any] = COMPOSE["services"][name]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.findall(r"^USER (\w+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE) == [
        "1000"
    ]


def test_the_image_installs_what_the_project_says() -> None:
    lines = run("python", DOCKER / "requirements.py", PROJECT / "pyproject.toml", "s3", "gpu")
    names = {re.split(r"[\[<>=]", line)[0] for line in lines.splitlines()}
    assert {"torch", "mlflow", "nvidia-ml-py", "s3fs"} <= names
    assert "psycopg" not in names


def test_start_runs_any_command_and_gives_clients_the_password(tmp_path: Path) -> None:
    (tmp_path / "mlflow_password").write_text("open sesame")
    environment = {"HOME": str(tmp_path), "SECRETS_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [DOCKER / "start", "echo", "two words"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "two words\n"
    credentials = tmp_path / ".mlflow" / "credentials"
    assert "mlflow_tracking_password = open sesame\n" in credentials.read_text()
    assert credentials.stat().st_mode & 0o077 == 0
