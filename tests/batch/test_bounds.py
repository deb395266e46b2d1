"""The lower bounds, against files whose bounds are plain to see."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from core.batch.bounds import lowest

PROJECT = """
[project]
name = "some-thing"
dependencies = ["torch>=2.10", "Under_Score>=1.2,<3"]
[project.optional-dependencies]
a = ["b==1.0.post1", "torch>=2.4", "extra[more]>=7; sys_platform == 'linux'"]
all = ["some_thing[a]"]
"""


def test_each_package_has_its_highest_bound():
    assert lowest(PROJECT) == ["b==1.0.post1", "extra==7", "torch==2.10", "under-score==1.2"]


def test_a_bound_can_be_replaced():
    assert lowest(PROJECT, ("torch==2.13.0",))[2] == "torch==2.13.0"


def test_a_package_without_a_bound_is_refused():
    with pytest.raises(ValueError, match="torch<3 has no lower bound: write torch>="):
        lowest(PROJECT.replace("torch>=2.10", "torch<3").replace("torch>=2.4", "torch<3"))


def test_the_bounds_of_this_package_allow_what_is_pinned():
    root = Path(__file__).parents[2]
    pinned = [line for line in (root / "requirements.txt").read_text().splitlines() if "==" in line]
    versions = {r.name.lower(): str(r.specifier)[2:] for r in map(Requirement, pinned)}
    for line in lowest((root / "pyproject.toml").read_text()):
        bound = Requirement(line.replace("==", ">="))
        pin = versions.get(bound.name) or versions.get(bound.name.replace("-", "_"))
        assert pin is None or bound.specifier.contains(pin), line
