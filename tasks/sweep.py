"""`python -m tasks.sweep FILE`: the runs of a sweep one after the other, as a Slurm array, or for the agents of W&B.

All three come from the one list in the sweep's file (`configs/sweeps`). Each run has a folder of its own,
`runs/TASK/SWEEP/SETTING-seedSEED`, so that the same command again skips what is finished and continues what was
interrupted, and `python -m tasks.compare runs/TASK/SWEEP` shows the whole sweep.
"""

import shlex
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import yaml

from configs.mistakes import CommandParser, end_with
from configs.version import add_version
from tasks.errors import TaskError
from tasks.near_names import instead
from tasks.recipe_parts import with_files
from tasks.run import exit_codes
from tasks.run.child import run_to_end
from tasks.run.record import read_record
from tasks.sweep_list import Sweep, SweepRun, read_sweep, refuse_own_options

GOES_ON = (exit_codes.FINISHED, exit_codes.NUMBERS)
"""Exit codes of a run behind which the next one starts: losses that are not finite say nothing of the others."""
AT_ONCE = 4
"""Tasks of a Slurm array that run at once."""


def is_finished(folder: Path, arguments: Sequence[str]) -> bool:
    """Whether a run has reached its end under exactly this command; with other options the run itself decides."""
    record = read_record(folder)
    return record is not None and record.status == "finished" and record.command == with_files(arguments)


def run_loop(sweep: Sweep, chosen: Sequence[SweepRun], runs: Path, more: Sequence[str]) -> int:
    """Runs one after the other what is not finished, each in a process of its own.

    Args:
        sweep: The sweep.
        chosen: Its runs that are wanted.
        runs: Folder of all runs.
        more: Further options of all runs.

    Returns:
        Exit code of the run that has ended the loop, or the largest of all.
    """
    worst = exit_codes.FINISHED
    for number, run in enumerate(chosen, 1):
        arguments = sweep.arguments(run, runs, more)
        if is_finished(runs / sweep.task / run.name, arguments):
            _say(f"[{number}/{len(chosen)}] {run.name} is finished")
            continue
        _say(f"[{number}/{len(chosen)}] {_shown(sweep, arguments)}")
        code = run_to_end([sys.executable, "-m", f"tasks.{sweep.task}", *arguments])
        if code not in GOES_ON:
            _say(f"{run.name} has ended with exit code {code}; the same command goes on from there")
            return code
        worst = max(worst, code)
    _say(f"python -m tasks.compare {runs / sweep.task / sweep.name}")
    return worst


def slurm_array(sweep: Sweep, chosen: Sequence[SweepRun], file: Path, runs: Path, more: Sequence[str]) -> str:
    """Writes the file of options for `configs/slurm/array_sweep.sbatch`; gives the command that submits the array.

    Raises:
        TaskError: An option holds a space, at which the script would cut it.
    """
    lines = [sweep.options_of(run, runs, more) for run in chosen]
    for option in chain.from_iterable(lines):
        if len(option.split()) != 1:
            raise TaskError(f"{option!r} cannot stand in a line of {file}, which is cut at spaces; write it without")
    _write(file, "".join(" ".join(line) + "\n" for line in lines))
    script = sweep.config.parent.parent / "slurm" / "array_sweep.sbatch"
    at_once = f"%{AT_ONCE}" if len(lines) > AT_ONCE else ""
    own = [f"--job-name={sweep.name}", f"--array=1-{len(lines)}{at_once}", str(script), str(file), sweep.task]
    return shlex.join(["sbatch", *own, "--config", str(sweep.config)])


def wandb_sweep(sweep: Sweep, chosen: Sequence[SweepRun], source: Path, runs: Path, more: Sequence[str]) -> str:
    """The file for `wandb sweep`: its agents take one run each, through this command, so that names stay the same."""
    words = ["${env}", "${interpreter}", "-m", "${program}", str(source), "--runs", str(runs), *more, "${args}"]
    content = {
        "name": sweep.name,
        "program": "tasks.sweep",
        "method": "grid",
        "parameters": {"only": {"values": [run.label for run in chosen]}},
        "command": words,
    }
    return yaml.safe_dump(content, sort_keys=False, width=120)


def choose(sweep: Sweep, labels: Sequence[str] | None) -> list[SweepRun]:
    """The runs with these labels, all without any.

    Raises:
        TaskError: There is no such run.
    """
    runs = {run.label: run for run in sweep.runs()}
    for label in labels or ():
        if label not in runs:
            raise TaskError(f"--only {label} is no run of {sweep.name}{instead(label, list(runs))}")
    return [runs[label] for label in labels or runs]


def _shown(sweep: Sweep, arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", f"tasks.{sweep.task}", *arguments])


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise TaskError(f"cannot write {file}: {error.strerror}") from error


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m tasks.sweep",
        description="Runs one recipe over several backbones, variants of it (heads, say) and seeds, which a sweep's "
        "file lists: one after the other, skipping what is finished and continuing what was interrupted. Further "
        "options, such as --data.root COCO, go to every run.",
        allow_abbrev=False,
    )
    add_version(parser)
    parser.add_argument("sweep", type=Path, help="a sweep's file, such as configs/sweeps/retinanet_attentions.yaml")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="only these runs, such as resnet50_se-seed0")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--dry-run", action="store_true", help="print the commands and what they cost, and run nothing")
    form.add_argument("--slurm", type=Path, metavar="FILE", help="write the options of a Slurm array, print its sbatch")
    form.add_argument("--wandb", type=Path, metavar="FILE", help="write the file for `wandb sweep`")
    parser.add_argument(
        "--images-per-second",
        nargs="+",
        metavar="[SETTING=]NUMBER",
        help="training images a second and GPU that you have measured, for --dry-run; without it those of the sweep's "
        "own runs are taken",
    )
    return parser


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    parser = _parser()
    options, more = parser.parse_known_args(args)
    parser.refuse_misspelt(more)
    try:
        sweep = read_sweep(options.sweep)
        refuse_own_options(more)
        chosen = choose(sweep, options.only)
        # These import Lightning and both command lines; --help and a mistake in the file need neither.
        from tasks.sweep_cost import describe_cost, parse_rates
        from tasks.sweep_options import check_options

        rates = parse_rates(options.images_per_second or (), sweep)
        check_options(sweep, chosen, options.runs, more)
        if options.slurm:
            _say(slurm_array(sweep, chosen, options.slurm, options.runs, more))
        elif options.wandb:
            _write(options.wandb, wandb_sweep(sweep, chosen, options.sweep, options.runs, more))
            _say(f"wandb sweep {options.wandb}")
        elif options.dry_run:
            for run in chosen:
                _say(_shown(sweep, sweep.arguments(run, options.runs, more)))
            _say("\n" + describe_cost(sweep, chosen, options.runs, more, rates))
        elif code := run_loop(sweep, chosen, options.runs, more):
            sys.exit(code)
    except TaskError as error:
        end_with(error)


if __name__ == "__main__":
    main()
