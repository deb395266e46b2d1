"""The kind of each layer's parameters, beside the two sides that its own arguments name."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from core.mup.shapes import bottlenecks, classify, owned

WIDTHS = (4, 8, 12)
M = 3.0


class Net(nn.Module):
    """What a test makes at a width, beside a layer from width to width."""

    def __init__(self, make, n):
        super().__init__()
        self.hidden = nn.Linear(n, n)
        self.x = make(n)


class Table(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.table = nn.Parameter(torch.empty(shape))


def entries(make, widths=WIDTHS, axes=None):
    base, delta, target = widths
    growth = [(Fraction(delta, base), Fraction(target, base))]
    with torch.device("meta"):
        models = [Net(make, n) for n in widths]
    return classify(*models, growth=growth, axes=axes or {})


LAYERS: dict[str, tuple[Any, str, float, float]] = {
    "linear, finite to width": (lambda n: nn.Linear(5, n), "input", 1, M),
    "linear, width to width": (lambda n: nn.Linear(n, n), "hidden", M, M),
    "linear, width to finite": (lambda n: nn.Linear(n, 5), "output", M, 1),
    "linear, finite to finite": (lambda n: nn.Linear(5, 6), "finite", 1, 1),
    "fused projections": (lambda n: nn.Linear(n, 3 * n, bias=False), "hidden", M, M),
    "modulation": (lambda n: nn.Linear(n, 6 * n), "hidden", M, M),
    "long skip": (lambda n: nn.Linear(2 * n, n), "hidden", M, M),
    "keys of a fixed number of heads": (lambda n: nn.Linear(n, 2), "output", M, 1),
    "keys of a growing number of heads": (lambda n: nn.Linear(n, n // 2), "hidden", M, M),
    "wider by a square": (lambda n: nn.Linear(n, n * n), "hidden", M, M**2),
    "patches": (lambda n: nn.Conv2d(3, n, 2, 2), "input", 1, M),
    "pointwise": (lambda n: nn.Conv1d(n, n, 1), "hidden", M, M),
    "convolution": (lambda n: nn.Conv3d(n, 2 * n, 3), "hidden", M, M),
    "last convolution": (lambda n: nn.Conv2d(n, 3, 3), "output", M, 1),
    "depthwise": (lambda n: nn.Conv2d(n, n, 3, groups=n), "input", 1, M),
    "two groups": (lambda n: nn.Conv2d(n, n, 3, groups=2), "hidden", M, M),
    "transposed, finite to width": (lambda n: nn.ConvTranspose2d(3, n, 2), "input", 1, M),
    "transposed, width to width": (lambda n: nn.ConvTranspose1d(n, n // 2, 2), "hidden", M, M),
    "transposed, width to finite": (lambda n: nn.ConvTranspose2d(n, 3, 2), "output", M, 1),
    "transposed, depthwise": (lambda n: nn.ConvTranspose2d(n, n, 2, groups=n), "input", 1, M),
    "embedding": (lambda n: nn.Embedding(7, n), "vector", 1, M),
    "bag of embeddings": (lambda n: nn.EmbeddingBag(7, n), "vector", 1, M),
    "layer norm": (lambda n: nn.LayerNorm(n), "vector", 1, M),
    "norm of a head": (lambda n: nn.RMSNorm(4), "finite", 1, 1),
    "group norm": (lambda n: nn.GroupNorm(2, n), "vector", 1, M),
}


@pytest.mark.parametrize("what", LAYERS)
def test_a_weight_is_of_the_kind_that_its_layer_says(what):
    make, kind, m_in, m_out = LAYERS[what]
    entry = entries(make)["x.weight"]
    assert (entry.kind, entry.m_in, entry.m_out) == (kind, m_in, m_out)
    assert entry.fold == (1 / m_in if kind == "output" else 1)
    assert entry.shape == tuple(make(12).weight.shape)


@pytest.mark.parametrize(("rows", "kind"), [(12, "vector"), (5, "finite")])
def test_a_bias_is_a_vector_where_it_grows(rows, kind):
    grow = rows == 12
    entry = entries(lambda n: nn.Linear(n, n if grow else rows))["x.bias"]
    assert (entry.kind, entry.m_in, entry.m_out) == (kind, 1, M if grow else 1)


def test_tables_positions_gains_and_scalars_are_no_matrices():
    def kind(*shape):
        return entries(lambda n: Table(*(n if s == "n" else s for s in shape)))["x.table"].kind

    assert kind(6, "n") == kind(1, 9, "n") == kind("n", 5) == kind("n") == "vector"
    assert kind() == kind(3) == kind(3, 5) == "finite"


def test_fans_are_without_the_kernel_and_of_a_transposed_weight_turned():
    assert entries(lambda n: nn.Conv2d(3, n, 2))["x.weight"].fans == (12, 3)
    assert entries(lambda n: nn.ConvTranspose2d(n, 3, 2))["x.weight"].fans == (3, 12)


def test_attention_of_torch_is_hidden_fused_or_not():
    fused = entries(lambda n: nn.MultiheadAttention(n, 2, add_bias_kv=True))
    kinds = {name.removeprefix("x."): e.kind for name, e in fused.items() if name[0] == "x"}
    assert kinds == {
        "in_proj_weight": "hidden",
        "in_proj_bias": "vector",
        "out_proj.weight": "hidden",
        "out_proj.bias": "vector",
        "bias_k": "vector",
        "bias_v": "vector",
    }
    apart = entries(lambda n: nn.MultiheadAttention(n, 2, kdim=5, vdim=n))
    assert apart["x.q_proj_weight"].kind == apart["x.v_proj_weight"].kind == "hidden"
    assert apart["x.k_proj_weight"].kind == "input"


def test_recurrent_layers_have_their_fans_too():
    found = entries(lambda n: nn.LSTM(5, n, proj_size=2))
    assert found["x.weight_ih_l0"].kind == found["x.weight_hh_l0"].kind == "input"
    assert found["x.weight_hr_l0"].kind == "output"
    assert entries(lambda n: nn.GRUCell(n, n))["x.weight_hh"].kind == "hidden"


def test_a_low_rank_layer_is_an_output_and_an_input_and_is_told_of():
    def low_rank(n):
        return nn.Sequential(nn.Linear(n, 2), nn.Linear(2, n), nn.Linear(n, 5))

    found = entries(low_rank)
    assert [found[f"x.{i}.weight"].kind for i in range(3)] == ["output", "input", "output"]
    assert bottlenecks(found) == ["x.0.weight"]


def test_a_tensor_that_two_layers_share_is_one_parameter():
    def tied(n):
        layers = nn.Sequential(nn.Linear(n, n), nn.Linear(n, n))
        layers[1].weight = layers[0].weight
        return layers

    assert "x.1.weight" not in entries(tied)
    assert [one.attribute for one in owned(tied(3))["0.weight"]] == ["weight", "weight"]


def test_an_embedding_that_is_also_the_readout_is_refused_by_name():
    def tied(n):
        layers = nn.Sequential(nn.Embedding(7, n), nn.Linear(n, 7, bias=False))
        layers[1].weight = layers[0].weight
        return layers

    with pytest.raises(ValueError, match=r"x.0.weight is one tensor.*vector and as output.*Untie"):
        entries(tied)


@pytest.mark.parametrize("widths", [(4, 8, 12), (4, 12, 8), (4, 8, 2)], ids=str)
def test_a_dimension_of_which_a_half_grows_is_refused_by_name(widths):
    with pytest.raises(ValueError, match=r"x.weight: dimension 0 is 5 \+ 4 times.*Split it"):
        entries(lambda n: nn.Linear(n, n + 5), widths)


@pytest.mark.parametrize("widths", [(4, 8, 12), (4, 12, 8), (4, 8, 4)], ids=str)
def test_what_is_rounded_is_no_such_half(widths):
    found = entries(lambda n: nn.Linear(n, (8 * n // 3 + 15) // 16 * 16), widths)
    assert found["x.weight"].kind == "hidden"


REFUSED: dict[str, tuple[Any, str]] = {
    "three": (lambda n: Table(n, n, n), r"x.table \[12, 12, 12\] grows in 3 dimensions.*hold one"),
    "whose": (lambda n: Table(n, n), r"x.table \[12, 12\] grows in two.*Table.*axes={'x.table':"),
    "kernel": (lambda n: nn.Conv1d(n, 3, n), "x.weight .* grows in a dimension that is neither"),
    "names": (
        lambda n: nn.ModuleList(nn.Linear(n, n) for _ in range(n)),
        "'x.10.bias' is a parameter at one width and not at another",
    ),
    "shapes": (lambda n: Table(*[1] * n), r"x.table has \[4, 8, 12\] dimensions"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_decided_is_refused_by_name(what):
    make, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        entries(make)


def test_axes_decide_it():
    entry = entries(lambda n: Table(n, 5, 2 * n), axes={"x.table": (2, 0)})["x.table"]
    assert (entry.kind, entry.fans) == ("hidden", (24, 12))
    assert entries(lambda n: Table(n, 5), axes={"x.table": (1, 0)})["x.table"].kind == "output"


def test_axes_of_no_parameter_are_refused():
    with pytest.raises(ValueError, match=r"axes names 'x\.tabel'"):
        entries(lambda n: Table(n, n), axes={"x.tabel": (0, 1)})


def test_a_model_that_does_not_grow_is_refused():
    with torch.device("meta"):
        models = [nn.Linear(4, 4) for _ in range(3)]
    with pytest.raises(ValueError, match="no parameter grows on both sides"):
        classify(*models, growth=[(Fraction(2), Fraction(3))], axes={})
