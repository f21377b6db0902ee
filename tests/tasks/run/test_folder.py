"""Where runs go: claimed by one process, found again by the job that goes on."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.errors import TaskError
from tasks.run.folder import Claim, Request, claim_run_folder, evaluation_folder, take_up
from tasks.run.job import Job
from tasks.run.record import RunRecord, read_record
from tasks.run.start import close_record

CONFIG = Path("configs/detect/recipe.yaml")
ALONE = Job()
FIRST_LIFE = Job(scheduler="slurm", key="4711.0", label="4711")
SECOND_LIFE = replace(FIRST_LIFE, restarts=1)


def request(root: Path, **options: object) -> Request:
    return Request("detect", root, **{"config": CONFIG, "command": ("fit",), **options})  # type: ignore[arg-type]


def claim(root: Path, job: Job = ALONE, ends: bool = True, **options: object) -> Claim:
    """Claims a folder; by default the process that has it ends at once."""
    found = claim_run_folder(request(root, **options), job)
    if found.found is not None:
        take_up(found, job)
    if ends:
        found.lock.release()
    return found


def test_named_by_the_config_and_numbered(tmp_path: Path) -> None:
    names = [claim(tmp_path).folder.name for _ in range(3)]
    assert names == ["recipe", "recipe-2", "recipe-3"]
    assert claim(tmp_path, name="mine").folder == tmp_path / "detect" / "mine"
    assert claim(tmp_path, name="mine").folder == tmp_path / "detect" / "mine-2"


def test_a_saved_configuration_names_its_run(tmp_path: Path) -> None:
    run = claim(tmp_path).folder
    saved = run / "config.fit.yaml"
    assert claim(tmp_path, config=saved, resume="auto").folder == run
    assert claim(tmp_path, config=saved).folder == tmp_path / "detect" / "recipe-2"
    assert evaluation_folder(request(tmp_path, config=saved), ALONE) == run


def test_a_checkpoint_leads_to_its_run(tmp_path: Path) -> None:
    checkpoint = tmp_path / "detect" / "other" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    assert claim(tmp_path, checkpoint=checkpoint).folder == tmp_path / "detect" / "other"
    assert claim(tmp_path, checkpoint=checkpoint, name="mine").folder == tmp_path / "detect" / "mine"
    assert evaluation_folder(request(tmp_path, checkpoint=checkpoint), ALONE) == tmp_path / "detect" / "other"
    assert evaluation_folder(request(tmp_path), ALONE) == tmp_path / "detect" / "recipe"


class TestResume:
    def test_auto_takes_the_run_of_this_name_and_begins_one_where_there_is_none(self, tmp_path: Path) -> None:
        assert claim(tmp_path, resume="auto").found is None
        again = claim(tmp_path, resume="auto")
        assert again.found is not None and again.folder.name == "recipe"
        assert claim(tmp_path, resume="never").folder.name == "recipe-2"

    def test_auto_leaves_a_living_run_alone(self, tmp_path: Path) -> None:
        living = claim(tmp_path, ends=False)
        assert claim(tmp_path, resume="auto").folder.name == "recipe-2"
        living.lock.release()

    def test_must_needs_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(TaskError, match=r"--resume must: there is no run in .*recipe"):
            claim(tmp_path, resume="must")
        living = claim(tmp_path, ends=False)
        with pytest.raises(TaskError, match=r"process \d+ on .* is running .*recipe; wait"):
            claim(tmp_path, resume="must")
        with pytest.raises(TaskError, match="give this run a --name"):
            claim(tmp_path, checkpoint=living.folder / "checkpoints" / "last.ckpt")
        living.lock.release()


class TestJobs:
    def test_a_requeued_job_finds_its_own_run_whatever_its_name(self, tmp_path: Path) -> None:
        claim(tmp_path, name="mine")  # somebody else's
        own = claim(tmp_path, FIRST_LIFE, name="mine").folder
        assert own.name == "mine-2"
        again = claim(tmp_path, SECOND_LIFE, name="mine")
        assert again.folder == own and again.found is not None
        assert read_record(own).restarts == 1

    def test_without_a_name_the_job_names_it(self, tmp_path: Path) -> None:
        assert claim(tmp_path, FIRST_LIFE).folder.name == "recipe-4711"
        assert claim(tmp_path, replace(FIRST_LIFE, key="4711_3.0", label="4711_3")).folder.name == "recipe-4711_3"

    def test_two_fits_in_one_allocation_have_folders_of_their_own_before_and_after_a_requeue(
        self, tmp_path: Path
    ) -> None:
        steps = FIRST_LIFE, replace(FIRST_LIFE, key="4711.1")
        before = [claim(tmp_path, job).folder.name for job in steps]
        assert before == ["recipe-4711", "recipe-4711-2"]
        after = [claim(tmp_path, replace(job, restarts=1)).folder.name for job in reversed(steps)]
        assert after == before[::-1]

    def test_equal_commands_of_a_batch_script_keep_their_order(self, tmp_path: Path) -> None:
        shell = replace(FIRST_LIFE, key="4711.shell")
        before = [claim(tmp_path, shell).folder.name for _ in range(2)]
        after = [claim(tmp_path, replace(shell, restarts=1)).folder.name for _ in range(3)]
        assert after == [*before, "recipe-4711-3"]

    def test_another_command_of_the_same_job_is_another_run(self, tmp_path: Path) -> None:
        claim(tmp_path, FIRST_LIFE, command=("fit", "--a"))
        assert claim(tmp_path, SECOND_LIFE, command=("fit", "--b")).found is None

    def test_the_requeued_job_takes_over_from_a_task_that_lives_on(self, tmp_path: Path) -> None:
        lost = claim(tmp_path, FIRST_LIFE, ends=False)
        again = claim(tmp_path, SECOND_LIFE, ends=False)
        assert again.folder == lost.folder
        with pytest.raises(Exception, match="has taken it over; nothing more is written"):
            lost.lock.require()
        again.lock.require()
        again.lock.release()

    def test_a_foreign_run_of_the_same_name_is_not_taken_by_a_restart(self, tmp_path: Path) -> None:
        claim(tmp_path, name="mine")
        assert claim(tmp_path, SECOND_LIFE, name="mine").folder.name == "mine-2"


def test_only_a_folder_that_the_claim_has_made_may_go_again(tmp_path: Path) -> None:
    assert claim(tmp_path).is_made
    (tmp_path / "detect" / "recipe-2" / "predictions").mkdir(parents=True)  # of `predict --name recipe-2`
    beside = claim(tmp_path)
    assert beside.folder.name == "recipe-2" and beside.found is None and not beside.is_made


def test_a_start_that_saves_nothing_leaves_the_step_of_the_record(tmp_path: Path) -> None:
    RunRecord(step=7, epoch=2).write(tmp_path)
    close_record(tmp_path, "failed", None, {}, "lost")
    assert read_record(tmp_path) == RunRecord(step=7, epoch=2, status="failed", reason="lost")
    close_record(tmp_path, "stopped", (9, 3), {"val/mAP": 0.5})
    assert read_record(tmp_path) == RunRecord(step=9, epoch=3, status="stopped", score={"val/mAP": 0.5})


def test_starts_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # has all imports already, so that the starts really coincide
    together, names, over = context.Barrier(4), context.Queue(), context.Event()

    def start() -> None:
        together.wait(60)
        claim = claim_run_folder(Request("detect", tmp_path, "same"), Job())
        names.put(claim.folder.name)
        over.wait(60)
        claim.lock.release()

    starts = [context.Process(target=start) for _ in range(4)]
    for process in starts:
        process.start()
    assert sorted(names.get(timeout=60) for _ in starts) == ["same", "same-2", "same-3", "same-4"]
    over.set()
    for process in starts:
        process.join(60)
        assert process.exitcode == 0


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    RunRecord(command=["fit"], score={"val/mAP": 0.5}).write(tmp_path)
    assert read_record(tmp_path) == RunRecord(command=["fit"], score={"val/mAP": 0.5})
    for content in ("", "{", json.dumps({"unknown": 1}), "[]"):
        (tmp_path / "run.json").write_text(content)
        assert read_record(tmp_path) is None
