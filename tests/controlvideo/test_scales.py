"""The scales of the chapter: what no run of seconds would find out."""

from pathlib import Path

import pytest
import yaml

SCALES = sorted((Path(__file__).parents[2] / "book/scales/controlvideo").glob("*.yaml"))
COMPARED = {"frame alone", "key frame", "projections", "full"}
"""Rungs that claims of the chapter compare at every scale."""


@pytest.mark.parametrize("path", SCALES, ids=lambda path: path.stem)
def test_a_ladder_has_the_rungs_that_claims_compare(path):
    ladder = yaml.safe_load(path.read_text(encoding="utf-8")).get("ladder", COMPARED)
    assert {*ladder} >= COMPARED
