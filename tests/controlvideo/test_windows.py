import pytest
import torch

from core.controlvideo.windows import Windows

KINDS = ["gaussian", "constant", "linear"]


@pytest.mark.parametrize(
    ("frames", "size", "overlap", "windows", "evaluations"),
    # the published long demos: swan, girl's face, car, girl
    [(50, 12, 10, 20, 260), (100, 12, 8, 23, 299), (100, 24, 16, 11, 271), (140, 36, 24, 10, 366)],
)
def test_the_published_demos_cost_what_their_windows_say(
    frames, size, overlap, windows, evaluations
):
    cut = Windows(size, overlap).cut(frames)
    assert len(cut) == windows
    assert sum(map(len, cut)) + len(cut) == evaluations  # and the video of key frames
    assert sorted({i for w in cut for i in w}) == list(range(frames))


@pytest.mark.parametrize(
    ("frames", "size", "overlap", "borders"),
    [
        (9, 3, 1, [2, 3, 4, 5, 6, 7]),
        (18, 6, 3, [3, 6, 9, 12, 15]),
        (7, 3, 0, [3, 6]),
        (3, 5, 2, []),
    ],
)
def test_borders_are_where_windows_begin_or_have_ended(frames, size, overlap, borders):
    assert Windows(size, overlap).borders(frames) == borders


@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("frames", [1, 5, 12, 13, 20])
def test_what_is_the_same_in_all_windows_stays(weights, frames):
    x = torch.randn(frames, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    fused = Windows(6, 2, weights).fuse(frames, lambda at: x[list(at)])
    torch.testing.assert_close(fused, x)


@pytest.mark.parametrize("weights", KINDS)
def test_weights_are_symmetric_and_never_zero(weights):
    for frames in (1, 4, 7):
        w = Windows(8, 2, weights).weigh(frames)
        torch.testing.assert_close(w, w.flip(0))
        assert (w > 0).all()
        assert w.argmax() in ((frames - 1) // 2, frames // 2) or weights == "constant"


def test_overlaps_are_averaged_and_key_frames_blended():
    """By hand: windows 0-3 and 2-5, each predicting its own number; the key frames' video 10."""
    predict = lambda at: torch.full((len(at), 1, 1, 1), 10.0 if list(at) == [0, 2] else at[0] / 2)  # noqa: E731
    fused = Windows(4, 2, "constant", key_weight=0.25).fuse(6, predict).flatten()
    expected = torch.tensor([0.75 * 0 + 0.25 * 10, 0, 0.75 * 0.5 + 0.25 * 10, 0.5, 1, 1])
    torch.testing.assert_close(fused, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4, "overlap": 4}, "shorter than they are, got size 4, overlap 4"),
        ({"size": 0}, "at least one frame"),
        ({"key_weight": 1.5}, r"key_weight in \[0, 1\], got 1.5"),
        ({"weights": "cosine"}, "'cosine'"),
    ],
)
def test_windows_that_never_end_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Windows(**options)
