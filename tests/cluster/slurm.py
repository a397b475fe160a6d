"""A SLURM cluster of two nodes on this machine: its configuration, its daemons, its jobs, and its end."""

import getpass
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

NODES = ("node1", "node2")
CORES, MEMORY = 2, 8192
"""What each node says it has, whatever the machine has: cores, and memory in MiB."""
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
"""Where daemons lie is not on the path of users other than root."""
SECONDS_TO_START, SECONDS_TO_END = 30, 10
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory,CR_LLN
DefMemPerCPU=1024
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=2
PartitionName=all Nodes=ALL Default=YES
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} RealMemory={memory}\n"


@dataclass(frozen=True)
class Slurm:
    """A running cluster; its commands find it by `SLURM_CONF` in the environment.

    Attributes:
        folder: its configuration, logs and state.
        seconds: how long it took until both nodes were idle.
    """

    folder: Path
    seconds: float

    def jobs(self, states: str = "running") -> dict[str, str]:
        """The nodes of the jobs that are in some states ("running", "all"), by the jobs' numbers."""
        return dict(line.split() for line in _said("squeue", "--noheader", f"--states={states}", "--format=%A %N").splitlines())

    def cancel(self, job: str, *options: str) -> None:
        """End a job, as a user or the time limit does; or send it a signal (`--signal=USR2`), as preemption does."""
        _said("scancel", *options, job)

    def drain(self, node: str) -> None:
        """Let no further job begin on a node."""
        _said("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")

    def resume(self, node: str) -> None:
        """Let jobs begin on a node again."""
        with suppress(subprocess.CalledProcessError):  # it is not drained
            _said("scontrol", "update", f"NodeName={node}", "State=RESUME")


@contextmanager
def two_nodes() -> Iterator[Slurm]:
    """Start a cluster; at the end of the block all of its processes are ended, whatever happened.

    Raises:
        RuntimeError: its nodes do not come up; the message ends with what the daemons logged.
    """
    begin = time.monotonic()
    with ExitStack() as end:
        folder = Path(end.enter_context(tempfile.TemporaryDirectory(prefix="bigramlib-slurm-")))
        folder.chmod(0o755)  # munge refuses a socket that others cannot reach
        _write_configuration(folder)
        before = os.environ.get("SLURM_CONF"), os.environ["PATH"]
        os.environ |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        end.callback(_restore_environment, *before)
        end.callback(_kill_all, folder)
        _start(end, folder, "munged", "--foreground", *_munge_files(folder))
        _wait(folder, "munge.socket was not made", (folder / "munge.socket").exists)
        _start(end, folder, "slurmctld", "-D")
        for node in NODES:
            _start(end, folder, "slurmd", "-D", "-N", node)
        _wait(folder, "the nodes did not become idle", _all_idle)
        end.callback(_cancel_all)
        yield Slurm(folder, time.monotonic() - begin)


def _write_configuration(folder: Path) -> None:
    """Write the key of munge and the configuration, with ports that are free now."""
    for name in ("state", *NODES):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(64))
    host = socket.gethostname().partition(".")[0]
    with ExitStack() as held:
        places = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in ("controller", *NODES)]
        controller_port, *ports = [place.getsockname()[1] for place in places]
    text = CONFIGURATION.format(folder=folder, host=host, controller_port=controller_port, user=getpass.getuser())
    for name, port in zip(NODES, ports, strict=True):
        text += NODE.format(name=name, host=host, port=port, cores=CORES, memory=MEMORY)
    (folder / "slurm.conf").write_text(text)


def _munge_files(folder: Path) -> list[str]:
    """Options that keep all files of munge in the folder."""
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    return [f"--{option}={folder / file}" for option, file in (files | {"log-file": "munge.log"}).items()]


def _start(end: ExitStack, folder: Path, *command: str) -> None:
    """Start a daemon in the foreground of a session of its own, and see to its end."""
    with (folder / f"{command[0]}.said").open("ab") as said:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
    end.callback(_stop, daemon)


def _stop(daemon: subprocess.Popen) -> None:
    """End a daemon: politely, then by force."""
    daemon.terminate()
    try:
        daemon.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _cancel_all() -> None:
    """End all jobs, and wait for it."""
    with suppress(subprocess.SubprocessError):
        _said("scancel", "--user", getpass.getuser())
        last = time.monotonic() + SECONDS_TO_END
        while _said("squeue", "--noheader") and time.monotonic() < last:
            time.sleep(0.1)


def _kill_all(folder: Path) -> None:
    """Kill what still runs of this cluster and its jobs: the processes that have its configuration in their environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("SLURM_CONF") == str(folder / "slurm.conf"):
                process.send_signal(signal.SIGKILL)


def _restore_environment(configuration: str | None, path: str) -> None:
    """What was there before the cluster."""
    os.environ["PATH"] = path
    if configuration is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = configuration


def _wait(folder: Path, otherwise: str, ready) -> None:
    """Wait until something is so, but not for ever."""
    last = time.monotonic() + SECONDS_TO_START
    while not ready():
        if time.monotonic() > last:
            logs = "".join(f"\n{file.name}:\n{file.read_text()[-2000:]}" for file in sorted(folder.glob("*.said")))
            raise RuntimeError(f"SLURM does not run here: {otherwise} within {SECONDS_TO_START} seconds.{logs}")
        time.sleep(0.1)


def _all_idle() -> bool:
    """Whether every node waits for jobs."""
    try:
        return _said("sinfo", "--noheader", "--Node", "--format=%t").split() == ["idle"] * len(NODES)
    except subprocess.SubprocessError:
        return False


def _said(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS_TO_START).stdout
