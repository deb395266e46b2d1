"""A folder of images: which are drawn, and what is said of those that cannot be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.multisource.image_folder import image_folder

RED, BLUE = (200, 0, 0), (0, 0, 200)


def ten(root, classes, n=5, *, seed=1, test=3, skip=False):
    """Sources of ten images each, of 4 x 4 pixels, unless told otherwise."""
    return image_folder(root, classes, n, seed=seed, size=4, validation=2, test=test, skip=skip)


def picture(path, colour, size=(6, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes of ten images; the red channel counts them."""
    for name in ("n01", "n02"):
        for i in range(10):
            picture(tmp_path / name / f"{i}.png", (20 * i, 0, 7 if name == "n01" else 250))
    return tmp_path


def red(part):
    return ((part.images[:, 0, 0, 0] + 1) * 127.5 / 20).round().int().tolist()


def test_no_image_is_drawn_twice(root):
    drawn = ten(root, ["n01", "n02"])
    for k in (0, 1):
        parts = [red(column[k]) for column in drawn.sources[1:]]
        assert [len(part) for part in parts] == [5, 2, 3]
        assert sorted(i for part in parts for i in part) == list(range(10))
    assert drawn.sources.names == ("n01", "n02")
    assert not drawn.skipped


def test_files_are_named_in_the_order_of_their_images(root):
    drawn = ten(root, ["n02"])
    numbers = [i for column in drawn.sources[1:] for i in red(column[0])]
    assert list(drawn.files[0]) == [f"{i}.png" for i in numbers]
    assert all(column[0].images[:, 2].min() > 0.9 for column in drawn.sources[1:])


def test_a_draw_depends_on_seed_and_class_and_not_on_the_other_classes(root):
    both = ten(root, ["n01", "n02"])
    assert ten(root, ["n02"]).files[0] == both.files[1]
    assert ten(root, ["n02", "n01"]).files == both.files[::-1]
    assert both.files[0] != both.files[1]
    assert ten(root, ["n01"], seed=2).files[0] != both.files[0]


def test_a_draw_does_not_depend_on_the_order_in_which_a_disk_lists_files(root, monkeypatch):
    before = ten(root, ["n01"]).files
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda path, how: reversed(list(listed(path, how))))
    assert ten(root, ["n01"]).files == before


def test_images_are_cut_to_their_centre_and_scaled(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16, 0] = 255  # the middle third is red
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "x.png")
    for other in "yz":
        picture(tmp_path / "a" / f"{other}.png", (255, 0, 0))
    drawn = image_folder(tmp_path, ["a"], 1, seed=1, size=8, validation=1, test=1)
    for column in drawn.sources[1:]:
        assert column[0].images.shape == (1, 3, 8, 8)
        expected = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        torch.testing.assert_close(column[0].images, expected)


def test_a_missing_class_is_named_beside_those_that_are_there(root):
    with pytest.raises(FileNotFoundError, match=r"needs the class n03, n04 .* has 2: n01, n02"):
        ten(root, ["n01", "n03", "n04"])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is none"):
        ten(tmp_path / "nowhere", ["a"])


def test_a_class_with_too_few_images_is_named_with_their_number(root):
    with pytest.raises(ValueError, match=r"want 11 images of the class 'n01' .*got 10"):
        ten(root, ["n01"], 6)


def test_damaged_and_colourless_files_are_named(root):
    (root / "n01" / "4.png").write_bytes(b"no image")
    whole = (root / "n01" / "5.png").read_bytes()
    (root / "n01" / "5.png").write_bytes(whole[: len(whole) // 2])
    picture(root / "n02" / "7.png", 90, mode="L")
    for i in range(3):  # others, so that there are enough
        picture(root / "n01" / f"more{i}.png", RED)
        picture(root / "n02" / f"more{i}.png", BLUE)
    with pytest.raises(ValueError, match="images in colour") as found:
        ten(root, ["n01", "n02"], test=4)
    for text in ("n01/4.png (damaged)", "n01/5.png (damaged)", "n02/7.png (mode L, not RGB)"):
        assert text in str(found.value)
    drawn = ten(root, ["n01", "n02"], skip=True, test=4)
    assert len(drawn.skipped) == 3
    assert not {"4.png", "5.png"} & set(drawn.files[0])
    assert "7.png" not in drawn.files[1]
    assert len(set(drawn.files[0])) == 11


def test_many_bad_files_are_counted(root):
    for i in range(30):
        (root / "n01" / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r", and \d+ more: mend"):
        ten(root, ["n01"])


def test_a_class_named_twice_is_refused(root):
    with pytest.raises(ValueError, match="each class once, got n01"):
        ten(root, ["n01", "n02", "n01"])
    with pytest.raises(ValueError, match="got no class"):
        ten(root, [])
