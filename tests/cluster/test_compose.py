"""compose.yaml, as far as it can be checked where no containers run; test_tracking.py runs its MLflow command."""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_variable_is_in_the_example_and_every_secret_is_demanded() -> None:
    assert {name for name, *_ in VARIABLE.findall(TEXT)} == set(example())
    demanded = {name for name, kind, _ in VARIABLE.findall(TEXT) if kind == "?"}
    assert {name for name, value in example().items() if not value} <= demanded  # no secret has a default
    assert {name: value for name, kind, value in VARIABLE.findall(TEXT) if kind == "-"}.items() <= example().items()
    ignored = subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_every_port_is_of_this_machine_alone_unless_asked_otherwise() -> None:
    ports = [VARIABLE.sub(r"\3", port) for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_are_pinned_and_packages_are_those_of_the_locks() -> None:
    recipe = SERVICES["mlflow"]["build"]["dockerfile_inline"]
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    for image in [*images, *re.findall(r"^FROM (\S+)$", recipe, re.MULTILINE)]:
        assert re.search(r":\S*\d\S*$", image), image
    locked = "".join(
        (ROOT / name).read_text(encoding="utf-8") for name in ("requirements.lock", "requirements-cluster.lock")
    )
    packages = re.findall(r"([\w-]+)(?:\[\w+\])?==([\d.]+)", recipe)
    assert [name for name, _ in packages] == ["mlflow", "psycopg", "boto3"]
    assert all(re.search(rf"^{name}=={re.escape(version)} ", locked, re.MULTILINE) for name, version in packages)


def test_a_service_starts_when_those_that_it_needs_are_healthy_and_keeps_its_data() -> None:
    for service in SERVICES.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert other in SERVICES
    kept = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert kept == set(yaml.safe_load(TEXT)["volumes"])


def test_docker_compose_can_read_it() -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("needs docker with its plugin compose, which is not on this machine")
    command = [docker, "compose", "--env-file", ".env.example", "config", "--quiet"]
    secrets = {"POSTGRES_PASSWORD": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    done = subprocess.run(command, cwd=ROOT, env=secrets, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
