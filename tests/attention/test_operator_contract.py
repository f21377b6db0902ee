"""What every operator promises, whatever its family: copies, precision, compilation, export, several processes."""

import copy
import inspect
import time

import pytest
import torch
import torch.multiprocessing as mp

from attention import overview
from tests.attention.distributed_gradients import double_inputs, loss, save_gradients
from tests.attention.operators import (
    MIXERS,
    OTHERS,
    REFINEMENTS,
    Case,
    arguments,
    every_device,
    every_operator,
    make_inputs,
    make_operator,
    variants,
)

EXPORTED_AT, RUN_AT = (6, 10), (13, 7)
CASES = [*REFINEMENTS, *MIXERS, *OTHERS]
CLASSES: dict[type, list[Case]] = {}
"""Cases by the class of their operator."""
for _case in CASES:
    CLASSES.setdefault(type(make_operator(_case, randomise=False)), []).append(_case)
LATER = {  # traced among slow tests only: an operator of the same functions is traced in every run
    "axial": "channelized-axial",
    "bam": "cbam",
    "identity-start": "cbam",
    "stand-alone": "elsa",
    "attention-stem": "elsa",
    "content-relative": "quadratic",
    "learned-relative": "quadratic",
    "vanilla-attention": "test_lavit.py",
    "less-attention": "test_lavit.py",
}
first_cases = pytest.mark.parametrize(  # tracing takes seconds: one case of a class, the others among slow tests
    "case",
    [
        pytest.param(case, marks=() if case is cases[0] and case.name not in LATER else pytest.mark.slow, id=case.name)
        for cases in CLASSES.values()
        for case in cases
    ],
)


@pytest.mark.parametrize("found", overview.operators(), ids=lambda found: found.__name__)
def test_every_operator_is_tested_and_documented(found):
    """It has a case, and a docstring that `attention.overview` and the command line understand."""
    page = overview.describe(found)
    for name in inspect.signature(found).parameters:
        assert name in page.arguments, f"the docstring of {found.__name__} has no {name} under Args:"
    assert found in CLASSES, f"{found.__name__} has no case in tests/attention/cases"


def test_names_of_cases_are_unique():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


def backward(operator, inputs, out=None):
    """Output and gradients of a number that depends on every output."""
    out = operator(*inputs) if out is None else out
    leaves = [value for value in (*inputs, *operator.parameters()) if value.requires_grad]
    return out, torch.autograd.grad(
        out.float().square().sum() if out.dtype.itemsize < 4 else out.square().sum(), leaves
    )


def moved(inputs, device="cpu", dtype=None):
    return tuple(value.detach().to(device, dtype).requires_grad_() for value in inputs)


def same(found, expected, tolerance=None):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@every_operator
def test_copies_and_saved_weights_compute_the_same_in_double_precision(case):
    operator = make_operator(case).double()
    inputs = moved(make_inputs(case, 5, 6), dtype=torch.float64)
    expected = operator(*inputs)
    assert expected.dtype == torch.float64
    twin = copy.deepcopy(operator)
    with torch.random.fork_rng():
        torch.manual_seed(5)  # what starts randomly and is not saved would differ
        other = case.make(*arguments(case)).double()
    other.load_state_dict(operator.state_dict())
    for module in (twin, other):
        same(module(*inputs), expected, 1e-12)
    assert {id(value) for value in twin.parameters()}.isdisjoint({id(value) for value in operator.parameters()})
    single = make_operator(case)(*make_inputs(case, 5, 6))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), rtol=1e-3, atol=1e-3)


@every_operator
def test_gradients_reach_inputs_and_parameters_at_every_stride(case):
    for given in variants(case):
        operator = make_operator(case, *given).double()
        inputs = moved(make_inputs(case, 7, 6), dtype=torch.float64)
        operator(*inputs).square().sum().backward()
        for name, value in [*enumerate(inputs), *operator.named_parameters()]:
            if str(name).endswith(case.zero_gradient or " "):
                continue
            assert value.grad is not None, f"{name} has no part in the output"
            assert value.grad.isfinite().all() and value.grad.any(), f"the gradient of {name} is zero or not finite"


@every_operator
def test_gradients_are_those_of_differences_in_double_precision(case):
    """Along one random direction of all inputs and parameters; a part in single precision would be 1e-2 off."""
    for given in variants(case):
        operator = make_operator(case, *given).double()
        leaves = [*moved(make_inputs(case, 7, 6), dtype=torch.float64), *operator.parameters()]
        inputs = leaves[: len(leaves) - len(list(operator.parameters()))]
        _, gradients = backward(operator, inputs)
        generator = torch.Generator().manual_seed(2)
        direction = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in leaves]
        sums = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                torch._foreach_add_(leaves, direction, alpha=step)
                sums.append(operator(*inputs).square().sum())
        slope = sum((x * y).sum() for x, y in zip(gradients, direction, strict=True))
        torch.testing.assert_close((sums[0] - sums[1]) / 2e-5, slope, rtol=1e-4, atol=1e-4)


@every_operator
def test_samples_do_not_see_each_other_in_evaluation(case):
    operator = make_operator(case).double().eval()
    inputs = moved(make_inputs(case, 5, 6), dtype=torch.float64)
    alone = [operator(*(value[i : i + 1] for value in inputs)) for i in range(2)]
    same(operator(*inputs), torch.cat(alone), 1e-10)


@every_device
@every_operator
def test_channels_last_gives_the_same_values(case, device):
    for given in variants(case):
        operator = make_operator(case, *given).double().to(device)
        first = moved(make_inputs(case, 5, 6), device, torch.float64)
        last = tuple(
            value.detach().contiguous(memory_format=torch.channels_last if value.ndim == 4 else torch.contiguous_format)
            for value in first
        )
        last = tuple(value.requires_grad_() for value in last)
        for found, expected in zip(backward(operator, last), backward(operator, first), strict=True):
            same(found, expected, 1e-10)


@every_device
@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 100), (torch.float16, 10)], ids=["bfloat16", "float16"])
@every_operator
def test_autocast_is_finite_forward_and_backward(case, dtype, scale, device):
    for given in variants(case):
        operator = make_operator(case, *given, randomise=False).to(device)
        inputs = tuple((scale * value).detach().requires_grad_() for value in moved(make_inputs(case, 9, 7), device))
        with torch.autocast(device, dtype=dtype):
            out = operator(*inputs)
        out.float().sum().backward()
        assert out.isfinite().all()
        assert all(
            value.grad is not None and value.grad.isfinite().all() for value in (*inputs, *operator.parameters())
        )


@every_device
@every_operator
def test_deterministic_mode_changes_no_value(case, device):
    operator = make_operator(case).double().to(device)
    inputs = moved(make_inputs(case, 5, 6), device, torch.float64)
    expected = backward(operator, inputs)
    torch.use_deterministic_algorithms(True)
    try:
        found = backward(operator, inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    same(found, expected, 1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@every_operator
def test_gpu_agrees_with_cpu(case):
    for given in variants(case):
        operator = make_operator(case, *given).double()
        inputs = moved(make_inputs(case, 13, 18), dtype=torch.float64)
        expected = backward(operator, inputs)
        found = backward(operator.cuda(), moved(inputs, "cuda"))
        same([value.cpu() for value in (found[0], *found[1])], [expected[0], *expected[1]], 1e-8)


def compiled_agrees(case, device, backend):
    # In float64 on CPUs: sums of 30 cells that cancel are only rounding in float32.
    dtype, tolerance = (torch.float64, 1e-8) if device == "cpu" else (torch.float32, 1e-3)
    operator = make_operator(case).to(device, dtype)
    inputs = moved(make_inputs(case, 5, 6), device, dtype)
    torch.compiler.reset()
    compiled = torch.compile(operator, fullgraph=True, backend=backend)
    expected = backward(operator, inputs)
    same(backward(operator, inputs, compiled(*inputs)), expected, tolerance)


@first_cases
def test_compiles_as_one_graph_with_the_same_gradients(case):
    compiled_agrees(case, "cpu", "aot_eager")


@pytest.mark.slow
@every_device
@every_operator
def test_inductor_computes_the_same(case, device):
    compiled_agrees(case, device, "inductor")


class Called(torch.nn.Module):
    """Calls an operator as the other tests do, also one whose case adapts its inputs by hooks."""

    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, *inputs):
        return self.operator(*inputs)


def export(case):
    """The operator of a case, inputs at two sizes, and its program for maps of any height and width."""
    operator = make_operator(case).eval()
    inputs, others = (tuple(x.detach() for x in make_inputs(case, *size)) for size in (EXPORTED_AT, RUN_AT))
    # Programs treat sizes of one apart; from 5 cells on, none arises within strides of up to 4.
    height, width = torch.export.Dim("height", min=5), torch.export.Dim("width", min=5)
    shapes = tuple({2: height, 3: width} if value.ndim == 4 else None for value in inputs)
    return operator, inputs, others, torch.export.export(Called(operator), inputs, dynamic_shapes=(shapes,))


def onnx_session(program, inputs, optimize=False):
    """Translates a program to ONNX and gives a function that runs it."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = torch.onnx.export(program, inputs, dynamo=True, verbose=False, optimize=optimize).model_proto
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(*given):
        names = [value.name for value in session.get_inputs()]
        (out,) = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
        return torch.from_numpy(out)

    return run


EXPORTED_HERE = {"se", "attention-stem", "halo", "channelized-axial", "learn-to-pay"}  # one a family


@pytest.mark.parametrize("optimize", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "optimized"])
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=() if c.name in EXPORTED_HERE else pytest.mark.slow, id=c.name) for c in CASES],
)
def test_exports_for_any_height_and_width(case, optimize):
    """A program that was exported at one size computes the same at another, in PyTorch and in ONNX Runtime.

    ONNX programs are run as translated, which takes half the time, and as users get them by default among slow tests.
    """
    operator, inputs, others, program = export(case)
    for given in (inputs, others):
        same(program.module()(*given), operator(*given), 1e-4)
    if case.not_exportable is None:
        run = onnx_session(program, inputs, optimize)
        for given in (inputs, others):
            same(run(*given), operator(*given).detach(), 1e-3)
    else:
        words = " ".join((inspect.getdoc(type(operator)) or "").split())
        assert case.not_exportable in words, "the docstring must say why there is no ONNX export"
        with pytest.raises(Exception):  # noqa: B017 - whatever the exporter or the runtime raises
            onnx_session(program, inputs)(*others)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Gradients of every case in each of two processes; both run once for all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    context = mp.start_processes(save_gradients, (folder,), 2, join=False, start_method="forkserver")
    deadline = time.monotonic() + 300
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, "the processes hang"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@every_operator
def test_processes_average_the_gradients(case, ranks):
    operator = make_operator(case).double()
    names = [name for name, _ in operator.named_parameters()]
    if not names:
        assert case.name not in ranks[0]  # nothing to average
        return
    shares = []
    for rank in (0, 1):
        alone = make_operator(case).double()
        shares.append(torch.autograd.grad(loss(alone, double_inputs(case, rank)), list(alone.parameters())))
    for name, one, other in zip(names, *shares, strict=True):
        for rank in ranks:
            assert isinstance(rank[case.name], dict), rank[case.name]
            same(rank[case.name][name], (one + other) / 2, 1e-9)


def test_arguments_of_a_case_are_those_of_its_family():
    for case in REFINEMENTS:
        assert len(arguments(case)) == 1
    for case in MIXERS:
        assert len(arguments(case)) == 3
