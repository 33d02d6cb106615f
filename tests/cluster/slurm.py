"""A real Slurm on this machine alone: a controller and two nodes on loopback, with two processors and a GPU each.

`python -m tests.cluster.slurm [command …]`, as root, installs Debian's packages if they are missing, starts it, runs
the command there (or waits for Ctrl-C), prints a table of the jobs and stops it. The GPUs are pretended: Slurm counts
them as it would real ones, and CUDA finds none.
"""

import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
# Jobs look here and nowhere else: Snakemake's plug-in takes SLURM_CONF, as all of Slurm's variables, away from them.
CONFIGURATION = Path("/etc/slurm/slurm.conf")
MARK = "# written by the tests of generative-bakeoff, and removed by them\n"
GPUS = 2
TABLE = "{:>4} {:<18} {:<6} {:<10} {:>8} {:>4} {:>7} {:>7}"


@dataclass(frozen=True)
class Job:
    """What the controller knows of a job. started, ended: seconds since the epoch."""

    number: int
    rule: str
    node: str
    state: str
    mem_mb: int
    gpus: int
    submitted: float
    started: float
    ended: float


def why_not() -> str | None:
    """The reason for which it cannot be started here, if there is one."""
    if missing := _missing():
        return f"needs Slurm ({', '.join(missing)} missing): {INSTALL}"
    if os.geteuid() != 0:
        return "needs root, to start nodes that may run jobs"
    for file in (CONFIGURATION, CONFIGURATION.with_name("gres.conf")):
        if file.exists() and not file.read_text(encoding="utf-8").startswith(MARK):
            return f"this machine has a Slurm of its own ({file})"
    return None


def _missing() -> list[str]:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [name for name in PROGRAMS if not shutil.which(name, path=path)]


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Start it, with its state and logs in `folder`; all jobs and daemons end with the block.

    Raises RuntimeError, with the end of its logs, if it does not come up.
    """
    with ExitStack() as stack:
        for name, content in _configuration(folder).items():
            file = CONFIGURATION.with_name(name)
            file.parent.mkdir(exist_ok=True)
            file.write_text(MARK + content)
            stack.callback(file.unlink)
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        names = {"socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        _daemon(stack, "munged", "--foreground", "--force", f"--key-file={key}", *options)
        _until((folder / "munge.socket").exists, folder)
        _daemon(stack, "slurmctld", "-D", "-c")
        for node in ("node1", "node2"):
            (folder / f"spool-{node}").mkdir()
            _daemon(stack, "slurmd", "-D", "-N", node)
        _until(lambda: _ask("sinfo", "-h", "-o", "%D %t").strip() == "2 idle", folder)
        try:
            yield
        finally:
            subprocess.run(["scancel", "--user=root"], check=False)
            _until(lambda: not _ask("squeue", "-h"), folder)


def jobs() -> list[Job]:
    """All jobs since the start, in their order."""
    listed = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in _ask("scontrol", "show", "job", "-o").splitlines()]
    return [
        Job(
            number=int(job["JobId"]),
            rule=job["Comment"].removeprefix("rule_"),
            node=job["NodeList"],
            state=job["JobState"],
            mem_mb=_megabytes(job["MinMemoryNode"]),
            gpus=int(job.get("TresPerJob", ":0").rsplit(":", 1)[-1]),
            submitted=_seconds(job["SubmitTime"]),
            started=_seconds(job["StartTime"]),
            ended=_seconds(job["EndTime"]),
        )
        for job in listed
        if "Comment" in job
    ]


def table(of: list[Job]) -> str:
    """One line a job."""
    lines = [TABLE.format("job", "rule", "node", "state", "MB", "GPU", "waited", "ran")]
    for job in of:
        times = (f"{job.started - job.submitted:.0f} s", f"{job.ended - job.started:.0f} s")
        lines.append(TABLE.format(job.number, job.rule, job.node, job.state, job.mem_mb, job.gpus, *times))
    return "\n".join(lines)


def _configuration(folder: Path) -> dict[str, str]:
    return {
        "slurm.conf": f"""\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
KillWait=30
MinJobAge=3600
MpiDefault=none
GresTypes=gpu
NodeName=node[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[16818-16819] CPUs=2 RealMemory=20000 Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES State=UP
""",
        # Slurm wants a device for each GPU; nobody opens these.
        "gres.conf": "NodeName=node1 Name=gpu File=/dev/null\nNodeName=node2 Name=gpu File=/dev/zero\n",
    }


def _daemon(stack: ExitStack, *command: str) -> None:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    quiet = subprocess.DEVNULL
    program = shutil.which(command[0], path=environment["PATH"]) or command[0]
    daemon = subprocess.Popen([program, *command[1:]], stdin=quiet, stdout=quiet, stderr=quiet, env=environment)

    def stop() -> None:
        daemon.terminate()
        try:
            daemon.wait(15)
        except subprocess.TimeoutExpired:
            daemon.kill()

    stack.callback(stop)


def _until(true: Callable[[], bool], folder: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            logs = "\n".join(
                f"{log.name}: {log.read_text(encoding='utf-8')[-500:]}" for log in sorted(folder.glob("*.log"))
            )
            raise RuntimeError(f"Slurm does not come up, or does not end its jobs:\n{logs}")
        time.sleep(0.1)


def _ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _megabytes(amount: str) -> int:
    """`4000M` or `4G`, as Slurm writes it."""
    return int(float(amount[:-1]) * (1024 if amount.endswith("G") else 1)) if amount[-1] in "MG" else 0


def _seconds(moment: str) -> float:
    return time.mktime(time.strptime(moment, "%Y-%m-%dT%H:%M:%S")) if moment[0].isdigit() else 0.0


def _main(command: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is stopped
    if _missing() and os.geteuid() == 0:
        subprocess.run(shlex.split(INSTALL), check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    if reason := why_not():
        print(f"error: {reason}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, slurm(Path(folder)):
        began = time.monotonic()
        if command:
            status = subprocess.run(command, check=False).returncode
        else:
            print("Slurm is up: two nodes, a GPU each; Ctrl-C ends it", flush=True)
            status = 0
            with suppress(KeyboardInterrupt):
                signal.pause()
        print(f"{table(jobs())}\n{time.monotonic() - began:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
