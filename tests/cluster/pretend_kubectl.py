"""A kubectl without a cluster: what it is asked to create runs here, as a pod of one container would.

Knows the three commands that the profile uses. What is created is kept in POD_STATE, one folder a job.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import yaml

STATE = Path(os.environ.get("POD_STATE", ""))


def create(*options: str) -> None:
    """Start the job on standard input in the background; prints its name."""
    assert options == ("-o", "name", "-f", "-")
    job = yaml.safe_load(sys.stdin)
    number = len(list(STATE.iterdir()))
    folder = STATE / f"{number}-{job['metadata']['generateName']}x"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(job))
    with (folder / "log").open("w") as log:
        subprocess.Popen([sys.executable, __file__, "run", folder], stdout=log, stderr=log, start_new_session=True)
    print(f"job.batch/{folder.name}")


def run(folder: str) -> None:
    """Be the container: its command in a group of its own, and what came of it."""
    (container,) = json.loads(Path(folder, "job.json").read_text(encoding="utf-8"))["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["command"][:3] == ["tini", "-g", "--"]  # hands signals on to the group, as `delete` does here
    pod = subprocess.Popen(container["command"][3:], start_new_session=True, cwd="/")
    Path(folder, "pid").write_text(str(pod.pid), encoding="utf-8")
    Path(folder, "condition").write_text("Failed" if pod.wait() else "Complete", encoding="utf-8")


def get(name: str, *options: str) -> None:
    """How a job is, as the profile's jsonpath has it; nothing if there is none of this name."""
    folder = STATE / Path(name).name
    if not (folder / "deleted").exists():
        print("there", (folder / "condition").read_text(encoding="utf-8") if (folder / "condition").exists() else "")


def delete(*names: str) -> None:
    """End jobs."""
    for folder in (STATE / Path(name).name for name in names if not name.startswith("--")):
        (folder / "deleted").touch()
        with suppress(ProcessLookupError):
            os.killpg(int((folder / "pid").read_text(encoding="utf-8")), signal.SIGTERM)


def install(folder: Path) -> dict[str, str]:
    """Put it into `folder` as `kubectl`; returns the environment in which it is found."""
    (folder / "bin").mkdir()
    (folder / "pods").mkdir()
    shutil.copy(__file__, folder / "bin/kubectl")
    program = (folder / "bin/kubectl").read_text(encoding="utf-8")
    (folder / "bin/kubectl").write_text(f"#!{sys.executable}\n{program}")
    (folder / "bin/kubectl").chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "POD_STATE": str(folder / "pods")}


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {"create": create, "run": run, "get": get, "delete": delete}
    commands[sys.argv[1]](*sys.argv[2:])
