"""One choice for all processes, made by the first before they are joined in a process group.

Plain sockets: the first process answers the others when it has chosen, and its death closes the connection. (A TCPStore
in its place prints C++ stacks when its host dies, and lets no signal handler run while it waits.)
"""

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tasks.errors import MachineError, NumbersError, TaskError
from tasks.run.job import Job

_ERRORS = {kind.__name__: kind for kind in (TaskError, MachineError, NumbersError)} | {"DataError": TaskError}


def agree(
    job: Job,
    choose: Callable[[], str],
    subject: str = "run folder",
    arrive_within: float = 60,
    choose_within: float = 600,
) -> str:
    """Hands what the first process chooses to all others that srun or torchrun has started.

    Elsewhere it is just the choice: processes that Lightning starts inherit it through the environment.

    Args:
        job: The job of this process.
        choose: Called in process 0 only.
        subject: What is chosen; each only once in a process.
        arrive_within: Seconds in which all processes must have come here.
        choose_within: Seconds that `choose` may take; the death of process 0 is seen at once.

    Returns:
        The choice, equal in all processes.

    Raises:
        MachineError: A process has not come, process 0 has died, or its port is taken.
        Exception: What `choose` raises ends all processes: the project's errors and SystemExit as they are, others as
            MachineError in the processes that did not raise it.
    """
    if not job.started_outside:
        return choose()
    if job.rank > 0:
        return _understand(_ask(job, subject, arrive_within, choose_within))
    with _listen(job, subject) as server:
        try:
            choice = choose()
        except BaseException as error:
            with suppress(MachineError):
                _answer(job, server, _in_words(error), subject, arrive_within)
            raise
        _answer(job, server, {"choice": choice}, subject, arrive_within)
    return choice


def _listen(job: Job, subject: str) -> socket.socket:
    port = _port(job)
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=job.world_size + 64)
    except OSError as error:
        raise MachineError(
            f"port {port} on {job.main_address} cannot be used ({error.strerror}); give another with MASTER_PORT in "
            "the job's environment"
        ) from error
    if job.has_agent_store:
        _agents_store(job).set(_store_key(subject), str(server.getsockname()[1]))
    return server


def _port(job: Job) -> int:
    """Where process 0 listens.

    Under Slurm it is the second of the job's two ports; under torchrun any, whose number is left with the agent, or, if
    that keeps no store, the process group's, which does not exist yet.
    """
    assert job.main_port is not None
    if job.has_agent_store:
        return 0
    if job.scheduler == "slurm":
        return job.main_port + (1 if job.main_port < 65535 else -1)
    return job.main_port


def _store_key(subject: str) -> str:
    return f"attndense/port/{subject}"


def _agents_store(job: Job) -> TCPStore:
    assert job.main_port is not None
    return TCPStore(job.main_address, job.main_port, is_master=False, timeout=timedelta(seconds=30))


def _answer(job: Job, server: socket.socket, answer: dict[str, Any], subject: str, arrive_within: float) -> None:
    """Answers all other processes of this job; whoever else connects gets nothing."""
    waiting, end = set(range(1, job.world_size)), time.monotonic() + arrive_within
    while waiting:
        server.settimeout(max(end - time.monotonic(), 0.001))
        try:
            connection, _ = server.accept()
        except TimeoutError as error:
            raise MachineError(
                f"processes {sorted(waiting)} of {job.world_size} did not come within {arrive_within:g} s to learn the "
                f"{subject}; look at their messages"
            ) from error
        with connection, suppress(OSError, ValueError, TypeError):
            connection.settimeout(5)
            who, rank = json.loads(connection.makefile().readline())
            if who == _name(job):
                connection.sendall(json.dumps(answer).encode())
                waiting.discard(rank)


def _ask(job: Job, subject: str, arrive_within: float, choose_within: float) -> dict[str, Any]:
    with _connect(job, subject, arrive_within) as connection:
        connection.settimeout(choose_within)
        try:
            connection.sendall((json.dumps([_name(job), job.rank]) + "\n").encode())
            answer: dict[str, Any] = json.loads(connection.makefile().read())
        except TimeoutError as error:
            raise MachineError(
                f"process 0 on {job.main_address} chose no {subject} within {choose_within:g} s; look at its messages"
            ) from error
        except (OSError, ValueError) as error:
            raise MachineError(
                f"process 0 on {job.main_address} ended before the {subject} was chosen; look at its messages"
            ) from error
    return answer


def _connect(job: Job, subject: str, arrive_within: float) -> socket.socket:
    store = _agents_store(job) if job.has_agent_store else None
    end = time.monotonic() + arrive_within
    while True:
        port = _port(job)
        if store is not None and store.check([_store_key(subject)]):
            port = int(store.get(_store_key(subject)))
        try:
            return socket.create_connection((job.main_address, port), timeout=5)
        except OSError as error:  # not there yet
            if time.monotonic() > end:
                raise MachineError(
                    f"process 0 did not listen on {job.main_address}:{port} within {arrive_within:g} s "
                    f"({error.strerror or error}); look at its messages, and whether srun has started every task"
                ) from error
            time.sleep(0.05)


def _name(job: Job) -> str:
    """By which processes of one start of one job know each other, should another job get the same port."""
    return f"{job.key}/{job.restarts}"


def _in_words(error: BaseException) -> dict[str, Any]:
    if isinstance(error, SystemExit):
        return {"exit": error.code}
    kind = type(error).__name__
    return {"error": kind, "text": str(error) if kind in _ERRORS else f"process 0: {kind}: {error}"}


def _understand(answer: dict[str, Any]) -> str:
    if "exit" in answer:
        raise SystemExit(answer["exit"])
    if "error" in answer:
        raise _ERRORS.get(answer["error"], MachineError)(answer["text"])
    return str(answer["choice"])
