"""Learning rates against their formulas."""

import math

import pytest
import torch

from tasks.schedules import Constant, Cosine, MultiStep, Polynomial, RunLength, Schedule


def rates(build, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule: Schedule = build(optimizer, RunLength(steps, steps_per_epoch=4))
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_constant_with_warmup() -> None:
    found = rates(lambda o, n: Constant(o, n, warmup_steps=4, warmup_factor=0.2), 8)
    assert found == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0])


def test_cosine() -> None:
    found = rates(lambda o, n: Cosine(o, n, final_factor=0.1), 10)
    expected = [2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 10))) for step in range(10)]
    assert found == pytest.approx(expected)


def test_multi_step_is_the_1x_schedule() -> None:
    found = rates(lambda o, n: MultiStep(o, n), 12)
    assert found == pytest.approx([2.0] * 8 + [0.2] * 3 + [0.02])


def test_units_agree() -> None:
    expected = rates(lambda o, n: MultiStep(o, n, milestones=(0.5,)), 16)
    assert expected == pytest.approx([2.0] * 8 + [0.2] * 8)
    assert rates(lambda o, n: MultiStep(o, n, milestones=(2,), unit="epochs"), 16) == expected
    assert rates(lambda o, n: MultiStep(o, n, milestones=(8,), unit="steps"), 16) == expected


def test_warmup_in_epochs_equals_warmup_in_steps() -> None:
    steps = rates(lambda o, n: Cosine(o, n, warmup_steps=6), 12)
    assert rates(lambda o, n: Cosine(o, n, warmup_epochs=1.5), 12) == steps
    assert steps[0] < steps[3] < steps[5]


def test_polynomial_equals_mmsegmentation() -> None:
    """PolyLR of mmengine: (base - eta_min) (1 - t / T) ** power + eta_min."""
    from mmengine.optim import PolyLR

    found = rates(lambda o, n: Polynomial(o, n), 20)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    # mmengine reaches the end one step earlier: its T is end - begin - 1.
    peer = PolyLR(optimizer, eta_min=0.02, power=0.9, begin=0, end=21, by_epoch=False)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        peer.step()
    assert found == pytest.approx(expected)


def test_rate_does_not_rise_again_behind_the_end() -> None:
    schedule = Cosine(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), RunLength(5, 5))
    assert schedule._factor_at(7) == pytest.approx(0.0)
