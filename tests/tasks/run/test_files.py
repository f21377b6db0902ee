"""Files and checkpoints on the disk: whole, whatever happens while they are written."""

import multiprocessing
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.errors import MachineError, TaskError
from tasks.run.checkpoint_files import BEFORE_LAST, LAST, CheckpointFiles
from tasks.run.files import remove_leftovers, write_text, write_whole
from tasks.run.lock import RunLock


def checkpoint(value: float) -> dict:
    return {"state_dict": {"weight": torch.full((1000,), float(value))}, "global_step": int(value)}


def value(path: Path) -> int:
    return CheckpointFiles().load_checkpoint(path)["global_step"]


def test_text_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.json", "1")
    write_text(tmp_path / "a" / "b.json", "2")
    assert [(path.name, path.read_text()) for path in (tmp_path / "a").iterdir()] == [("b.json", "2")]


def test_an_error_leaves_the_old_content(tmp_path: Path) -> None:
    def broken(file) -> None:
        file.write(b"half")
        raise OSError("no more")

    write_text(tmp_path / "a", "old")
    with pytest.raises(OSError, match="no more"):
        write_whole(tmp_path / "a", broken)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.1.tmp").write_text("half")
    (tmp_path / "last.ckpt").write_text("whole")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_one_before_is_kept_of_last_only(tmp_path: Path) -> None:
    files = CheckpointFiles()
    for number in (1, 2, 3):
        files.save_checkpoint(checkpoint(number), tmp_path / LAST)
        files.save_checkpoint(checkpoint(number), tmp_path / "best.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", BEFORE_LAST, LAST]
    assert (value(tmp_path / LAST), value(tmp_path / BEFORE_LAST), value(tmp_path / "best.ckpt")) == (3, 2, 3)


def test_nothing_is_written_into_a_folder_that_another_process_has_taken_over(tmp_path: Path) -> None:
    files = CheckpointFiles()
    files.lock = RunLock(tmp_path)
    files.lock.claim()
    files.save_checkpoint(checkpoint(1), tmp_path / LAST)
    heir = RunLock(tmp_path)
    heir.claim(take_over=True)
    with pytest.raises(MachineError, match="has taken it over"):
        files.save_checkpoint(checkpoint(2), tmp_path / LAST)
    assert value(tmp_path / LAST) == 1
    heir.release()


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of this process may have 10 kB: a write behind them fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    files = CheckpointFiles()
    files.save_checkpoint(checkpoint(1), tmp_path / LAST)
    request.getfixturevalue("small_files")
    with pytest.raises(MachineError, match=rf"cannot write the checkpoint {tmp_path}/last.ckpt: .*; .* is untouched"):
        files.save_checkpoint({"state_dict": {"weight": torch.zeros(100_000)}, "global_step": 2}, tmp_path / LAST)
    assert [path.name for path in tmp_path.iterdir()] == [LAST] and value(tmp_path / LAST) == 1


def test_a_folder_without_permission_is_said() -> None:
    """As another user: root may write everywhere."""
    if os.getuid() != 0:
        pytest.skip("only root can take the place of another user")

    def write_as_another(file: str) -> None:
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(PermissionError):
            write_text(file, "new")

    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        write_text(f"{folder}/a", "old")
        Path(folder).chmod(0o755)
        other = multiprocessing.get_context("fork").Process(target=write_as_another, args=(f"{folder}/a",))
        other.start()
        other.join(60)
        assert other.exitcode == 0
        assert Path(folder, "a").read_text() == "old"


@pytest.mark.parametrize("damage", ["flipped byte", "zeros", "cut"])
def test_damage_is_found_when_a_checkpoint_is_loaded(damage: str, tmp_path: Path) -> None:
    CheckpointFiles().save_checkpoint(checkpoint(1), tmp_path / LAST)
    content = bytearray((tmp_path / LAST).read_bytes())
    middle = content.index(torch.full((1000,), 1.0).numpy().tobytes()) + 2000
    if damage == "flipped byte":
        content[middle] ^= 1
    elif damage == "zeros":
        content[middle : middle + 1000] = bytes(1000)
    else:
        del content[middle:]
    (tmp_path / LAST).write_bytes(content)
    with pytest.raises(TaskError, match="damaged"):
        CheckpointFiles().load_checkpoint(tmp_path / LAST)
