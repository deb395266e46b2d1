"""What progress says, to a terminal and to a file."""

import io

import pytest
from rich.console import Console

from core.train import progress
from core.train.progress import Show, spoken


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def lines_of(clock, **options):
    told = io.StringIO()
    with Show("step", 100, console=Console(file=told, width=200), **options) as show:
        for done in range(show.done + 1, 101):
            clock.now += 3.0
            show(done, f"loss {done / 100:.2f}")
    return told.getvalue().splitlines()


def test_without_a_terminal_there_is_a_line_now_and_then_and_one_at_the_end(clock):
    lines = lines_of(clock)
    # a step takes 3 s, a line comes after 10
    assert lines[0] == "step 4 of 100, loss 0.04, 3 s each, 4 min 48 s left"
    assert lines[1] == "step 8 of 100, loss 0.08, 3 s each, 4 min 36 s left"
    assert lines[-1] == "step 100 of 100, loss 1.00, 3 s each"
    assert len(lines) == 25


def test_after_a_resume_the_time_left_is_judged_by_the_steps_since(clock):
    assert lines_of(clock, done=90)[0] == "step 94 of 100, loss 0.94, 3 s each, 18 s left"


def test_other_ranks_say_nothing(clock):
    assert lines_of(clock, quiet=True) == []


def test_a_terminal_has_a_bar_with_count_and_figures():
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, highlight=False, width=120)
    with Show("step", 2, console=console) as show:
        show(1, "loss 0.50")
        show.say("skipped 3 lines")
        show(2, "loss 0.25")
    assert "2/2" in told.getvalue()
    assert "loss 0.25" in told.getvalue()
    assert "skipped 3 lines" in told.getvalue()
    assert "s each" not in told.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (41.4, "41 s"),
        (60, "1 min"),
        (280, "4 min 40 s"),
        (3 * 3600 + 300, "3 h 5 min"),
        (2 * 86400 + 4 * 3600 + 59, "2 d 4 h"),
    ],
)
def test_time_is_said_in_two_units(seconds, said):
    assert spoken(seconds) == said
