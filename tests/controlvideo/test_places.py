"""Where a video is written to: what is refused before the work, and why."""

import os
import sys
from fractions import Fraction

import pytest
import torch
from PIL import Image

from core.controlvideo._places import check_apart, check_target
from core.controlvideo.video import Video, read, write

pytest.importorskip("av")

STILL = torch.zeros(2, 3, 16, 32)


def frames_of_others(folder):
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "00000.png")
    return folder


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.avi", {}, "want a name ending in .mp4 or .gif, or a folder, got .*out.avi"),
        ("none/out.mp4", {}, "in a folder that exists"),
        ("file/out.mp4", {}, "in a folder that exists"),
        ("lost", {}, "in a folder that exists"),
        ("folder.mp4", {}, "to be a file, it is none"),
        ("file", {}, "to be a folder, it is none"),
        ("mine", {}, "mine holds notes.txt, no frame of ours"),
        ("frames", {}, "frames holds 00000.png, and no video.json that says"),
        ("rated", {}, "rated holds 00000.png, and no video.json that says"),
        ("out.mp4", {"size": (15, 16)}, "want even sides for an mp4, got 15 x 16"),
        ("out.png", {"frames": 2}, "want one frame for a png, got 2"),
        ("out.gif", {"rate": Fraction(101, 2)}, "at most 50 frames a second in a gif, got 50.5"),
        ("out.mp4", {"rate": Fraction(1001)}, "want 0.01 to 1000 frames a second, got 1001"),
        ("out", {"rate": Fraction(1, 101)}, "want 0.01 to 1000 frames a second, got 0.0099"),
    ],
)
def test_places_that_cannot_be_written_to_are_refused(tmp_path, name, options, message):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("of the day")
    (tmp_path / "lost").symlink_to(tmp_path / "none" / "out")
    frames_of_others(tmp_path / "frames")
    frames_of_others(tmp_path / "rated")
    (tmp_path / "rated" / "video.json").write_text('{"rate": "24"}')
    with pytest.raises(ValueError, match=message):
        check_target(tmp_path / name, **options)


def test_a_folder_that_is_ours_or_empty_is_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        write(tmp_path / "empty", Video(STILL, Fraction(8)))
        assert len(read(tmp_path / "empty").frames) == 2
    with pytest.raises(ValueError, match="name another folder"):
        write(frames_of_others(tmp_path / "frames"), Video(STILL, Fraction(8)))
    assert len(read(tmp_path / "frames").frames) == 1


@pytest.mark.parametrize("name", ["there", "there.mp4"])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path, name):
    write(tmp_path / name, Video(STILL, Fraction(8)))
    link = tmp_path / f"link{(tmp_path / name).suffix}"
    link.symlink_to(tmp_path / name)
    write(link, Video(STILL[:1], Fraction(8)))
    assert link.is_symlink()
    assert len(read(tmp_path / name).frames) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_a_gif_that_no_player_shows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at most 50 frames a second"):
        write(tmp_path / "out.gif", Video(STILL, Fraction(60)))


@pytest.mark.parametrize("slowest_and_fastest", [Fraction(1, 100), Fraction(1000)])
def test_rates_from_the_least_to_the_most_are_kept(tmp_path, slowest_and_fastest):
    write(tmp_path / "out.mp4", Video(STILL, slowest_and_fastest))
    assert read(tmp_path / "out.mp4").rate == slowest_and_fastest


def test_a_folder_that_lets_nobody_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, how: path != tmp_path.resolve())
    with pytest.raises(ValueError, match=r"a folder to write in, got .*out.mp4: no right to"):
        check_target(tmp_path / "out.mp4")


def test_without_its_library_films_are_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for name in ("out.mp4", "out.GIF"):
        with pytest.raises(ImportError, match=r"papers-executed\[controlvideo\]"):
            check_target(tmp_path / name)
    for name in ("out", "out.png"):
        check_target(tmp_path / name)


def test_what_is_read_is_not_written_over_by_any_name_of_it(tmp_path):
    frames, film = frames_of_others(tmp_path / "frames"), tmp_path / "in.mp4"
    write(film, Video(STILL, Fraction(8)))
    (tmp_path / "link.mp4").symlink_to(film)
    (tmp_path / "hard.mp4").hardlink_to(film)
    (tmp_path / "linked").symlink_to(frames)
    sources = tmp_path / "linked", tmp_path / "link.mp4"
    for name in ("in.mp4", "link.mp4", "hard.mp4", "frames", "linked", "none/../in.mp4"):
        with pytest.raises(ValueError, match=rf"than what is read, got .*{name}"):
            check_apart(tmp_path / name, *sources)
    with pytest.raises(ValueError, match=r"outside of the frames that are read"):
        check_apart(tmp_path / "linked" / "00001.png", *sources)
    check_apart(tmp_path / "frames" / "out.mp4", *sources)
    check_apart(tmp_path / "out.mp4", *sources, tmp_path / "none.mp4")
