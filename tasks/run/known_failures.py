"""What PyTorch, Lightning and the operating system say when a run fails, and what the user is told instead.

They are told apart by their text: a loader process hands on nothing else, and C++ knows no classes of errors.
"""

from dataclasses import dataclass

from tasks.run import exit_codes


@dataclass(frozen=True)
class KnownFailure:
    """A failure that PyTorch, Lightning or the operating system reports.

    Attributes:
        pattern: What `TYPE: TEXT` of the exception matches.
        message: What is said; `{0}` is the first group of the pattern.
        exit_code: The exit code.
        is_echo: As in `Failure`.
    """

    pattern: str
    message: str
    exit_code: int = exit_codes.MACHINE
    is_echo: bool = False


SMALLER = "lower --data.batch_size (--trainer.accumulate_grad_batches keeps the step as large) or the image size"

MEMORY_FAILURES = (
    KnownFailure(
        r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED",
        f"the GPU's memory is full: {SMALLER}, or try --trainer.precision bf16-mixed or --model.backbone.checkpointing "
        "true",
    ),
    KnownFailure(
        r"^[\w.]*MemoryError|DefaultCPUAllocator: (?:can't allocate|not enough) memory|Errno 12\]",
        f"the machine's memory is full: lower --data.num_workers, {SMALLER}, or ask the cluster for more",
    ),
)

KNOWN_FAILURES = (
    *MEMORY_FAILURES,
    KnownFailure(
        r"DataLoader worker.*signal: Bus error|unable to (?:write to file|mmap|open shared memory)|/dev/shm",
        "a loader process found no room in shared memory (/dev/shm): lower --data.num_workers or --data.batch_size, or "
        "give the container more (docker run --shm-size=8g)",
    ),
    KnownFailure(
        r"DataLoader worker \(pid (\d+)\) is killed by signal: Killed",
        "loader process {0} was killed, most likely because the machine's memory is full: lower --data.num_workers or "
        "--data.batch_size, or ask the cluster for more",
    ),
    KnownFailure(
        r"DataLoader worker \(pid (\d+\) is killed by signal: [\w ]+)",
        "a loader process has died (pid {0}); --data.num_workers 0 shows where",
    ),
    KnownFailure(
        r"DataLoader worker \(pid\(s\) ([\d, ]+)\) exited",
        "a loader process has died (pid {0}); --data.num_workers 0 shows where",
    ),
    KnownFailure(
        r"Expected more than 1 value per channel when training, got input size (.*)",
        "batch normalisation got one value per channel ({0}): use a --data.batch_size of at least 2 per process, or "
        "larger images",
        exit_codes.MISTAKE,
    ),
    KnownFailure(
        r"Errno (?:28|122)\] (.*)|(PytorchStreamWriter failed writing[^.]*)|(unexpected pos \d+ vs)",
        "the disk or the quota is full ({0}): make room and continue the run; its checkpoints are intact",
    ),
    KnownFailure(
        r"Errno (?:13|1|30)\] (.*)",
        "no permission ({0}): see who owns the folder and how it is mounted; the run's checkpoints are intact",
    ),
    KnownFailure(
        r"Errno (?:5|116|121)\] (.*)", "the file system has failed ({0}): see whether its server is up, and continue"
    ),
    KnownFailure(
        r"Too many open files|received 0 items of ancdata",
        "too many open files: raise the limit (ulimit -n 65536) or lower --data.num_workers",
    ),
    KnownFailure(
        r"port: (\d+).*EADDRINUSE|(Address already in use)",
        "another job listens at the port ({0}): choose a free one (export MASTER_PORT=29511)",
    ),
    KnownFailure(
        r"client socket has (?:timed out|failed).*?\((.+?)\)",
        "process 0 was not reached at {0}: see that every process of the job was started, and MASTER_ADDR",
    ),
    KnownFailure(
        r"Dist(?:Backend|Network|Store)Error|NCCL error|nccl\w*Error|Watchdog caught collective"
        r"|gloo.*(?:[Cc]onnect|[Tt]imed out|[Ss]ocket|Broken pipe)",
        "another process of this job has ended or cannot be reached",
        is_echo=True,
    ),
    KnownFailure(
        r"^ModuleNotFoundError: (?!No module named '(?:attention|backbones|datamodules|tasks)\b)(.*)",
        "{0}; install it into this environment, or choose another class",
        exit_codes.MISTAKE,
    ),
    KnownFailure(r"^[\w.]*MisconfigurationException: (.*)", "{0}", exit_codes.MISTAKE),
    KnownFailure(r"^RuntimeError: (Early stopping conditioned on metric .*)", "{0}", exit_codes.MISTAKE),
    KnownFailure(
        r"`val_check_interval` \((\d+)\) must be less than or equal to the number of the training batches",
        "--trainer.val_check_interval {0} is more batches than an epoch has; to count on over epochs add "
        "--trainer.check_val_every_n_epoch null",
        exit_codes.MISTAKE,
    ),
    KnownFailure(
        r"^ValueError: (Invalid (?:learning rate|weight_decay|momentum|beta|epsilon|alpha)[\w ]*: .*)",
        "{0}; see --model.optimizer.help CLASS for what the optimiser takes",
        exit_codes.MISTAKE,
    ),
)
"""Looked through in this order."""
