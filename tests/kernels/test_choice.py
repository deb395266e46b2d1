import os
import subprocess
import sys

import pytest
import torch

from core.kernels import _choice, explain, use
from core.kernels.causal_linear_attention import causal_linear_attention

X = torch.ones(2, 5, 3)


def chosen(**options):
    return explain(causal_linear_attention, X, X, X, **options).chosen


def test_without_a_gpu_auto_is_torch():
    assert chosen() == "torch"


def test_the_call_wins_over_the_context_and_the_context_over_the_environment(monkeypatch):
    monkeypatch.setattr(_choice, "_of_the_run", "reference")  # as CORE_KERNELS=reference sets it
    assert chosen() == "reference"
    with use("torch"):
        assert chosen() == "torch"
        assert chosen(impl="reference") == "reference"
        with use("auto"):
            assert chosen() == "torch"
    assert chosen() == "reference"


def test_a_context_ends_with_its_error():
    with pytest.raises(ZeroDivisionError), use("reference"):
        1 / 0  # noqa: B018
    assert chosen() == "torch"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("reference", "reference serves"), ("cuda", "CORE_KERNELS, core.kernels.use: want one of")],
)
def test_the_environment_chooses_for_a_whole_run(value, expected):
    code = (
        "import torch; from core.kernels import explain; x = torch.ones(1, 2, 3)\n"
        "print(explain('causal_linear_attention', x, x, x))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CORE_KERNELS": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert expected in done.stdout + done.stderr


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_what_is_chosen_is_what_runs(impl, monkeypatch):
    module = sys.modules["core.kernels.causal_linear_attention"]
    ran = []
    for name in ("reference", "torch"):
        form = getattr(module, f"{name}_attention")

        def spy(*args, name=name, form=form, **options):
            ran.append(name)
            return form(*args, **options)

        monkeypatch.setattr(module, f"{name}_attention", spy)
    x = X.clone().requires_grad_()
    with use(impl):
        result = causal_linear_attention(x, x, x)
    result.sum().backward()  # outside the context: the forward pass has decided
    assert ran == [impl] * 4


def test_without_triton_the_named_one_says_what_to_install(monkeypatch):
    monkeypatch.setattr(_choice, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'triton>=3.6'.*take impl='torch'"):
        causal_linear_attention(X, X, X, impl="triton")
    assert "not installed" in str(explain(causal_linear_attention, X, X, X))


def test_without_a_gpu_the_named_one_says_what_it_wants(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(_choice, "triton_interprets", lambda: False)
    with pytest.raises(ValueError, match="wants tensors on a CUDA device, got cpu: move them"):
        causal_linear_attention(X, X, X, impl="triton")
    with use("triton"), pytest.raises(ValueError, match="CUDA device"):
        causal_linear_attention(X, X, X)


def test_an_explanation_lists_every_implementation(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(_choice, "triton_interprets", lambda: True)
    big = torch.ones(1, 4, 64, dtype=torch.float64)
    told = explain("causal_linear_attention", big, big, big, impl="torch")
    assert list(told.obstacles) == ["reference", "torch", "triton"]
    assert "a state of at most 1024 real numbers for torch.float64" in (
        told.obstacles["triton"] or ""
    )
    assert str(told).startswith("causal_linear_attention: torch serves\n  reference can\n")


@pytest.mark.parametrize("op", ["flash", "no op", print, "_choice"])
def test_an_unknown_op_is_refused(op):
    with pytest.raises(ValueError, match=r"want an op of core\.kernels"):
        explain(op, X, X, X)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="want one of auto, reference, torch, triton, got 'cuda'"):
        causal_linear_attention(X, X, X, impl="cuda")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use: want one of"), use("cuda"):  # type: ignore[arg-type]
        pass


def test_choosing_imports_no_compiler():
    code = (
        "import sys, torch; from core.kernels.causal_linear_attention import *\n"
        "x = torch.ones(1, 2, 3); causal_linear_attention(x, x, x)\n"
        "assert not {'torch._dynamo', 'triton'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_old_triton_is_refused(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(_choice.metadata, "version", lambda name: "3.5.1")
    with pytest.raises(ValueError, match=r"wants Triton 3\.6 or later, got 3\.5\.1"):
        causal_linear_attention(X, X, X, impl="triton")
