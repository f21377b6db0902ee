"""Who writes a run folder: one process, known by host, process and heartbeat, also over NFS.

`run.lock` is made by linking a finished file to its name, which succeeds for one of several processes. Its owner
renews the file's time every `BEAT` seconds. Another process takes a lock for dead when it names a process of this host
that no longer runs, or when its time is older than `SILENCE` by the file system's own clock (the time of a file that is
written now; the clocks of two hosts may differ). When a cluster loses a node, its task can live on beside the requeued
copy: the copy takes the lock over, and the old task finds before its next save that the lock is no longer its own.
"""

import json
import os
import secrets
import socket
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.errors import MachineError

BEAT, SILENCE = 10.0, 60.0
NAME = "run.lock"


@dataclass(frozen=True)
class Owner:
    """A process that writes, or wrote, a run folder.

    Attributes:
        host: Name of the machine; Slurm's node name where there is one.
        process: Process id.
        started: Start time of the process in clock ticks since boot, which tells a reused process id apart.
        token: Random name of this claim.
    """

    host: str
    process: int
    started: int
    token: str

    @staticmethod
    def here() -> "Owner":
        """This process, with a new token."""
        return Owner(host_name(), os.getpid(), start_of_process(os.getpid()), secrets.token_hex(8))

    def __str__(self) -> str:
        """For messages."""
        return f"process {self.process} on {self.host}"


class RunLock:
    """The lock of a run folder, held by this process from `claim` to `release`.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / NAME
        self.owner = Owner.here()
        self._released = threading.Event()

    def claim(self, take_over: bool = False) -> Owner | None:
        """Tries to become the owner.

        Args:
            take_over: Also from an owner that seems alive: the earlier life of this same job.

        Returns:
            None on success, else the owner that lives.
        """
        while True:
            if self._link():
                threading.Thread(target=self._beat, daemon=True, name="run-lock").start()
                return None
            other = read_owner(self.file)
            if other is not None and not take_over and is_alive(self.file, other):
                return other
            self._put_aside(other)

    def require(self) -> None:
        """Checks that this process still owns the folder.

        Raises:
            MachineError: Another process has taken the run over, or the folder is gone.
        """
        owner = read_owner(self.file)
        if owner != self.owner:
            whose = "its lock file is gone" if owner is None else f"{owner} has taken it over"
            raise MachineError(
                f"{self.file.parent} no longer belongs to this process: {whose}; nothing more is written"
            )

    def release(self) -> None:
        """Gives the folder back, if it is still this process's."""
        self._released.set()
        if read_owner(self.file) == self.owner:
            self.file.unlink(missing_ok=True)

    def _link(self) -> bool:
        mine = self.file.with_name(f".{NAME}.{self.owner.token}")
        mine.write_text(json.dumps(asdict(self.owner)))
        try:
            os.link(mine, self.file)
        except FileExistsError:
            return False
        finally:
            mine.unlink()
        return True

    def _put_aside(self, dead: Owner | None) -> None:
        """Removes a dead owner's lock; if another process was faster, its new lock is put back."""
        aside = self.file.with_name(f".{NAME}.{self.owner.token}.dead")
        try:
            os.rename(self.file, aside)
        except FileNotFoundError:
            return
        if read_owner(aside) != dead:
            os.link(aside, self.file)
        aside.unlink()

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            try:
                if read_owner(self.file) != self.owner:
                    return
                os.utime(self.file)
            except OSError:
                continue  # the file system is away for a moment; the next save says so if it stays away


def read_owner(file: Path) -> Owner | None:
    """Who a lock file names; None where it is absent or not readable as one."""
    try:
        return Owner(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def is_alive(file: Path, owner: Owner) -> bool:
    """Whether the owner still runs, as far as can be seen from here."""
    if owner.host == host_name():
        return start_of_process(owner.process) == owner.started
    clock = file.with_name(f".{NAME}.clock.{secrets.token_hex(4)}")
    clock.touch()
    try:
        return clock.stat().st_mtime - file.stat().st_mtime < SILENCE
    except FileNotFoundError:
        return False
    finally:
        clock.unlink()


def host_name() -> str:
    """Name of this machine: Slurm's for the node, which differs between nodes that share a host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def start_of_process(process: int) -> int:
    """Start of a process in clock ticks since boot, 0 where it does not run."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    fields = status.rpartition(")")[2].split()  # the name in parentheses may hold spaces
    return 0 if fields[0] == "Z" else int(fields[19])
