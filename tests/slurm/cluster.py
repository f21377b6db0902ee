"""A Slurm cluster of two nodes on one machine: Debian's slurmctld, slurmd and munge on loopback, ended with the tests.

The daemons run in the foreground as children of the test process; the kernel ends them with it. Everything else lies in
one folder, but for a line in /etc/hosts, by which the nodes' names resolve.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HOSTS = Path("/etc/hosts")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
"""States that a job does not leave."""
KILL_WAIT = 8
"""Seconds between SIGTERM and SIGKILL, Slurm's KillWait; 30 by default."""

# cred_expire: a requeued job waits for its old credentials to expire (2 minutes by default, at least 5 seconds).
# linuxproc and task/none need no cgroups. Tasks of a node that is down are ended in SlurmdTimeout at the latest.
CONFIGURATION = """
ClusterName=attndense
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
{loopback}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait={kill_wait}
MinJobAge=3600
ReturnToService=2
SlurmdTimeout=15
MessageTimeout=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=500
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=500
PartitionName=main Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why this machine cannot run the cluster; None when it can, after the packages have been installed."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    if all(shutil.which(program) for program in PROGRAMS):
        return None
    if shutil.which("apt-get") is None:
        return f"needs Slurm, and there is no apt-get to install {' '.join(PACKAGES)}"
    quiet = {"capture_output": True, "text": True, "timeout": 240, "stdin": subprocess.DEVNULL}
    # At runlevel 1 the packages start no services of their own.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        answer = subprocess.run(["apt-get", "-qq", *command], env=environment, check=False, **quiet)  # type: ignore[call-overload]
        if answer.returncode != 0:
            return f"apt-get {' '.join(command)} failed: {answer.stderr.strip()[-300:]}"
    return None


@contextmanager
def only_process(name: str) -> Iterator[None]:
    """Keeps other test processes out: apt-get and /etc/hosts are the machine's."""
    with open(Path(tempfile.gettempdir()) / f"attndense-{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def wait_for(what: str, happens: Callable[[], object], seconds: float = 60) -> None:
    """Waits until something happens; fails with its name."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        folder: Configuration, state and logs.
        nodes: Names of the two nodes.
    """

    folder: Path
    nodes: tuple[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user who is logged in outside any job."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
        return own | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: str) -> str:
        """Output of one of Slurm's commands."""
        answer = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=30, check=False)
        assert answer.returncode == 0, f"{' '.join(words)}: {answer.stderr}"
        return answer.stdout.strip()

    def submit(self, script: Path, *options: str, arguments: Sequence[str] = (), **variables: str) -> str:
        """Hands in a batch script, with environment variables; gives the job's number."""
        words = ["sbatch", "--parsable", *options, str(script), *arguments]
        environment = self.environment | variables
        answer = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    def fact(self, job: str, name: str) -> str:
        """A field of `scontrol show job`, such as JobState or Restarts."""
        for word in self.command("scontrol", "--oneliner", "show", "job", job).split():
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
        raise AssertionError(f"job {job} has no {name}")

    def daemon_of(self, node: str) -> int:
        """Process id of a node's slurmd."""
        return int((self.folder / f"{node}.pid").read_text())

    def resume(self, node: str) -> None:
        """Takes a node back that was down; it may have come back by itself."""
        _words(self, ["scontrol", "update", f"NodeName={node}", "State=RESUME"])

    def end_of(self, job: str, seconds: float = 120) -> str:
        """Waits for the end of a job; gives its final state."""
        wait_for(f"the end of job {job}", lambda: self.fact(job, "JobState") in FINAL, seconds)
        return self.fact(job, "JobState")


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Starts a cluster, and ends all of it again; first of all, what killed test processes have left."""
    own = f"attndense-slurm-{os.getpid()}-"
    with ExitStack() as stack:
        _clear_what_the_dead_left()
        folder = Path(tempfile.mkdtemp(prefix=own, dir="/tmp"))  # short: paths of sockets are
        stack.callback(_clear, folder)
        cluster = Cluster(folder, (f"p{os.getpid()}n1", f"p{os.getpid()}n2"))
        _write_files(cluster)
        munge = ["munged", "-F", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.sock", "--force"]
        _start(stack, cluster, *munge, *(f"--{kind}-file={folder}/munge.{kind}" for kind in ("pid", "log", "seed")))
        wait_for("munge", (folder / "munge.sock").exists)
        _start(stack, cluster, "slurmctld", "-D", "-c")
        for node in cluster.nodes:
            _start(stack, cluster, "slurmd", "-D", "-N", node)
        idle = ["sinfo", "--noheader", "--Node", "--states=idle", "--partition=main", "--format=%N"]
        wait_for("two idle nodes", lambda: len(_words(cluster, idle)) == 2, 30)
        stack.callback(_end_jobs, cluster)
        yield cluster


def _clear_what_the_dead_left() -> None:
    for folder in Path("/tmp").glob("attndense-slurm-*"):
        if not Path("/proc", folder.name.split("-")[2]).exists():
            _clear(folder)


def _clear(folder: Path) -> None:
    """Ends tasks that have outlived the daemons, known by the configuration in their environment; removes all files."""
    configuration = str(folder / "slurm.conf").encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if configuration in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
    _write_hosts(folder, [])
    shutil.rmtree(folder, ignore_errors=True)


def _write_hosts(folder: Path, lines: list[str]) -> None:
    """Makes names resolve, as those of nodes do in a cluster; no lines take them away."""
    mark = f"# {folder}"
    with only_process("hosts"):
        others = [line for line in HOSTS.read_text().splitlines() if not line.endswith(mark)]
        HOSTS.write_text("\n".join([*others, *(f"{line} {mark}" for line in lines)]) + "\n")


def _write_files(cluster: Cluster) -> None:
    host, folder = socket.gethostname().partition(".")[0], cluster.folder
    for name in ("state", "spool", *(f"spool/{node}" for node in cluster.nodes)):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    folder.chmod(0o755)
    # A daemon that is to listen everywhere must not, where the machine's name is that of loopback.
    own = socket.gethostbyname(host).startswith("127.")
    loopback = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny" if own else ""
    text = CONFIGURATION.format(
        host=host, folder=folder, nodes=cluster.nodes, ports=free_ports(3), loopback=loopback, kill_wait=KILL_WAIT
    )
    (folder / "slurm.conf").write_text(text)
    _write_hosts(folder, [f"127.0.0.1 {' '.join(cluster.nodes)}"])


def free_ports(number: int) -> list[int]:
    """Ports at which nothing listens now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _start(stack: ExitStack, cluster: Cluster, *words: str) -> None:
    def die_with_parent() -> None:
        ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    with (cluster.folder / f"{words[0]}.out").open("a") as output:
        daemon = subprocess.Popen(
            words, env=cluster.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            preexec_fn=die_with_parent, start_new_session=True,
        )  # fmt: skip

    def end() -> None:
        daemon.terminate()
        try:
            daemon.wait(5)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(5)

    stack.callback(end)


def _words(cluster: Cluster, command: list[str]) -> list[str]:
    """Output of a command, empty when it fails: the daemons may not answer yet, or not any more."""
    try:
        answer = subprocess.run(
            command, env=cluster.environment, capture_output=True, text=True, timeout=10, check=False
        )
    except subprocess.TimeoutExpired:
        return []
    return answer.stdout.split()


def _end_jobs(cluster: Cluster) -> None:
    _words(cluster, ["scancel", "--full", "--signal=KILL", "--user=root"])
    _words(cluster, ["scancel", "--user=root"])
    end = time.monotonic() + 10
    while _words(cluster, ["squeue", "--noheader"]) and time.monotonic() < end:
        time.sleep(0.1)
