"""`python -m tasks.find lr`: the rates that are taken, what is left as it was, and what is suggested of a curve."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest
import torch

from tasks.built import build
from tasks.find.__main__ import main
from tasks.find.rates import Curve, range_test
from tests.tasks.conftest import DATA, ROOT, SMALL_IMAGES
from tests.tasks.finder_parts import WatchedSGD

Small = Callable[[str], list[str]]


@pytest.fixture
def small(shapes: Path) -> Small:
    """Options that make the quickstart of a task small."""

    def options(task: str) -> list[str]:
        return [
            f"--data.root={shapes / DATA[task]}",
            *SMALL_IMAGES[task],
            "--data.batch_size=4",
            "--data.num_workers=0",
            "--model.backbone.width=0.25",
        ]

    return options


def recipe(task: str) -> str:
    return str(ROOT / "configs" / task / "quickstart.yaml")


def test_groups_keep_their_ratios_and_the_task_its_weights(small: Small, tmp_path: Path) -> None:
    own = [
        "--model.optimizer=tests.tasks.finder_parts.WatchedSGD",
        "--model.optimizer.lr=0.5",
        "--model.parameter_rules.backbone_multiplier=0.1",
        "--trainer.accumulate_grad_batches=2",
        f"--runs={tmp_path}",
    ]
    built = build("detector", ["fit", f"--config={recipe('detect')}", *small("detect"), *own])
    options, before = built.task.options, {name: value.clone() for name, value in built.task.state_dict().items()}
    lost = set(Path(gettempdir()).iterdir())
    WatchedSGD.taken.clear()
    curve = range_test(built, steps=14, least=1e-5, most=1e-2)
    rates = [1e-5, *(1e-5 * 1e3 ** ((step + 1) / 14) for step in range(1, 14))]
    assert curve.rates == pytest.approx(rates) and len(WatchedSGD.taken) == 14
    assert all(math.isfinite(loss) and 1 < loss < 10 for loss in curve.losses)
    for rate, taken in zip(curve.rates, WatchedSGD.taken, strict=True):  # 2 x 4 images are the base_batch_size, 8
        assert {name.partition(",")[0]: value for name, value in taken.items()} == pytest.approx(
            {"backbone": 0.1 * rate, "head": rate}
        )
    after = built.task.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()) and built.task.options is options
    assert not list(tmp_path.iterdir()) and not [*(set(Path(gettempdir()).iterdir()) - lost)]


def test_the_suggestion_is_an_option_of_the_recipe(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "curve.csv"
    main(["lr", recipe("segment"), "--steps=22", "--least=1e-5", "--most=0.1", f"--write={file}", *small("segment")])
    written, option, facts, images = capsys.readouterr().out.splitlines()
    with file.open(newline="") as lines:
        rows = [(float(row["lr"]), float(row["loss"])) for row in csv.DictReader(lines)]
    curve = Curve(*map(list, zip(*rows, strict=True)))
    place = curve.steepest
    assert len(rows) <= 22 and written == f"the curve: {file}, {file.with_suffix('.png')}"
    assert option == f"--model.optimizer.lr {rows[place][0]:.2g}"
    assert facts == (
        f"the loss falls fastest there, at a loss of {curve.means[place]:.3g} (running mean); the recipe has 0.002"
    )
    assert images == (
        "as the rate for 8 images (model.parameter_rules.base_batch_size): steps of 4 images, as here, have 0.5 of it"
    )
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_test_that_diverges_ends_and_suggests_nothing(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["lr", recipe("segment"), "--steps=50", "--least=1e18", "--most=1e36", *small("segment")])
    message = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and message.startswith("error: no rate can be suggested: in ")
    assert int(message.split("in ")[1].split()[0]) < 10


def test_running_mean() -> None:
    rates = [1e-4, 1e-3, 1e-2]
    assert Curve(rates, [3.0, 3.0, 3.0]).means == pytest.approx([3.0, 3.0, 3.0])  # Lightning's begins at half of it
    assert Curve(rates, [5.0, 1.0, 7.0]).means == pytest.approx(
        [5.0, (0.98 * 5 + 1) / 1.98, (0.98**2 * 5 + 0.98 + 7) / (0.98**2 + 0.98 + 1)]
    )


def test_steepest_over_the_logarithm() -> None:
    logarithms = np.linspace(-6, 0, 61)
    means = 3 - np.tanh(2 * (logarithms + 2.5))
    means[12:16] += (1e-2, -1e-2, 1e-2, -1e-2)  # noise of small rates, where a slope over the rate is the steepest
    assert np.gradient(means[10:-1], 10 ** logarithms[10:-1]).argmin() < 10
    curve = of_means(logarithms, means)
    assert curve.rates[curve.steepest] == pytest.approx(10**-2.5)
    broken = Curve(curve.rates, [*curve.losses[:20], *[math.nan] * 41])
    assert 10 <= broken.steepest < 20
    assert of_means(logarithms, np.arange(61.0)).steepest is None
    assert of_means(logarithms[:12], means[:12]).steepest is None  # one point to choose from


def of_means(logarithms: np.ndarray, means: np.ndarray) -> Curve:
    """The curve with these running means."""
    sums = means * (1 - 0.98 ** np.arange(1, len(means) + 1))
    losses = (sums - 0.98 * np.concatenate([[0.0], sums[:-1]])) / 0.02
    return Curve(list(10**logarithms), list(losses))


MISTAKES = {
    "lr nowhere.yaml": "error: there is no nowhere.yaml; give a recipe, or the folder of a run",
    "lr configs/sweeps/two_attentions.yaml": "error: configs/sweeps/two_attentions.yaml is no recipe: its model has",
    "lr RECIPE --lr 0.1": "error: --lr is no option; did you mean --model.optimizer.lr?",
    "lr RECIPE --model.segmentor pspnet": "error: --model.segmentor is an option of tasks.segment",
    "lr RECIPE --ckpt_path last.ckpt": "error: --ckpt_path continues a run; --model.weights begins with the weights",
    "lr RECIPE --least 1 --most 0.1": "error: --least is 1 and --most 0.1, expected 0 < least < most",
    "lr RECIPE --write curve.txt": "error: --write curve.txt: expected a file NAME.csv in a folder that exists",
    "lr RECIPE --steps 12": "error: --steps is '12', expected an integer from 13 on",
    "lr RECIPE --model.optimizer.lr 0": "error: --model.optimizer.lr is 0, expected more",
    "lr --config RECIPE --model.optimizer.lr 0": "error: --model.optimizer.lr is 0, expected more",
    "batch_size RECIPE --first 13": "error: --first is 13, expected at most 12: of 12 images",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(
    line: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shapes").symlink_to(shapes)
    with pytest.raises(SystemExit) as end:
        main(line.replace("RECIPE", "configs/detect/quickstart.yaml").split())
    shown = capsys.readouterr().err
    assert end.value.code == 2 and MISTAKES[line] in shown.splitlines()[-1] and "Traceback" not in shown
