"""The command line: what it shows, its exit codes, and that what is wrong is told in a line."""

import errno
import json
import re
import shlex
import subprocess
import sys

import pytest
from click.testing import CliRunner

from core.mup.__main__ import cli, main
from core.mup.families import FAMILIES
from core.mup.plan import Plan

DIT = "diffusers:DiTTransformer2DModel"
SOURCES = [family.source for family in FAMILIES.values()]

SCRIPT = """
import torch
from torch import nn

import core.mup
from core.mup.uvit import UViT

SIZE = {"num_attention_heads": 6, "attention_head_dim": 8, "num_layers": 3}
PLAN = core.mup.plan(UViT, SIZE, base={"num_attention_heads": 2})

def right():
    model = PLAN.build()
    return model, torch.optim.AdamW(PLAN.groups(model, lr=1e-3))

def tuned():
    plan = PLAN.at(num_attention_heads=2)
    model = plan.build()
    return model, torch.optim.AdamW(plan.groups(model, lr=1e-3))

def unscaled():
    model = PLAN.build()
    print("made")
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)

class Net(nn.Module):
    def __init__(self, width=64, depth=1):
        super().__init__()
        sizes = [4, *[width] * (depth + 1)]
        layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in zip(sizes, sizes[1:])]
        self.body, self.out = nn.Sequential(*layers), nn.Linear(width, 2)

    def forward(self, x):
        return self.out(self.body(x))

class Odd(Net):
    def __init__(self, width=64):
        if width == 512:
            raise RuntimeError("no such width\\nat all")
        super().__init__(width)

def net():
    model = Net(width=192)
    return model, torch.optim.Rprop(model.parameters(), lr=1e-3)

def loss(model, seed):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))
    return (model(x) - x[:, :2] ** 2).square().mean()
"""
UVIT = "--base num_attention_heads=2"
SIZES = "--config num_layers=3 --config attention_head_dim=8 --config num_attention_heads=6"


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name == "train" or name.startswith("script_")]:
        del sys.modules[name]


@pytest.fixture
def run(capsys):
    """Run a command line; return its exit code, and what it printed on each stream."""

    def runs(line):
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return runs


def last_of(told):
    return told.splitlines()[-1]


@pytest.mark.parametrize("source", SOURCES)
def test_each_family_is_explained_at_its_own_size(run, source):
    code, out, _ = run(f"explain {source} --base num_attention_heads=4")
    assert code == 0
    assert out.startswith("mup: num_attention_heads 4 -> ")
    # queries, keys, values, two of the feed-forward layer, and one readout
    assert out.count(" hidden ") > 5
    assert out.count(" output ") == 1
    assert max(map(len, out.splitlines())) <= 200


def test_an_explanation_has_the_numbers_of_the_rule(run):
    _, out, _ = run(f"explain {DIT} --base num_attention_heads=4 --optimizer adamw")
    # 16 heads over 4
    query = next(line for line in out.splitlines() if "attn1.to_q.weight" in line)
    assert query.split()[1:] == ["1152x1152", "hidden", "4", "0.5", "0.25", "4", "1"]
    readout = next(line for line in out.splitlines() if "proj_out_2.weight" in line)
    assert readout.split()[2:] == ["output", "4", "0.25", "0.25", "4", "4"]


def test_an_explanation_is_json_and_a_plan_to_keep(run, here):
    sizes = "--config num_layers=1 --config norm_elementwise_affine=false"
    code, out, _ = run(f"explain {DIT} --base num_attention_heads=8 {sizes} --json --save p.json")
    read = json.loads(out)
    assert code == 0
    assert read["model"] == DIT
    saved = Plan.load(here / "p.json")
    assert saved.config["num_layers"] == 1
    assert saved.config["norm_elementwise_affine"] is False
    assert {row["kind"] for row in read["rows"]} == {e.kind for e in saved.entries.values()}


def test_a_configuration_of_diffusers_is_read_and_overridden(run, here):
    config = {"_class_name": "DiTTransformer2DModel", "_diffusers_version": "0.30.0"}
    config |= {"num_attention_heads": 6, "num_layers": 5, "attention_head_dim": 8}
    (here / "config.json").write_text(json.dumps(config))
    line = f"explain {DIT} --base num_attention_heads=2 --config-file config.json --save p.json"
    assert run(f"{line} --config num_layers=1")[0] == 0
    saved = Plan.load(here / "p.json")
    assert (saved.config["num_attention_heads"], saved.config["num_layers"]) == (6, 1)


def test_a_key_is_held_where_it_is_said(run):
    line = "explain diffusers:SD3Transformer2DModel --base num_attention_heads=6"
    sizes = "--config num_layers=1"
    assert "caption_projection_dim 384 -> 1152" in run(f"{line} {sizes}")[1]
    held = run(f"{line} {sizes} --fixed caption_projection_dim")[1]
    assert "caption_projection_dim" not in held


def test_a_base_that_is_wider_is_noted(run):
    code, _, err = run(f"explain {DIT} --base num_attention_heads=32 --config num_layers=1")
    assert code == 0
    assert "the base is wider than the target" in err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("explain diffusers:DiTTransformer --base a=1", "no attribute DiTTransformer"),
        ("explain DiTTransformer2DModel --base a=1", "want a model class as module:name"),
        (f"explain {DIT}", "width keys of this configuration: num_attention_heads"),
        (
            f"explain {DIT} --base heads=4",
            "has no key 'heads'; its width keys: num_attention_heads",
        ),
        (f"explain {DIT} --base num_attention_heads=16", "the base equals the target"),
        (f"explain {DIT} --base num_attention_heads=4.5", "want a positive integer at the base"),
        (f"explain {DIT} --base num_attention_heads", "want KEY=VALUE"),
        (f"explain {DIT} --base a=1 --base a=2", "a is given twice"),
        (f"explain {DIT} --base num_attention_heads=4 --config layers=2", "takes no 'layers'"),
        (f"explain {DIT} --base num_attention_heads=4 --config num_layers=x", "cannot be built"),
        (f"explain {DIT} --base a=1 --config-file none.json", "'none.json' does not exist"),
        (f"explain {DIT} --base a=1 --config-file train.py", "train.py is no JSON"),
        (f"explain {DIT} --base a=1 --config-file list.json", "want an object of keys"),
        (f"explain {DIT} --base a=1 --save none/p.json", "in a folder that exists"),
        (f"explain {DIT} --base a=1 --optimizer lion", "'lion' is not one of 'adamw'"),
        (
            "explain diffusers:SanaTransformer2DModel --base num_attention_heads=4",
            "no whole number",
        ),
        ("explain", "Missing argument"),
        ("explode", "No such command"),
        ("check diffusers:SanaTransformer2DModel --base num_attention_heads=4", "want --loss for"),
        (f"check {DIT} --widths 4,8", "want four different widths"),
        (f"check {DIT} --widths 4,8,x", "want integers"),
        (f"check {DIT} --base a=1 --base b=2", "want one --base for a check"),
        (f"check {DIT} --lr 0", "not in the range"),
        (f"check {DIT} --device nowhere", "'nowhere' cannot be used"),
        ("check train:Net --base width=8 --loss train.py:lost", "has no function 'lost'"),
        (
            f"check {DIT} --config sample_size=32 --config in_channels=4",
            "on digits failed: Runtime",
        ),
        (f"doctor train.py:gone {UVIT}", "has no function 'gone'; it has right, tuned"),
        (f"doctor train.py:loss {UVIT}", "train.py:loss failed: TypeError"),
        ("doctor train.py:right", "give --base KEY=N: want the width keys"),
        (f"doctor train.py:net {UVIT}", "has no key 'num_attention_heads'; its width keys: width"),
        (
            "doctor train.py:net --base width=64 --config width=192",
            "no muP rule is known for Rprop",
        ),
        ("doctor train.py:net --base width=64 --config width=128", "is of another width"),
        (f"doctor train.py:right --plan train.py {UVIT}", "want --plan or --base, got both"),
        ("doctor train.py:right --plan train.py", "train.py is no plan of this version"),
        (f"doctor train.py:right {UVIT} {SIZES} --recipe pixart", "it is for another model"),
    ],
)
def test_what_is_wrong_is_refused_in_a_line(run, here, line, told):
    (here / "list.json").write_text("[]")
    code, _, err = run(line)
    last = last_of(err)
    assert code == 2
    assert last.startswith(("refused: ", "Error: "))  # the second with click's usage above it
    assert told in last


def test_a_set_up_that_is_right_ends_in_0_and_one_that_is_not_in_1(run, here):
    code, out, _ = run(f"doctor train.py:right {UVIT} {SIZES}")
    assert (code, out.splitlines()[-1]) == (0, "nothing wrong")
    code, out, err = run(f"doctor train.py:unscaled {UVIT} {SIZES} --lr 1e-3 --save p.json")
    assert code == 1
    assert "hidden tensors: learning rate 0.001, should be 0.0003333" in out
    assert "made" in err
    assert "made" not in out
    # by the plan that was kept, and as JSON
    code, out, _ = run("doctor train.py:unscaled --plan p.json --json")
    read = json.loads(out)
    assert code == 1
    assert read["right"] is False
    # the decay of AdamW is 0.01 unless one says otherwise
    assert {one["what"] for one in read["findings"]} == {"learning rate", "weight decay", "epsilon"}
    code, out, _ = run("doctor train.py:unscaled --plan p.json --tuned train.py:tuned")
    assert code == 1
    assert "base: as its own model and optimizer" in out


def test_the_class_and_configuration_of_a_model_of_diffusers_are_its_own(run, here):
    (here / "mine.py").write_text(
        "import torch\nfrom diffusers import DiTTransformer2DModel as DiT\n\n"
        "def make():\n    model = DiT(num_attention_heads=6, attention_head_dim=8, num_layers=1)\n"
        "    return torch.nn.DataParallel(model), torch.optim.SGD(model.parameters(), lr=0.1)\n"
    )
    code, out, _ = run("doctor mine.py:make --base num_attention_heads=2")
    assert code == 1
    assert out.startswith("mup: num_attention_heads 2 -> 6")


def test_a_class_can_be_named_and_an_optimizer_likened(run, here):
    line = "doctor train.py:net --model train.py:Net --base width=64 --config width=192"
    code, out, _ = run(f"{line} --optimizer adamw")
    assert code == 1
    assert "base, read off Rprop: learning rate 0.001" in out


FAST = "--seeds 1 --steps 2 --config num_layers=1"


@pytest.mark.parametrize("source", SOURCES)
def test_muP_is_flat_on_digits_out_of_the_box(run, source):
    single = "--config num_single_layers=1" if "Flux" in source else ""
    code, out, err = run(f"check {source} {FAST} {single}")
    assert code == 0, out
    assert out.splitlines()[0].startswith("step")
    assert out.splitlines()[-1].startswith("mup: flat in the width")
    assert "num_attention_heads = 4, 8, 16, 32" in err


def test_a_wrong_parametrization_ends_in_1_and_names_what_is_not_flat(run):
    line = f"check {DIT} {FAST} --base num_attention_heads=2 --parametrization"
    code, out, err = run(f"{line} 'hidden lr not scaled'")
    assert code == 1
    assert "not flat: mean|x_t - x_0| of" in out
    assert out.splitlines()[-1] == "hidden lr not scaled: not flat in the width"
    assert "num_attention_heads = 2, 4, 8, 16" in err


def test_the_dimension_of_a_head_can_be_the_width(run):
    code, out, _ = run(
        f"check diffusers:PixArtTransformer2DModel {FAST} --base attention_head_dim=8"
    )
    assert code == 0, out


def test_a_class_of_ones_own_is_checked_by_a_loss(run, here):
    line = "check train:Net --base width=64 --loss train.py:loss --seeds 1 --widths 64,128,256,512"
    code, out, _ = run(f"{line} --json")
    read = json.loads(out)
    assert (code, read["flat"], read["failures"]) == (0, True, [])
    assert read["widths"] == [64, 128, 256, 512]
    assert list(read["size"]) == list(read["moved"])
    assert read["moved"]["out"][0] is None  # nothing has moved before the first step
    assert abs(read["moved"]["out"][1]) < 0.2
    assert run(f"{line} --parametrization standard")[0] == 1


def test_help_has_an_example_of_each():
    for command in ("explain", "check", "doctor"):
        result = CliRunner().invoke(cli, [command, "--help"])
        assert result.exit_code == 0
        assert f"python -m core.mup {command} " in result.output
    assert main([]) == 2


def test_what_somebodys_class_raises_is_a_failure_with_its_place(run, here):
    line = "check train:Odd --base width=64 --loss train.py:loss --seeds 1 --widths 64,128,256,512"
    code, _, err = run(line)
    assert code == 1
    assert re.fullmatch(r"failed: RuntimeError: no such width \(at train.py:\d+\)", last_of(err))


@pytest.mark.parametrize("command", [f"explain {DIT}", "doctor train.py:right"])
def test_a_full_disk_is_a_failure(run, here, monkeypatch, command):
    def full(plan, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Plan, "save", full)
    code, _, err = run(f"{command} {UVIT} {SIZES} --save p.json")
    assert code == 1
    assert last_of(err) == "failed: p.json could not be written: No space left on device"


def test_where_a_question_is_refused_no_plan_is_saved(run, here):
    line = f"doctor train.py:right {UVIT} {SIZES} --recipe pixart --save p.json"
    assert run(line)[0] == 2
    assert not (here / "p.json").exists()


def test_an_interruption_ends_in_130(run, here):
    (here / "stop.py").write_text("def make():\n    raise KeyboardInterrupt\n")
    code, _, err = run(f"doctor stop.py:make {UVIT}")
    assert (code, err.strip()) == (130, "interrupted")


def test_it_is_a_command(here):
    line = [sys.executable, "-m", "core.mup", "doctor", "train.py:unscaled", *shlex.split(UVIT)]
    done = subprocess.run([*line, *shlex.split(SIZES)], capture_output=True, text=True, cwd=here)
    assert done.returncode == 1
    assert "not scaled with the width" in done.stdout
    assert done.stderr == "made\n"
