"""From an exception, as it is really raised, to the line that the user reads and the exit code."""

import errno
import os
import signal
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed import TCPStore
from torch.utils.data import DataLoader, Dataset

from datamodules import DataError
from datamodules.now_reading import reading
from datamodules.sampling import SampleKey
from tasks.errors import MachineError, NumbersError, TaskError
from tasks.run import exit_codes
from tasks.run.failures import Failure, explain


def raised(action: Callable[[], object]) -> BaseException:
    """What an action raises, with its traceback."""
    try:
        action()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


class FailingDataset(Dataset):
    """Two samples; reading the second fails."""

    def __init__(self, fail: Callable[[], object]) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return 2

    def __getitem__(self, key: int) -> torch.Tensor:
        if key == 1:
            with reading(Path("/images/000000000003.jpg")):
                self.fail()
        return torch.zeros(1)


def fail_in_a_worker(fail: Callable[[], object]) -> BaseException:
    """What the training process gets of an error in a loader process."""
    batches = iter(DataLoader(FailingDataset(fail), num_workers=1, multiprocessing_context="fork"))
    error = raised(lambda: list(batches))
    batches._shutdown_workers()
    return error


def throw(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TaskError("give a width"), exit_codes.MISTAKE),
        (DataError("give a width"), exit_codes.MISTAKE),
        (MachineError("give a width"), exit_codes.MACHINE),
        (NumbersError("give a width"), exit_codes.NUMBERS),
    ],
)
def test_project_errors_have_their_line(error: Exception, code: int) -> None:
    assert explain(error) == Failure("give a width", code)
    assert explain(fail_in_a_worker(throw(error))) == Failure("give a width", code)


def test_error_in_a_spawned_process() -> None:
    def spawn(error: BaseException) -> Failure:
        return explain(raised(lambda: torch.multiprocessing.start_processes(_throw, (error,), start_method="fork")))

    assert spawn(DataError("a.json: no images")) == Failure("a.json: no images", exit_codes.MISTAKE)
    assert spawn(KeyError("boxes")) == Failure("KeyError: 'boxes'", exit_codes.FAILED)


def _throw(_: int, error: BaseException) -> None:
    raise error


class TestConstructor:
    """jsonargparse puts what a constructor refuses into a page of types; the command line makes a TaskError of it."""

    def refusal(self, error: Exception) -> Failure:
        def build() -> None:
            try:
                try:
                    raise error
                except Exception as reason:
                    raise ValueError(
                        "Does not validate against any of the Union subtypes\nSubtypes: [a, b]"
                    ) from reason
            except ValueError as page:
                raise TaskError(str(page)) from page

        return explain(raised(build))

    @pytest.mark.parametrize("kind", [DataError, TaskError, ValueError, RuntimeError])
    def test_its_own_line_is_shown(self, kind: type[Exception]) -> None:
        assert self.refusal(kind("width is -1,\nexpected > 0")) == Failure("width is -1, expected > 0", 2)

    def test_missing_package(self) -> None:
        assert self.refusal(ModuleNotFoundError("`tensorboard` is not available")) == Failure(
            "`tensorboard` is not available", 2
        )

    def test_error_of_the_program_is_none_of_the_user(self) -> None:
        assert self.refusal(AttributeError("'NoneType' object has no attribute 'x'")) == Failure(
            "AttributeError: 'NoneType' object has no attribute 'x'", 1
        )


class TestMemory:
    """Out of memory says what to lower."""

    @pytest.mark.parametrize("allocate", [lambda: torch.empty(2**60), lambda: np.empty(2**55), throw(MemoryError())])
    def test_host(self, allocate: Callable[[], object]) -> None:
        for error in (raised(allocate), fail_in_a_worker(allocate)):
            failure = explain(error)
            assert failure.exit_code == exit_codes.MACHINE
            assert failure.message.startswith(
                "the machine's memory is full: lower --data.num_workers, lower --data.bat"
            )

    def test_device(self) -> None:
        text = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB"
        failure = explain(torch.OutOfMemoryError(text))
        assert failure.exit_code == exit_codes.MACHINE
        assert failure.message.startswith("the GPU's memory is full: lower --data.batch_size")
        for remedy in ("image size", "--trainer.precision bf16-mixed", "--model.backbone.checkpointing true"):
            assert remedy in failure.message


class TestLoaderProcess:
    """A loader process that dies says nothing itself."""

    def test_killed(self) -> None:
        failure = explain(fail_in_a_worker(lambda: os.kill(os.getpid(), signal.SIGKILL)))
        assert failure.exit_code == exit_codes.MACHINE
        assert "was killed, most likely because the machine's memory is full: lower --data.num_w" in failure.message
        assert failure.message.endswith("(it was reading /images/000000000003.jpg)")

    def test_crash(self) -> None:
        failure = explain(fail_in_a_worker(lambda: os.kill(os.getpid(), signal.SIGSEGV)))
        assert failure.exit_code == exit_codes.MACHINE
        assert failure.message.startswith("a loader process has died (pid ")
        assert "Segmentation fault" in failure.message
        assert failure.message.endswith("(it was reading /images/000000000003.jpg)")

    def test_full_shared_memory(self) -> None:
        failure = explain(fail_in_a_worker(lambda: os.kill(os.getpid(), signal.SIGBUS)))
        assert failure.exit_code == exit_codes.MACHINE
        assert "no room in shared memory (/dev/shm)" in failure.message and "--shm-size" in failure.message

    def test_error_of_the_program(self) -> None:
        failure = explain(fail_in_a_worker(throw(KeyError("boxes"))))
        assert failure == Failure("KeyError: 'boxes'", exit_codes.FAILED)


class TestOperatingSystem:
    """Files and ports."""

    @pytest.mark.parametrize(
        ("number", "said"),
        [
            (errno.ENOSPC, "the disk or the quota is full"),
            (errno.EDQUOT, "the disk or the quota is full"),
            (errno.EACCES, "no permission"),
            (errno.EROFS, "no permission"),
            (errno.EIO, "the file system has failed"),
            (errno.ESTALE, "the file system has failed"),
            (errno.EMFILE, "too many open files: raise the limit"),
            (errno.ENOMEM, "the machine's memory is full"),
        ],
    )
    def test_files(self, number: int, said: str) -> None:
        error = OSError(number, os.strerror(number), "/runs/detect/a/metrics.csv.tmp")
        for failure in (explain(error), explain(fail_in_a_worker(throw(error)))):
            assert failure.exit_code == exit_codes.MACHINE and failure.message.startswith(said)
            if "(" in failure.message.partition(":")[0]:
                assert f"{os.strerror(number)}: '/runs/detect/a/metrics.csv.tmp'" in failure.message

    def test_full_disk_under_a_checkpoint(self) -> None:
        failure = explain(raised(lambda: torch.save({"a": torch.zeros(1 << 20)}, "/dev/full")))
        assert failure.exit_code == exit_codes.MACHINE
        assert failure.message.startswith("the disk or the quota is full (")

    def test_vanished_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "runs" / "a"
        failure = explain(raised(lambda: (folder / "metrics.csv").write_text("step")))
        assert failure == Failure(f"{folder} does not exist, or no longer: see whether its disk is there", 3)

    def test_port_is_taken(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            failure = explain(raised(lambda: TCPStore("127.0.0.1", port, 1, is_master=True)))
        assert failure.exit_code == exit_codes.MACHINE and not failure.is_echo
        assert (
            failure.message == f"another job listens at the port ({port}): choose a free one (export MASTER_PORT=29511)"
        )

    def test_first_process_is_not_there(self) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            port = nobody.getsockname()[1]
        wait = timedelta(seconds=0.5)
        failure = explain(raised(lambda: TCPStore("127.0.0.1", port, 2, is_master=False, timeout=wait)))
        assert failure.exit_code == exit_codes.MACHINE and not failure.is_echo
        assert failure.message.startswith(f"process 0 was not reached at 127.0.0.1, {port}: see that every process")


@pytest.mark.parametrize(
    "text",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711",
        "[enforce fail at /pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:456] op.preamble.length <= op.nbytes; "
        "gloo timed out",
        "NCCL error in: ProcessGroupNCCL.cpp:3384, remote process exited or there was a network error",
        "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12, OpType=ALLREDUCE)",
    ],
)
def test_lost_connection_is_only_an_echo(text: str) -> None:
    failure = explain(RuntimeError(text))
    assert failure.is_echo and failure.exit_code == exit_codes.MACHINE
    assert failure.message.startswith("another process of this job has ended or cannot be reached: RuntimeError: ")


def test_wandb_connection_is_no_echo() -> None:
    assert not explain(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")).is_echo


def test_batch_norm_over_one_value() -> None:
    norm = torch.nn.BatchNorm2d(8).train()
    failure = explain(raised(lambda: norm(torch.zeros(1, 8, 1, 1))))
    assert failure.exit_code == exit_codes.MISTAKE
    assert failure.message.startswith("batch normalisation got one value per channel (torch.Size([1, 8, 1, 1])): use a")


def test_lightnings_own_refusals() -> None:
    assert explain(MisconfigurationException("No supported gpu backend found!")) == Failure(
        "No supported gpu backend found!", exit_codes.MISTAKE
    )
    missing = explain(raised(lambda: __import__("tensorboardY")))
    assert missing.exit_code == exit_codes.MISTAKE and missing.message.startswith(
        "No module named 'tensorboardY'; inst"
    )
    assert explain(ModuleNotFoundError("No module named 'tasks.nothing'")).exit_code == exit_codes.FAILED


class TestPlace:
    """What is no known failure names the step and the images."""

    def test_batch_at_hand(self) -> None:
        def train(trainer: pl.Trainer, batch: dict) -> None:
            raise KeyError("boxes")

        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1)
        batch = {"targets": [{"file_name": f"/data/{number}.jpg"} for number in range(10)]}
        failure = explain(raised(lambda: train(trainer, batch)))
        assert failure.exit_code == exit_codes.FAILED
        assert failure.message == (
            "KeyError: 'boxes' (after step 0; images 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, 5.jpg, 6.jpg, 7.jpg ...)"
        )

    def test_sample_that_is_being_read(self) -> None:
        class Keyed(Dataset):
            def __getitem__(self, key: SampleKey) -> None:
                raise IndexError("no row")

        def train(batch: dict) -> None:
            list(DataLoader(Keyed(), sampler=[SampleKey(0, 7, False)]))

        failure = explain(raised(lambda: train({"targets": [{"file_name": "done.jpg"}]})))
        assert failure.message == "IndexError: no row (images sample 7)"

    def test_long_foreign_texts_are_cut(self) -> None:
        failure = explain(RuntimeError("First sentence. " + "more words " * 100))
        assert failure.message == "RuntimeError: First sentence"


def test_line_names_the_process() -> None:
    assert Failure("the loss is nan", 4).line() == "error: the loss is nan"
    assert Failure("the loss is nan", 4, rank=3).line() == "error: process 3: the loss is nan"
