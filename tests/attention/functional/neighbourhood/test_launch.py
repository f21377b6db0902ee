"""The Triton kernels: run by Triton's interpreter on a CPU, compiled for GPUs that are not there, run on one that is.

The interpreter has to be switched on before Triton is imported, so all interpreted cases run in one process of their
own: this file, run as a script. It executes the kernels as written, with numpy in the place of hardware: wrong indices,
masks and offsets show, races and the hardware's rounding do not.
"""

import json
import os
import subprocess
import sys
import types
import warnings
from dataclasses import asdict, dataclass

import pytest
import torch

from attention.functional.neighbourhood import launch, operators, shifts

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest error of a sum that is rounded once, per unit of its terms' magnitude."""


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison."""

    height: int = 5
    width: int = 9
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    heads: int = 1
    channels: int = 5
    batch: int = 1
    dtype: str = "float32"
    views: str = ""
    weights: str = ""

    def __str__(self):
        """Name of the test."""
        return "-".join(f"{name}={value}" for name, value in asdict(self).items() if value != getattr(Case, name))


CASES = [
    Case(1, 1),
    Case(1, 7),
    Case(7, 1, kernel_size=5),
    Case(kernel_size=1),
    Case(3, kernel_size=5),
    Case(4, kernel_size=7),
    Case(4, 8, kernel_size=9),
    Case(4, 7, stride=2),
    *(Case(3, 5, stride=stride, dilation=dilation) for stride, dilation in ((1, 2), (2, 3))),
    Case(2, 17, dilation=2),
    Case(4, 17, kernel_size=5, stride=6, dilation=4),
    Case(10, 4, kernel_size=5, stride=3),
    Case(2, 5, heads=3, batch=2, channels=16),
    Case(4, 3, channels=70),
    Case(4, 3, heads=2, batch=2, stride=2, views="channels_last"),
    Case(4, 3, heads=2, views="channels_first"),
    Case(4, 9, dtype="bfloat16", channels=32),
    Case(4, 9, dtype="float16", views="channels_last"),
    Case(4, 9, dtype="float16", weights="float32"),
]
MORE = [
    *(Case(kernel_size=kernel_size) for kernel_size in (5, 7)),
    *(Case(4, 7, stride=stride, dilation=dilation) for stride, dilation in ((1, 2), (2, 3), (3, 2))),
    Case(5, 9, stride=2),
    Case(3, 17, dilation=2),
    Case(5, 17, kernel_size=5, stride=6, dilation=4),
    Case(3, 25, dilation=3),
    Case(heads=3, batch=2, height=4, channels=16),
]
"""Of the same kinds, and slower: larger maps."""
LARGE = [
    Case(37, 45, 7, heads=3, channels=32, batch=2, dtype=dtype, views=views, stride=stride, dilation=dilation)
    for dtype in ("float32", "bfloat16", "float16")
    for views in ("", "channels_last", "channels_first")
    for stride, dilation in ((1, 1), (2, 1), (1, 3))
] + [Case(37, 45, 7, heads=3, channels=32, dtype=dtype, weights="float32") for dtype in ("bfloat16", "float16")]
LARGE += [Case(4, 7), Case(4, 9, kernel_size=11), Case(4, 3, heads=2, batch=2, views="channels_last")]
OPERATORS = ("weighted_sum", "inner_products", "scatter")


def tensors(case, device):
    """Weights, queries and values."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(-(-case.height // case.stride), -(-case.width // case.stride))] * 2 + [(case.height, case.width)]
    widths = [case.kernel_size**2, case.channels, case.channels]
    if not case.views:
        shapes = [(case.batch, *size, case.heads, width) for size, width in zip(sizes, widths, strict=True)]
        return [torch.randn(shape, generator=generator).to(device, getattr(torch, case.dtype)) for shape in shapes]
    parts = []
    for (rows, columns), width in zip(sizes, widths, strict=True):
        # The last of three groups of channels, as in the output of a convolution to queries, keys and values.
        x = torch.randn(case.batch, 3 * case.heads * width, rows, columns, generator=generator)
        x = x.to(device, getattr(torch, case.dtype), memory_format=getattr(torch, case.views, torch.contiguous_format))
        parts.append(x.permute(0, 2, 3, 1)[..., 2 * case.heads * width :].unflatten(3, (case.heads, width)))
        assert not parts[-1].is_contiguous()
    return parts


def errors(case, device):
    """Largest error of each of the three functions against plain PyTorch in float64, in units of the tolerance."""
    weights, queries, values = tensors(case, device)
    if case.weights:
        weights = weights.to(getattr(torch, case.weights))
    precise = [x.double() for x in (weights, queries, values)]
    magnitudes = [x.abs() for x in precise]
    dtype = getattr(torch, case.dtype)
    found = {}
    for name, function, slow in (
        (
            "weighted_sum",
            lambda w, q, v: launch.weighted_sum(w, v, case.stride, case.dilation),
            lambda w, q, v: shifts.weighted_sum(w, v, case.stride, case.dilation),
        ),
        (
            "inner_products",
            lambda w, q, v: launch.inner_products(q, v, case.kernel_size, case.stride, case.dilation),
            lambda w, q, v: shifts.inner_products(q, v, case.kernel_size, case.stride, case.dilation),
        ),
        (
            "scatter",
            lambda w, q, v: launch.scatter(w, q, *v.shape[1:3], case.stride, case.dilation),
            lambda w, q, v: launch._scatter_by_shifts(w, q, *v.shape[1:3], case.stride, case.dilation),
        ),
    ):
        out, expected = function(weights, queries, values), slow(*precise)
        assert (out.dtype, out.shape) == (dtype, expected.shape)
        assert out.is_contiguous()
        allowed = TOLERANCE[dtype] * slow(*magnitudes).clamp(min=1)
        found[name] = ((out.double() - expected).abs() / allowed).nan_to_num(torch.inf).max().item()
    return found


def far_apart():
    """Error of a sum over values whose rows are 2^29 elements apart: offsets beyond 32 bits."""
    storage = torch.empty(5 * 2**29 + 64, dtype=torch.float16)
    values = storage.as_strided((1, 5, 2, 1, 4), (0, 2**29, 4, 4, 1))
    values.copy_(torch.randn(values.shape))
    weights = torch.randn(1, 5, 2, 1, 9).half()
    out = launch.weighted_sum(weights, values, 1, 1)
    expected = shifts.weighted_sum(weights.double(), values.double(), 1, 1)
    return ((out.double() - expected).abs() / TOLERANCE[torch.float16] / 9).max().item()


def signature(arguments, constants, unspecialised, names):
    """Types, constants and known divisors of a kernel's arguments, as a launch with these arguments derives them."""
    kinds = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
    types_, attributes = dict.fromkeys(constants, "constexpr"), {}
    for index, (name, value) in enumerate(zip(names, arguments, strict=False)):
        types_[name] = kinds[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        if name not in unspecialised and (isinstance(value, torch.Tensor) or value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    values = {(names.index(name),): value for name, value in constants.items()}
    return {name: types_[name] for name in names}, values, attributes


def shared_memory(cases, capabilities):
    """Shared memory of every kernel that the cases launch, in bytes, compiled for GPUs that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from attention.functional.neighbourhood import triton_kernels

    launch.available = lambda device: True  # this process does nothing else
    kernels = {name: getattr(triton_kernels, name) for name in ("sum_kernel", "products_kernel", "scatter_kernel")}
    unspecialised = triton_kernels.SIZES + triton_kernels.WEIGHTS
    compiled = {}
    for case in cases:
        launches = {}
        for name in kernels:
            setattr(triton_kernels, name, Recorder(name, launches))
        weights, queries, values = tensors(case, "cpu")
        launch.weighted_sum(weights, values, case.stride, case.dilation)
        launch.inner_products(queries, values, case.kernel_size, case.stride, case.dilation)
        launch.scatter(weights, queries, case.height, case.width, case.stride, case.dilation)
        for name, (arguments, constants) in launches.items():
            options = {"num_warps": constants.pop("num_warps")}
            constants["COMPUTE"] = triton_kernels.DTYPES[weights.dtype]  # wider for bfloat16 on a CPU
            constants["SPLIT"] = weights.dtype == torch.float32
            parameters = kernels[name].arg_names
            source = ASTSource(kernels[name], *signature(arguments, constants, unspecialised, parameters))
            for capability in capabilities:
                result = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
                assert result.asm["cubin"]
                compiled[f"{case} {name} sm_{capability}"] = result.metadata.shared
    return compiled


class Recorder:
    """Stands in for a kernel and notes down what it is launched with."""

    def __init__(self, name, launches):
        self.name, self.launches = name, launches

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, **constants):
        self.launches[self.name] = arguments, constants


def in_fresh_process(*arguments, **environment):
    """What this file prints as a script."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", **environment}
    answer = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def interpreted():
    pytest.importorskip("triton")
    return in_fresh_process("interpret", TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def more_interpreted():
    pytest.importorskip("triton")
    return in_fresh_process("interpret", "more", TRITON_INTERPRET="1")


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_interpreted(case, operator, interpreted):
    outcome = interpreted[str(case)]
    assert isinstance(outcome, dict), outcome
    assert outcome[operator] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE, ids=str)
def test_more_interpreted(case, more_interpreted):
    outcome = more_interpreted[str(case)]
    assert isinstance(outcome, dict), outcome
    assert max(outcome.values()) <= 1


def test_offsets_beyond_32_bits(interpreted):
    if interpreted["far apart"] is None:
        pytest.skip("the system does not reserve 5 GB of address space")
    assert interpreted["far apart"] <= 1


def can_compile():
    triton = pytest.importorskip("triton")
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 4):
        pytest.skip("this release of Triton compiles for absent GPUs through another interface")


def test_kernels_compile_for_a_gpu(tmp_path):
    can_compile()
    compiled = in_fresh_process("compile", TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert len(compiled) == 6


@pytest.mark.slow
def test_kernels_fit_into_every_supported_gpu(tmp_path):
    can_compile()
    compiled = in_fresh_process("compile", "all", TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert max(compiled.values()) <= 99 * 1024  # the least of capabilities from 8.0 on


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_gpu
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", CASES + MORE + LARGE, ids=str)
def test_on_a_gpu(case, operator):
    assert launch.available(torch.device("cuda"))
    assert errors(case, "cuda")[operator] <= 1


@needs_gpu
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_gradients_on_a_gpu(stride, dilation):
    weights, queries, values = tensors(Case(13, 21, 5, stride, dilation, 2, 24, 2), "cpu")

    def loss(weights, queries, values):
        products = operators.neighbourhood_products(queries, values, 5, stride, dilation)
        summed = operators.neighbourhood_sum(products.softmax(-1) * weights, values, stride, dilation)
        return summed.square().sum()

    inputs = [x.double().requires_grad_() for x in (weights, queries, values)]
    expected = torch.autograd.grad(loss(*inputs), inputs)
    inputs = [x.cuda().requires_grad_() for x in (weights, queries, values)]
    for gradient, correct in zip(torch.autograd.grad(loss(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(gradient.double().cpu(), correct, rtol=1e-4, atol=1e-4)


@needs_gpu
def test_every_run_gives_the_same_bits_on_a_gpu():
    weights, queries, _ = tensors(LARGE[0], "cuda")
    first, second = (launch.scatter(weights, queries, 37, 45, 1, 1) for _ in range(2))
    assert torch.equal(first, second)


@pytest.fixture
def fresh():
    """Forgets whether Triton is there, before and after."""
    for function in (launch.available, launch._starts):
        function.cache_clear()
    yield
    for function in (launch.available, launch._starts):
        function.cache_clear()


def test_without_triton_all_runs_in_plain_pytorch(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, "attention.functional.neighbourhood.triton_kernels", raising=False)
    assert not launch.available(torch.device("cuda"))
    assert not launch.available(torch.device("cpu"))
    for case in (Case(stride=2, dilation=3), Case(dtype="bfloat16", channels=32), Case(dtype="float16")):
        assert max(errors(case, "cpu").values()) <= 1
    assert "attention.functional.neighbourhood.triton_kernels" not in sys.modules


def test_a_triton_that_does_not_start_is_left_alone(fresh, monkeypatch):
    class Broken:
        def get_current_device(self):
            raise RuntimeError("Failed to find C compiler")

    triton = types.ModuleType("triton")
    triton.runtime = types.SimpleNamespace(driver=types.SimpleNamespace(active=Broken()))
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.warns(UserWarning, match="does not start.*C compiler"):
        assert not launch.available(torch.device("cuda"))
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        assert not launch.available(torch.device("cuda", 0))


def test_float64_runs_in_plain_pytorch():
    weights, _, values = (x.double() for x in tensors(Case(), "cpu"))
    expected = shifts.weighted_sum(weights, values, 1, 1)
    assert not launch._by_kernel(weights, values)
    assert torch.equal(launch.weighted_sum(weights, values, 1, 1), expected)


def interpret(cases):
    """Outcome of every case."""
    outcomes = {}
    for case in cases:
        try:
            outcomes[str(case)] = errors(case, "cpu")
        except Exception as error:
            outcomes[str(case)] = repr(error)
    if cases is MORE:
        return outcomes
    try:
        outcomes["far apart"] = far_apart()
    except RuntimeError:  # of the allocation
        outcomes["far apart"] = None
    return outcomes


if __name__ == "__main__":
    if sys.argv[1] == "interpret":
        assert launch.available(torch.device("cpu"))
        outcomes = interpret(MORE if "more" in sys.argv else CASES)
    else:
        # Every shift of a neighbourhood is code of its own: 3 x 3 of them compile in a fraction of the time of 7 x 7.
        cases = [Case(16, 16, 3, channels=32, heads=2, dtype=dtype) for dtype in ("float32", "bfloat16")]
        if "all" in sys.argv:
            cases += [
                Case(16, 16, kernel_size, stride, dilation, 2, channels, dtype=dtype)
                for dtype in ("float32", "bfloat16", "float16")
                for kernel_size, stride, dilation, channels in (
                    (7, 1, 1, 32),
                    (7, 1, 1, 64),
                    (7, 1, 1, 300),
                    (13, 1, 2, 64),
                    (3, 2, 1, 8),
                    (5, 3, 2, 24),
                    (21, 2, 1, 64),
                )
            ]
        outcomes = shared_memory(cases, (80, 90) if "all" in sys.argv else (80,))
    sys.stdout.write(json.dumps(outcomes))
