import json
from dataclasses import replace

import pytest
import torch

import core.bench
from core.kernels import _ceilings, _subject, bench, evidence
from core.kernels._ceilings import Ceilings, Size
from core.kernels._measure import Wrong
from core.kernels._subject import Case, Peer
from core.kernels.causal_linear_attention import reference_attention
from core.kernels.causal_linear_attention_bench import BENCH, case

OP = "causal_linear_attention"
SHAPE = {"B": 2, "T": 9, "D": 3, "M": 2}
WAYS = [False, True]


def tiny(**changes):
    """The real bench at a tiny size, with one peer."""
    cases = [case("normalised", SHAPE, torch.float32, backward) for backward in WAYS]
    peers = {"formula": Peer(reference_attention, "the formula")}
    return replace(BENCH, cases=lambda device: cases, peers=peers, **changes)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(_ceilings.SIZES, "cpu", Size(2**10, 4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def serve(monkeypatch):
    """Make a subject the one that is measured."""
    return lambda subject: monkeypatch.setattr(bench, "load", lambda op: subject)


def test_a_result_has_what_the_book_wants_and_is_found_by_it(serve, tmp_path, capsys):
    serve(tiny())
    assert bench.command_line([OP, "--out", str(tmp_path)]) == 0
    assert "normalised, forward + backward" in capsys.readouterr().out
    (document,) = evidence.documents(OP, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{OP}-cpu.json"]
    assert (document["bench"], document["kind"], document["driver"]) == (OP, "cpu", None)
    assert document["device"] == document["provenance"]["cpu"]
    assert document["provenance"]["threads"] == 1
    assert {"commit", "packages"} <= set(document["provenance"])
    assert document["ceilings"]["copy"]["bytes"] == 2**11
    assert set(document["ceilings"]["product"]["flop_per_second"]) == {"bfloat16", "float32"}
    assert document["peers"] == {
        "formula": {"what": "the formula", "version": None, "not_here": None}
    }
    assert [row["pass"] for row in document["rows"]] == ["forward", "forward + backward"]
    for row in document["rows"]:
        assert (row["case"], row["dtype"], row["shape"]) == ("normalised", "float32", SHAPE)
        assert row["impl"] == "torch"
        assert row["error"] <= row["allowed"] < 1e-6
        assert row["of_floor"] == pytest.approx(row["floor_seconds"] / row["seconds"], rel=1e-3)
        peer = row["peers"]["formula"]
        assert set(peer) == {"error", "seconds", "ratio", "peak_bytes"}
        assert peer["ratio"] == pytest.approx(peer["seconds"] / row["seconds"], rel=1e-3)


def wrong_forward(q, k, v, **options):
    return reference_attention(q, k, v, **options) * (1 + 1e-3)


def wrong_backward(q, k, v, **options):
    o = reference_attention(q, k, v, **options)
    return o + 1e-3 * (k.sum() - k.detach().sum())


def not_finite(q, k, v, **options):
    return reference_attention(q, k, v, **options) * float("nan")


def breaks(q, k, v, **options):
    raise RuntimeError("no kernel\nof this size")


@pytest.mark.parametrize("op", [wrong_forward, wrong_backward, not_finite])
def test_nothing_is_written_of_an_op_that_fails_its_check(serve, tmp_path, monkeypatch, capsys, op):
    monkeypatch.setattr(op, "__name__", OP)  # by which `explain` knows it
    serve(tiny(op=op))
    assert bench.command_line([OP, "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("failed: the check failed, nothing is written. ")
    assert "allowed" in said
    assert not list(tmp_path.iterdir())
    with pytest.raises(Wrong, match="error"):
        bench.run(OP)


@pytest.mark.parametrize(
    ("call", "why", "untimed"),
    [
        (wrong_forward, "error 1.0e-03, allowed", {0, 1}),
        (wrong_backward, "error", {1}),
        (not_finite, "error inf", {0, 1}),
        (breaks, "failed, RuntimeError: no kernel", {0, 1}),
    ],
)
def test_a_peer_without_a_check_has_no_number(serve, call, why, untimed):
    serve(replace(tiny(), peers={"other": Peer(call, "")}))
    document = bench.run(OP)
    for i, row in enumerate(document["rows"]):
        peer = row["peers"]["other"]
        assert ("seconds" not in peer) == ("ratio" not in peer) == (i in untimed)
        assert ("why" in peer) == (i in untimed)
        assert i not in untimed or peer["why"].startswith(why)
    json.dumps(document, allow_nan=False)


def test_a_peer_that_has_no_room_or_no_such_case_is_not_run(serve):
    large = Peer(breaks, "", scratch=lambda case: 1e18)
    other = Peer(breaks, "", limit=lambda case: "no real numbers")
    serve(replace(tiny(), peers={"large": large, "other": other}))
    for row in bench.run(OP)["rows"]:
        assert row["peers"]["large"]["why"].startswith("would hold 1000000000 GB, and ")
        assert row["peers"]["other"] == {"why": "no real numbers"}


def test_the_cap_of_a_case_holds_for_ours_and_not_for_peers(serve):
    (first, _) = tiny().cases("cpu")
    serve(replace(tiny(), cases=lambda device: [replace(first, most=1e-12)]))
    with pytest.raises(Wrong, match=r"allowed 1\.0e-12"):
        bench.run(OP)
    serve(replace(tiny(), cases=lambda device: [replace(first, most=1e-6)]))
    assert "seconds" in bench.run(OP)["rows"][0]["peers"]["formula"]


def test_a_peer_sees_its_own_layout(serve):
    def backwards(q, k, v, **options):  # as if tokens stood in front
        assert q.shape[:2] == (SHAPE["T"], SHAPE["B"])
        o = reference_attention(*(x.transpose(0, 1) for x in (q, k, v)), **options)
        return o.transpose(0, 1)

    peer = Peer(backwards, "", arrange=lambda x: x.transpose(0, 1).contiguous())
    serve(replace(tiny(), peers={"other": peer}))
    assert all("ratio" in row["peers"]["other"] for row in bench.run(OP)["rows"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch"], f"want an op that has a bench ({', '.join(_subject.found())}), got 'nosuch'"),
        ([OP, "--peers", "nosuch"], "(quadratic, recurrent, cumsum, fla), got 'nosuch'"),
        (
            [OP, "--peers", "quadratic", "--peers", "fla"],
            "the peer fla cannot run here: needs CUDA",
        ),
        ([OP, "--device", "cuda"], "--device cuda: torch sees no CUDA device here"),
    ],
    ids=lambda x: x[-1] if isinstance(x, list) else "",
)
def test_what_cannot_be_done_is_refused_in_a_line(tmp_path, capsys, arguments, said):
    assert bench.command_line([*arguments, "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("refused: ")
    assert said in told
    assert told.count("\n") == 1


def test_without_a_book_a_folder_has_to_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert bench.command_line([OP]) == 2
    assert "give --out" in capsys.readouterr().err


def test_peers_not_asked_for_are_left_out_and_those_not_here_say_why(serve):
    absent = Peer(breaks, "", missing=lambda device: f"not on a {device}")
    serve(replace(tiny(), peers={**tiny().peers, "absent": absent, "third": Peer(breaks, "")}))
    assert set(bench.run(OP, peers=("formula",))["peers"]) == {"formula"}
    document = bench.run(OP)
    assert document["peers"]["absent"]["not_here"] == "not on a cpu"
    assert all(set(row["peers"]) == {"formula", "third"} for row in document["rows"])


def test_a_result_replaces_the_last_one_as_a_whole(tmp_path):
    document = {"bench": "op", "kind": "cuda", "device": "NVIDIA H200 (80GB)", "rows": [1.0]}
    path = bench.save(document, tmp_path / "new")
    assert path.name == "op-nvidia-h200-80gb.json"
    with pytest.raises(ValueError, match="JSON"):
        bench.save({**document, "rows": [float("nan")]}, tmp_path / "new")
    assert json.loads(path.read_text()) == document
    assert list(path.parent.iterdir()) == [path]


def test_the_benches_of_all_rooms_take_what_main_returns(serve, monkeypatch):
    serve(replace(tiny(), peers={**tiny().peers, "broken": Peer(breaks, "")}))
    found = bench.main()
    assert len(found) == len(WAYS) * len(bench.found())
    quantities = found[f"{OP}: normalised, forward, float32, B = 2, T = 9, D = 3, M = 2"]
    assert float(quantities["ratio to formula"]) > 0
    assert quantities["broken"] == "failed, RuntimeError: no kernel"
    core.bench._check("kernels", found)
    assert "kernels" in core.bench.found()


def test_the_number_of_threads_is_put_back(serve):
    serve(tiny())
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        bench.run(OP)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_floor_is_the_longer_of_moving_and_computing():
    ceilings = Ceilings(Size(1, 1), bandwidth=100.0, rates={"float32": 10.0, "bfloat16": 1e9})
    one = Case("", {}, torch.float32, False, flop=50.0, bytes=200.0)
    assert ceilings.floor(one) == (5.0, "FLOP")
    assert ceilings.floor(replace(one, bytes=600.0)) == (6.0, "bytes")
    assert ceilings.floor(replace(one, dtype=torch.bfloat16)) == (2.0, "bytes")


def test_ceilings_count_read_and_written_bytes_and_four_products_a_complex_one(monkeypatch):
    monkeypatch.setattr(_ceilings, "alternate", lambda calls, device: dict.fromkeys(calls, 0.5))
    found = _ceilings.ceilings_of("cpu", [torch.complex64, torch.float32])
    assert found.bandwidth == 2 * 2**10 / 0.5
    assert found.rates == {"bfloat16": 256.0, "complex64": 1024.0, "float32": 256.0}


@pytest.mark.parametrize("op", _subject.found())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_bench_has_cases_that_differ_and_floors(op, device):
    cases = _subject.load(op).cases(device)
    assert len({str(case) for case in cases}) == len(cases) > 0
    assert all(case.flop > 0 and case.bytes > 0 for case in cases)
