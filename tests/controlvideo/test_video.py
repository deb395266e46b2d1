"""Videos in and out, against Pillow, PyAV and closed forms."""

import errno
import math
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.controlvideo.video import Pick, Video, read, write

av = pytest.importorskip("av")


def greys(frames=6, side=(16, 32)):
    """Frame i is of the grey 20 (i + 1) of 255: it says which it is."""
    grey = 20 * torch.arange(1, frames + 1) / 255
    return grey[:, None, None, None].expand(-1, 3, *side).clone()


def which(frames):
    """The numbers of frames of `greys`; H.264 moves a flat grey by 2 at most."""
    return (frames.mean(dim=(1, 2, 3)) * 255 / 20).round().int().sub(1).tolist()


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(5, 2)])
@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out"])
@pytest.mark.parametrize("frames", [1, 6])
def test_what_is_written_is_read(tmp_path, name, rate, frames):
    write(tmp_path / name, Video(greys(frames), rate))
    found = read(tmp_path / name)
    assert found.frames.shape == (frames, 3, 16, 32)
    assert found.total == frames
    assert which(found.frames) == list(range(frames))
    # a gif's frames last whole hundredths of a second, all of them together to one
    slack = 0 if name != "out.gif" else 0.01
    assert abs(frames / found.rate - frames / rate) <= slack
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_frames_that_are_equal_stay_in_a_gif(tmp_path):
    write(tmp_path / "out.gif", Video(greys(1).expand(5, -1, -1, -1), Fraction(10)))
    with Image.open(tmp_path / "out.gif") as image:
        assert image.n_frames == 5  # type: ignore[attr-defined]


def test_a_folder_is_without_loss(tmp_path, rng):
    pixels = rng.integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    frames = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    write(tmp_path / "out", Video(frames, Fraction(8)))
    with Image.open(tmp_path / "out" / "00002.png") as image:
        assert (np.asarray(image) == pixels[2]).all()
    assert torch.equal(read(tmp_path / "out").frames, frames)


def test_an_mp4_says_how_its_colours_are_meant_and_they_are(tmp_path):
    """Red by the formulas of BT.709, in 16..235 and 16..240."""
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(2, 3, 16, 16)
    write(tmp_path / "out.mp4", Video(red, Fraction(8)))
    with av.open(str(tmp_path / "out.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "h264"
        assert film.streams.video[0].codec_context.colorspace == 1
        frame = next(film.decode(video=0))
    y, u, v = (np.frombuffer(plane, np.uint8)[0] for plane in frame.planes)
    luma = 0.2126
    expected = 16 + 219 * luma, 128 - 224 * luma / (2 * (1 - 0.0722)), 128 + 224 / 2
    assert np.abs(np.subtract((y, u, v), expected)).max() <= 1
    assert (read(tmp_path / "out.mp4").frames - red).abs().max() <= 3 / 255


def test_a_film_of_a_telephone_is_upright(tmp_path):
    """The matrix of ISO 14496-12 for a quarter clockwise: the left becomes the top."""
    x = torch.zeros(2, 3, 16, 32)
    x[..., :16] = 1  # the left half is white
    path = tmp_path / "out.mp4"
    write(path, Video(x, Fraction(8)))
    content = bytearray(path.read_bytes())
    one = 1 << 16
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    at = content.index(upright, content.index(b"tkhd"))
    content[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 16 * one, 0, 1 << 30)
    path.write_bytes(content)
    found = read(path).frames
    assert found.shape == (2, 3, 32, 16)
    assert found[:, :, :15].mean() > 0.98
    assert found[:, :, 17:].mean() < 0.02


@pytest.mark.parametrize(
    ("pick", "expected"),
    [
        (Pick(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (Pick(4), [0, 2, 4, 6]),  # 11 // 4 apart
        (Pick(3), [0, 3, 6]),
        (Pick(11), list(range(11))),
        (Pick(2, first=4), [4, 7]),
        (Pick(3, first=1, stride=2), [1, 3, 5]),
        (Pick(stride=5), [0, 5, 10]),
    ],
)
@pytest.mark.parametrize("name", ["in.mp4", "in"])
def test_frames_are_picked_and_the_time_stays(tmp_path, name, pick, expected):
    write(tmp_path / name, Video(greys(11), Fraction(24)))
    found = read(tmp_path / name, pick)
    assert which(found.frames) == expected
    stride = expected[1] - expected[0]
    assert found.rate == Fraction(24, stride)
    assert found.total == 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 12}, "want 12 frames, 1 apart, from frame 0 on, got a video of 11 frames"),
        ({"frames": 4, "stride": 4}, "which has 3 of them"),
        ({"first": 11}, r"want a first frame in 0..10, got 11"),
        ({"frames": 0}, "want frames and stride >= 1"),
        ({"stride": 0}, "want frames and stride >= 1"),
        ({"first": -1}, "a first frame >= 0"),
    ],
)
def test_frames_that_are_not_there_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Pick(**options).of(11)


def test_the_order_is_that_of_the_numbers(tmp_path):
    for i in range(11):
        Image.new("RGB", (4, 4), (20 * (i + 1),) * 3).save(tmp_path / f"take2_{i}.png")
    (tmp_path / "notes.txt").write_text("of the day")
    found = read(tmp_path)
    assert which(found.frames) == list(range(11))
    assert found.rate == 8
    (tmp_path / "video.json").write_text('{"rate": "24000/1001"}')
    assert read(tmp_path).rate == Fraction(24000, 1001)
    (tmp_path / "video.json").write_text('{"rate": 29.97}')
    assert read(tmp_path).rate == Fraction(2997, 100)


@pytest.mark.parametrize("kind", ["in.mp4", "in"])
def test_another_aspect_is_cut_or_padded(tmp_path, kind):
    x = torch.zeros(2, 3, 16, 32)
    x[..., 8:24] = 1  # white in the middle, a square
    write(tmp_path / kind, Video(x, Fraction(8)))
    cut = read(tmp_path / kind, size=(8, 8), factor=4).frames
    assert cut.shape == (2, 3, 8, 8)
    assert cut[..., 1:-1].min() > 0.9
    padded = read(tmp_path / kind, size=(32, 32), fit="pad").frames
    assert padded[:, :, :8].max() < 0.1
    assert padded[:, :, 9:-9, 10:22].min() > 0.9
    assert padded[:, :, -8:].max() < 0.1


def test_grey_transparent_and_turned_images_are_frames(tmp_path):
    Image.new("L", (4, 6), 200).save(tmp_path / "1.png")
    Image.new("RGBA", (4, 6), (200, 200, 200, 255)).save(tmp_path / "2.png")
    turned = Image.new("RGB", (6, 4), (200, 200, 200))
    turned.getexif()[0x0112] = 6  # orientation: a quarter
    turned.save(tmp_path / "3.png", exif=turned.getexif())
    assert torch.equal(read(tmp_path).frames, torch.full((3, 3, 6, 4), 200.0) / 255)


def no_film(folder):
    (folder / "in.mp4").write_bytes(b"not a film")
    return folder / "in.mp4"


def a_film_that_is_cut(folder):
    write(folder / "in.mp4", Video(greys(), Fraction(8)))
    content = (folder / "in.mp4").read_bytes()
    (folder / "in.mp4").write_bytes(content[: len(content) // 3])
    return folder / "in.mp4"


def sound(folder):
    with av.open(str(folder / "in.mov"), "w") as film:
        stream = film.add_stream("pcm_s16le", rate=8000)
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        tone.rate = 8000
        film.mux(stream.encode(tone))
    return folder / "in.mov"


def an_image(folder):
    Image.new("RGB", (4, 4)).save(folder / "in.png")
    return folder / "in.png"


def another_kind(folder):
    (folder / "in.txt").write_text("words")
    return folder / "in.txt"


def a_folder_without_images(folder):
    (folder / "words.txt").write_text("words")
    return folder


def images_of_two_sizes(folder):
    Image.new("RGB", (4, 4)).save(folder / "1.png")
    Image.new("RGB", (6, 4)).save(folder / "2.png")
    return folder


def a_broken_image(folder):
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


def deep_pixels(folder):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "1.png")
    return folder


def a_film_without_its_first_picture(folder):
    """The others say only what changed since: nothing can be shown."""
    with av.open(str(folder / "in.mkv"), "w") as film:
        one_whole = {"x264-params": "bframes=0:keyint=99:scenecut=0"}
        stream = film.add_stream("libx264", rate=8, options=one_whole)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        grey = np.full((16, 16, 3), 100, np.uint8)
        pictures = [av.VideoFrame.from_ndarray(grey, "rgb24") for _ in range(4)]
        packets = [packet for one in (*pictures, None) for packet in stream.encode(one)]
        for packet in packets[1:]:
            film.mux(packet)
    return folder / "in.mkv"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (no_film, "in.mp4 is no film that can be read: Invalid data"),
        (a_film_that_is_cut, "in.mp4 is no film that can be read"),
        (sound, "want a film with pictures, got none"),
        (an_image, "in.png: give its folder"),
        (another_kind, r"want a film \(.mp4, .*\) or a folder of images, got .*in.txt"),
        (a_folder_without_images, r"want images \(.png, .*it holds words.txt"),
        (images_of_two_sizes, r"got 4 x 4 \(1.png\) and 4 x 6 \(2.png\)"),
        (a_broken_image, "1.png is no image that can be read"),
        (deep_pixels, r"its pixels are I;16, want 8 bits"),
        (a_film_without_its_first_picture, "want at least one frame, got none in .*in.mkv"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, made, message):
    with pytest.raises(ValueError, match=message):
        read(made(tmp_path))


@pytest.mark.parametrize(
    "rate", ['"fast"', "Infinity", "NaN", "-24", "0", '"1/0"', '"1e999999999"', "null", "[24]"]
)
def test_a_rate_that_is_none_is_refused(tmp_path, rate):
    an_image(tmp_path)
    (tmp_path / "video.json").write_text(f'{{"rate": {rate}}}')
    with pytest.raises(ValueError, match=r'video.json: want {"rate": "24"}, .* above zero'):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("in.avi", {}),
        ("in.mkv", {}),
        ("in.mov", {}),
        ("in.mp4", {}),
        ("in.m4v", {"movflags": "frag_keyframe+empty_moov"}),  # that has a track of nothing
        ("in.gif", {}),
    ],
)
def test_a_film_without_a_frame_says_so_whatever_its_format(tmp_path, name, options):
    path = tmp_path / name
    if path.suffix == ".gif":
        path.write_bytes(b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0, 0, 0) + b";")
    else:
        with av.open(str(path), "w", options=options) as film:
            stream = film.add_stream("mpeg4", rate=8)
            stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
            film.start_encoding()
    with pytest.raises(ValueError, match=r"^want at least one frame, got none in ") as refused:
        read(path)
    assert str(refused.value).endswith(f" {path}")


def test_what_is_not_there_and_sizes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no video at .*none.mp4"):
        read(tmp_path / "none.mp4")
    write(tmp_path / "in.gif", Video(greys(side=(18, 30)), Fraction(8)))
    with pytest.raises(ValueError, match="multiples of 8, got 18 x 30: the nearest are 16 x 32"):
        read(tmp_path / "in.gif", factor=8)
    with pytest.raises(ValueError, match="multiples of 64, got 500 x 10: the nearest are 512 x 64"):
        read(tmp_path / "in.gif", size=(500, 10), factor=64)
    with pytest.raises(ValueError, match="'crop' or 'pad', got 'squeeze'"):
        read(tmp_path / "in.gif", size=(16, 16), fit="squeeze")  # type: ignore[arg-type]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_what_was_there_stays_where_writing_ends_early(tmp_path, monkeypatch, name, error):
    write(tmp_path / name, Video(greys(), Fraction(8)))
    before, put, calls = contents(tmp_path), Path.write_bytes, []

    def stops(path, content):
        calls.append(path)
        put(path, content[: len(content) // 2])
        if len(calls) == (1 if "." in name else 3):
            raise error

    monkeypatch.setattr(Path, "write_bytes", stops)
    with pytest.raises(type(error)):
        write(tmp_path / name, Video(greys(4), Fraction(8)))
    assert contents(tmp_path) == before
    monkeypatch.undo()
    write(tmp_path / name, Video(greys(4), Fraction(8)))
    assert len(read(tmp_path / name).frames) == 4


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out"])
def test_a_disk_that_takes_no_more_leaves_what_was_there(tmp_path, full, name):
    write(tmp_path / name, Video(greys(), Fraction(8)))
    before = contents(tmp_path)
    noise = torch.rand(4, 3, 64, 64)
    with full(), pytest.raises(OSError, match="File too large"):
        write(tmp_path / name, Video(noise, Fraction(8)))
    assert contents(tmp_path) == before
    write(tmp_path / name, Video(noise, Fraction(8)))
    assert read(tmp_path / name).frames.shape == noise.shape


def test_without_its_library_it_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "in.mp4", Video(greys(), Fraction(8)))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"papers-executed\[controlvideo\]"):
        read(tmp_path / "in.mp4")
    write(tmp_path / "out", Video(greys(), Fraction(8)))
    assert which(read(tmp_path / "out").frames) == list(range(6))


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        (greys(1)[:0], "at least one frame"),
        (greys(2)[0], "at least one frame"),
        (greys(2)[:, :1], "at least one frame"),
        (greys(2) * 255, "want pixels in"),
        (greys(2) * math.nan, "want pixels in"),
    ],
)
@pytest.mark.parametrize("name", ["out.mp4", "out"])
def test_no_video_is_written_over_what_is_none(tmp_path, name, frames, why):
    write(tmp_path / name, Video(greys(3), Fraction(8)))
    with pytest.raises(ValueError, match=why):
        write(tmp_path / name, Video(frames, Fraction(8)))
    assert len(read(tmp_path / name, Pick(None), size=(16, 16)).frames) == 3
