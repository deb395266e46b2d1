"""The table: every parameter is in it, with its plan's own numbers, and what to look at."""

import re

import pytest
from torch import nn

from core.mup import plan
from core.mup.explain import COLUMNS, rows
from core.mup.families import FAMILIES

PLAN = FAMILIES["pixart"].plan(heads=12, layers=2)


def test_rows_are_the_plan_s_entries_and_blocks_share_theirs():
    found = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows(PLAN, "sgd")}
    assert len(found) < len(PLAN.entries)
    for name, entry in PLAN.entries.items():
        row = found[re.sub(r"\.\d+(?=\.|$)", ".*", name)]
        lr, decay, eps = entry.multipliers("sgd")
        assert row["kind"] == entry.kind
        assert row["shape"] == "x".join(map(str, entry.shape))
        shown = [float(row[c]) for c in COLUMNS[-4:]]
        assert shown == pytest.approx([entry.init, lr, decay, eps], rel=1e-3), name


def test_the_text_says_what_grows_by_how_much_and_what_was_found():
    text = PLAN.explain()
    first = text.splitlines()[0]
    assert first == (
        "mup: num_attention_heads 4 -> 12, cross_attention_dim 64 -> 192; factors for adamw"
    )
    assert re.search(r"proj_out\.weight +4x192 +output +3 +0.3333 +0.3333 +3 +3\s", text)
    assert re.search(r"blocks\.\*\.attn1\.to_q\.weight +192x192 +hidden +3 +0.5774 ", text)
    assert "look at this: cross_attention_dim grows with the width (hold it: fixed=(" in text


def test_what_muon_does_not_take_is_told_of_as_adamw_s():
    text = PLAN.explain(optimizer="muon-rms")
    assert "what it does not take, for adamw" in text
    assert re.search(r"attn1\.to_q\.weight +192x192 +hidden +3 +0.5774 +0.5774 +1.732 +1\s", text)
    assert re.search(r"pos_embed\.proj\.weight +192x1x2x2 +input +3 +1 +1 +1 +1\s", text)


def test_a_layer_in_two_shapes_has_two_rows_and_a_scalar_a_name():
    class Net(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(width, width * k, bias=False) for k in (1, 2))
            self.norms = nn.ModuleList(nn.PReLU() for _ in range(3))
            self.gate = nn.PReLU()
            self.gate.weight = nn.Parameter(self.gate.weight.sum())

    found = rows(plan(Net, {"width": 12}, base={"width": 4}), "adamw")
    assert [row[:3] for row in found] == [
        ("blocks.*.weight", "12x12", "hidden"),
        ("blocks.*.weight", "24x12", "hidden"),
        ("norms.*.weight", "1", "finite"),
        ("gate.weight", "scalar", "finite"),
    ]


def test_a_long_name_stays_whole():
    class Net(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.add_module("x" * 110, nn.Linear(width, width))

    assert "x" * 110 + ".weight " in plan(Net, {"width": 12}, base={"width": 4}).explain()


def test_an_optimizer_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="no muP rule for the optimizer 'lion'"):
        PLAN.explain(optimizer="lion")
