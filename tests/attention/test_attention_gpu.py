"""The benchmark for GPUs, as far as it runs without one."""

import json
import sys

import pytest
import torch

from benchmarks import attention_gpu


@pytest.fixture
def benchmark(monkeypatch):
    """Runs the benchmark with options and returns how it ends."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)  # put back afterwards

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["attention_gpu", *options])
        with pytest.raises(SystemExit) as end:
            attention_gpu.main()
        return end.value.code

    return run


@pytest.mark.slow  # of a minute on a GPU the part that a CPU can do: tracing takes seconds
def test_benchmark_runs_dry(benchmark, capsys, monkeypatch):
    monkeypatch.setattr(attention_gpu, "KERNEL", 3)  # 9 shifts are traced sooner than 49
    assert benchmark("--dry", "--json", "--only", "float32") == 0
    goals = json.loads(capsys.readouterr().out)
    assert all(goal["bound"] is None and goal["value"] > 0 for goal in goals)
    for name in ("ELSA sum", "local attention", "halo attention"):
        for part in ("forward", "backward", "forward and backward"):
            assert any(goal["name"].startswith(name) and goal["name"].endswith(f": {part}") for goal in goals)


def test_benchmark_tells_in_one_line_what_it_lacks(benchmark):
    assert benchmark() == "attention_gpu: no CUDA device here; --dry runs the same code on tiny maps on a CPU"
    assert benchmark("--dry", "--save") == "attention_gpu: --save keeps measurements of a GPU; leave --dry away"


def test_benchmark_notices_a_variant_that_computes_something_else():
    weights, values = torch.rand(1, 2, 3, 1, 49), torch.rand(1, 2, 3, 1, 4)
    core = attention_gpu.Core("sum", {"ours": attention_gpu.sum_by_shifts, "wrong": sum_of_twice}, (weights, values))
    with pytest.raises(AssertionError, match="wrong"):
        attention_gpu.check(core)


def sum_of_twice(weights, values):
    return attention_gpu.sum_by_shifts(weights, 2 * values)
