from typing import Any

import pytest

from core.lab import VERDICTS, Ledger

VALUES: dict[str, Any] = {"paper": "1/5", "here": "0.1919 ± 0.0003"}


def ledger_with(verdict="holds", expected="holds", **more):
    ledger = Ledger("mesa")
    ledger.record(
        "mesa-e8", "Prop. 4.1", "a fifth", **{**VALUES, **more}, verdict=verdict, expected=expected
    )
    return ledger


def verdicts(ledger):
    return [c.verdict for c in ledger.claims]


def test_the_verdicts_are_the_six_of_the_house():
    assert list(VERDICTS) == [
        "holds",
        "holds at this scale",
        "corrected",
        "not seen",
        "undecided",
        "not tried",
    ]


def test_every_claim_as_expected_passes(capsys):
    ledger = ledger_with("corrected", "corrected")
    ledger.verify()
    assert capsys.readouterr().out == "mesa-e8  corrected\n1 claims: 1 corrected\n"


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [("not seen", "holds"), ("holds", "not seen"), ("holds", "holds at this scale")],
)
def test_a_surprise_fails_in_either_direction(verdict, expected):
    with pytest.raises(AssertionError, match=f"mesa-e8: {verdict}, expected {expected}"):
        ledger_with(verdict, expected).verify()


def test_every_surprise_is_named_in_one_line():
    ledger = ledger_with("not seen")
    ledger.record("mesa-e9", "Thm. 4.2", "fine", **VALUES, verdict="holds", expected="holds")
    ledger.record("mesa-e10", "Ex. 4.1", "odd", **VALUES, verdict="not seen", expected="holds")
    with pytest.raises(AssertionError) as failure:
        ledger.verify()
    assert str(failure.value) == (
        "verdicts that were not expected: "
        "mesa-e8: not seen, expected holds; mesa-e10: not seen, expected holds"
    )


def test_an_empty_ledger_proves_nothing():
    with pytest.raises(AssertionError, match="'mesa' is empty"):
        Ledger("mesa").verify()


@pytest.mark.parametrize(
    ("error", "needs", "verdict"),
    [(0.03, 0.02, "undecided"), (0.02, 0.02, "holds"), (0.0, 0.02, "holds")],
)
def test_a_run_too_small_to_tell_says_so(error, needs, verdict):
    assert verdicts(ledger_with(error=error, needs=needs)) == [verdict]


def test_too_small_to_tell_goes_before_what_the_numbers_say():
    ledger = ledger_with("not seen", error=1.0, needs=0.1)
    ledger.verify()
    assert verdicts(ledger) == ["undecided"]


@pytest.mark.parametrize(
    "half",
    [
        {"error": 0.1},
        {"needs": 0.1},
        {"error": float("nan"), "needs": 0.1},
        {"error": 0.1, "needs": float("inf")},
        {"error": float("inf"), "needs": 0.1},
        {"error": -0.1, "needs": 0.1},
        {"error": 0.1, "needs": 0.0},
    ],
    ids=str,
)
def test_an_error_without_its_resolution_is_refused(half):
    with pytest.raises(ValueError, match="error"):
        ledger_with(**half)


@pytest.mark.parametrize(
    "id", ["mup-e8", "mesae8", "mesa", "mesa-", "mesa-E8", "mesa-e_8", "mesa--8", "mesa-e8 "]
)
def test_an_id_that_cannot_label_the_page_is_refused(id):
    with pytest.raises(ValueError, match="want an id mesa-<row>"):
        Ledger("mesa").record(id, "Sec. 1", "s", **VALUES, verdict="holds", expected="holds")


@pytest.mark.parametrize("slug", ["", "Mesa", "mesa-one", "4d"])
def test_a_slug_that_cannot_begin_a_label_is_refused(slug):
    with pytest.raises(ValueError, match="chapter slug"):
        Ledger(slug)


def test_a_row_is_recorded_once():
    ledger = ledger_with()
    with pytest.raises(ValueError, match="mesa-e8 is recorded already"):
        ledger.not_tried("mesa-e8", "Sec. 5", "again", paper="x", needs="days")
    assert len(ledger.claims) == 1


@pytest.mark.parametrize("which", [{"verdict": "true"}, {"expected": "yes"}])
def test_an_unknown_verdict_is_refused_with_the_list(which):
    with pytest.raises(ValueError, match=r"holds, holds at this scale, .*not tried"):
        ledger_with(**which)


def test_the_default_scale_is_expected_to_decide():
    with pytest.raises(ValueError, match="default scale must decide"):
        ledger_with(expected="undecided")


def test_not_tried_has_a_door_of_its_own():
    with pytest.raises(ValueError, match="added by `not_tried`"):
        ledger_with("not tried", "not tried")


@pytest.mark.parametrize("name", ["paper", "here"])
@pytest.mark.parametrize("value", [0.19, None, " "], ids=repr)
def test_values_come_rounded_as_text(name, value):
    with pytest.raises(ValueError, match=f"want `{name}` as text"):
        ledger_with(**{name: value})


def test_what_was_not_tried_says_what_it_takes():
    ledger = Ledger("mesa")
    ledger.not_tried("mesa-e21", "Sec. 5", "one hour", paper="1 h on a 3090", needs="that card")
    ledger.verify()
    assert (ledger.claims[0].here, verdicts(ledger)) == ("needs that card", ["not tried"])


@pytest.mark.parametrize("needs", [None, "", 3])
def test_what_was_not_tried_is_refused_without_a_reason(needs):
    with pytest.raises(ValueError, match="as text"):
        Ledger("mesa").not_tried("mesa-e21", "Sec. 5", "s", paper="x", needs=needs)


def test_what_was_read_says_what_was_read():
    ledger = Ledger("mesa")
    ledger.audited(
        "mesa-e20",
        "abstract",
        "code available",
        **VALUES | {"here": "incomplete"},
        read="the repository at 1f2e3d",
        verdict="corrected",
        expected="corrected",
    )
    assert ledger.claims[0].here == "incomplete (read: the repository at 1f2e3d)"


def test_what_was_read_is_refused_when_nothing_was():
    with pytest.raises(ValueError, match="want `read` as text"):
        Ledger("mesa").audited(
            "mesa-e20", "s", "s", **VALUES, read="", verdict="holds", expected="holds"
        )
