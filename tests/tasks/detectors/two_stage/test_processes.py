"""One and two processes with the same images have the same losses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.detectors.two_stage import detector as detector_module
from tasks.detectors.two_stage import rpn as rpn_module
from tests.tasks.detectors.two_stage.small import BUILDERS, small_batch, spread

ROOT = Path(__file__).parents[4]


def part(batch: dict, image: int) -> dict:
    """One image of a batch."""
    return {key: value[image : image + 1] for key, value in batch.items()}


def test_shares_of_a_batch_average_to_its_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process divides by the mean of all numbers, which are noted in a first pass over the images."""
    torch.manual_seed(0)
    model, batch = BUILDERS["cascade_mask"]().eval(), small_batch()
    spread(model)
    model.training = True
    numbers: list[list[float]] = []

    def note(count: Tensor) -> Tensor:
        numbers[-1].append(float(count))
        return count.float()

    def look_up(count: Tensor) -> Tensor:
        return torch.tensor(means.pop(0))

    with torch.no_grad():
        expected = model(batch)
        for module in (rpn_module, detector_module):
            monkeypatch.setattr(module, "reduce_mean", note)
        for image in (0, 1):
            numbers.append([])
            model(part(batch, image))
        assert len(numbers[0]) == len(numbers[1]) == 7  # proposals, and boxes and masks of three stages
        for module in (rpn_module, detector_module):
            monkeypatch.setattr(module, "reduce_mean", look_up)
        shares = []
        for image in (0, 1):
            means = [(one + other) / 2 for one, other in zip(*numbers, strict=True)]
            shares.append(model(part(batch, image)))
    for key, value in expected.items():
        torch.testing.assert_close((shares[0][key] + shares[1][key]) / 2, value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask", "mask_torchvision", "cascade_mask"])
def test_ten_steps_of_two_processes(name: str, tmp_path: Path) -> None:
    """Real processes (gloo), DistributedDataParallel, norms frozen; in float64, where rounding cannot hide a defect.

    In float32 both differ by the order of their sums alone: 1e-7 at the first step, up to 2e-4 at the tenth.
    """
    found = {}
    for processes in (1, 2):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WORLD_SIZE": str(processes)}
        running = [
            subprocess.Popen(
                [sys.executable, __file__, name, str(tmp_path / f"meeting_{processes}"), str(tmp_path)],
                env=environment | {"RANK": str(rank)},
            )
            for rank in range(processes)
        ]
        assert [process.wait(timeout=600) for process in running] == [0] * processes
        steps = [json.loads((tmp_path / f"{processes}_{rank}.json").read_text()) for rank in range(processes)]
        found[processes] = [
            {key: sum(losses[key] for losses in of_step) / processes for key in of_step[0]}
            for of_step in zip(*steps, strict=True)
        ]
    assert len(found[1]) == len(found[2]) == 10
    for one, two in zip(found[1], found[2], strict=True):
        assert two == {key: pytest.approx(value, rel=1e-9) for key, value in one.items()}
    first, last = (sum(found[1][step].values()) for step in (0, 9))
    assert last < 0.95 * first


def train(name: str, meeting: str, folder: Path) -> None:
    """Ten steps of this process; writes the losses of every step."""
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=processes)
    torch.manual_seed(0)
    model = BUILDERS[name]().double().eval()
    model.training = True  # norms stay in evaluation mode
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)
    history = []
    for step in range(10):
        batch = small_batch()
        for target in batch["targets"]:
            target["boxes"] = target["boxes"].double()
        batch["keys"] = [key._replace(epoch=step) for key in batch["keys"]]
        losses = parallel(batch if processes == 1 else part(batch, rank))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({key: value.item() for key, value in losses.items()})
    (folder / f"{processes}_{rank}.json").write_text(json.dumps(history))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
