from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from core.controlvideo import scenes as scene
from core.controlvideo import study
from core.controlvideo.study import (
    KEY_FRAME,
    PER_FRAME,
    Arm,
    Bench,
    Difference,
    compare,
    difference,
    draw_case,
    freer,
    referred,
)


def test_a_case_does_not_depend_on_the_cases_drawn_besides():
    one, other = draw_case(0, 3, 4), draw_case(0, 3, 4)
    assert torch.equal(one.image, other.image)
    assert one.change == other.change
    assert draw_case(0, 4, 4).source.words() != one.source.words()


def test_prompts_say_what_is_named_and_the_edit_is_new():
    for i in range(20):
        case = draw_case(1, i, 3)
        words = case.source.words()
        assert case.source_prompt == f"a {words['texture']} {words['colour']} {words['shape']}"
        assert case.change["colour"] not in (words["colour"], words["ground"])
        assert case.prompt == case.source_prompt.replace(words["colour"], case.change["colour"])
        assert freer(case, ()).prompt == f"a {words['shape']}"


def test_references_show_what_the_prompt_asks_for_on_a_ground_that_it_does_not_name(rng):
    for i in range(8):
        case = draw_case(1, i, 3)
        images, truth = referred(case, rng, 5)
        asked, named = case.truth.words(), truth.words()
        assert images.shape == (5, 3, scene.SIZE, scene.SIZE)
        assert named["ground"] not in case.prompt
        assert {**named, "ground": ""} == {**asked, "ground": ""}
        # in corners, which objects seldom hide: its colour in the edit, shades of it in references
        colours = torch.tensor(list(scene.COLOURS.values()))
        ground = list(scene.COLOURS).index(named["ground"])
        for shown, off in ((scene.render(truth).image, 1e-6), (images, 0.6)):
            corners = shown[..., [0, 0, -1, -1], [0, -1, 0, -1]].movedim(1, -1)
            far = (corners[..., None, :] - colours).abs().amax(-1)
            seen = (far.argmin(-1) == ground) & (far.amin(-1) <= off)
            assert seen.float().mean() >= 0.75


def test_an_interval_is_that_of_a_paired_t_test(rng):
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    found = difference(a, b)
    known = stats.ttest_rel(a.mean(1), b.mean(1))
    low, high = known.confidence_interval(0.95)
    assert found.mean - found.half == pytest.approx(low)
    assert found.mean + found.half == pytest.approx(high)
    assert found.below == (high < 0)
    assert found.above == (low > 0)
    with pytest.raises(ValueError, match="at least two cases"):
        difference(a[:1], b[:1])


@pytest.fixture(scope="module")
def bench():
    from core.controlvideo.small import small

    return Bench(small(), steps=3, learning_rate=1e-3)


def test_arms_of_a_case_start_from_the_same_noise(bench):
    case = draw_case(0, 0, 3)
    bench.prepare(case, PER_FRAME)
    own, key = (bench.edit(case, arm, 1, start="shared") for arm in (PER_FRAME, KEY_FRAME))
    again = bench.edit(case, KEY_FRAME, 1, start="shared")
    assert torch.equal(key, again)
    # the key frame sees itself in both
    torch.testing.assert_close(own[0], key[0], atol=1e-4, rtol=0)
    assert (own[1:] - key[1:]).abs().max() > 1e-3


def test_drawn_noise_has_steps_of_its_own_and_an_inversion_those_of_its_sampler(bench):
    case, both = draw_case(0, 0, 3), replace(bench, drawn_steps=2)
    bench.prepare(case, KEY_FRAME)
    for start, same, not_that in (("shared", 2, 3), ("inverted", 3, 2)):
        edit, plain, other = (
            b.edit(case, KEY_FRAME, 1, start=start)
            for b in (both, replace(bench, steps=same), replace(bench, steps=not_that))
        )
        assert torch.equal(edit, plain)
        assert not torch.equal(edit, other)


def test_arms_are_tuned_and_scored(bench):
    cases = [draw_case(0, i, 3) for i in range(2)]
    arms = {
        "key": KEY_FRAME,
        "tuned": Arm(steps=2),
        "queries": Arm(steps=2, branches=False, trained="projections", projections=("to_q",)),
    }
    found = compare(bench, cases, arms, (0, 1), ("shared",))["shared"]
    assert found.keys() == arms.keys()
    assert found["key"]["error"].shape == (2, 2)
    for each in found.values():
        assert all(np.isfinite(v).all() for v in each.values())
    assert (found["key"]["error"] != found["tuned"]["error"]).all()
    # seven self-attentions of the UNet and three of the ControlNet
    assert len(bench.pipe.adapter.deltas) == 7 + 3


def test_a_tuned_arm_learns_its_video(bench):
    case = draw_case(0, 1, 3)
    losses = bench.prepare(case, Arm(steps=30))
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_an_arm_is_tuned_as_it_is_edited(bench, monkeypatch):
    recipes = []
    monkeypatch.setattr(study, "tune", lambda *given, **options: recipes.append(given[4]))
    arm = Arm("own", "video", (1,), 3, "projections", branches=False)
    bench.prepare(draw_case(0, 0, 3), arm, 7)
    (recipe,) = recipes
    for name in ("sees", "norm", "keys", "steps", "trained", "branches"):
        assert getattr(recipe, name) == getattr(arm, name)
    assert recipe.seed == 7


def test_an_adapter_is_named_by_its_seed_and_uses_up_no_other_numbers(bench):
    before, drawn = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        bench.prepare(draw_case(0, 0, 3), Arm(copied=False), seed)
        drawn.append(next(iter(bench.pipe.adapter.branches.values())).to_q.weight)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_without_tuning_an_inverted_edit_does_not_depend_on_the_seed(bench):
    case, arm, found = draw_case(0, 0, 3), Arm(copied=False), []
    for seed in (0, 1):
        bench.prepare(case, arm, seed)
        found.append(bench.edit(case, arm, seed))
    assert torch.equal(*found)


def test_what_does_not_depend_on_the_seed_is_computed_once_a_case(bench, monkeypatch):
    calls = []

    def edit(self, case, arm, seed, *, start):
        calls.append((arm.steps, start, seed))
        return case.image

    monkeypatch.setattr(Bench, "edit", edit)
    monkeypatch.setattr(study, "tune", lambda *given, **options: [])
    cases = [draw_case(0, i, 3) for i in range(2)]
    arms = {"still": KEY_FRAME, "tuned": Arm(steps=1)}
    found = compare(bench, cases, arms, (4, 5, 6), ("inverted", "shared"))
    assert found.keys() == {"inverted", "shared"}
    for of_start in found.values():
        assert {each["error"].shape for each in of_start.values()} == {(2, 3)}
    seeds = {
        (steps, start): [s for *kind, s in calls if kind == [steps, start]]
        for steps in (0, 1)
        for start in ("inverted", "shared")
    }
    # cases draw their own, arms and starts of a case share it
    drawn = seeds[0, "shared"]
    assert len({*drawn}) == 6
    assert seeds.pop((0, "inverted")) == [drawn[0], drawn[3]]
    assert list(seeds.values()) == [drawn] * 3


def test_what_there_is_nothing_of_is_refused(bench):
    for cases, seeds, got in (
        ([], (0,), "0 cases, 1 seeds"),
        ([draw_case(0, 0, 3)], (), "1 cases, 0 seeds"),
    ):
        with pytest.raises(ValueError, match=f"at least one case, seed and start, got {got}"):
            compare(bench, cases, {"key": KEY_FRAME}, seeds)
    with pytest.raises(ValueError, match="want trained='projections' of a tuned arm without br"):
        Arm(steps=1, branches=False)


def test_scenes_of_a_case_are_what_its_prompts_say():
    case = draw_case(2, 0, 2)
    assert scene.caption(**case.truth.words()).startswith(case.prompt)


@pytest.mark.parametrize(
    ("mean", "half", "told"),
    [
        (-0.3, 0.2, True),
        (0.3, 0.2, True),
        (0.1, 0.2, False),
        (0.01, 0.04, True),
        (0.03, 0.04, False),
    ],
)
def test_a_difference_tells_something_apart_from_zero_or_close_to_it(mean, half, told):
    found = Difference(mean, half).resolved(0.05)
    assert (found["error"] <= found["needs"]) is told
