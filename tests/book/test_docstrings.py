"""The extension that shows docstrings and annotations as they stand in the code."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sphinx.ext.autodoc.mock import _MockModule

EXT = Path(__file__).parents[2] / "book/_ext/docstrings.py"


@pytest.fixture(scope="module")
def ext():
    spec = importlib.util.spec_from_file_location("docstrings", EXT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_of(annotation: Any) -> str:
    return annotation.__name__


def shown(ext, text, what="function"):
    lines = text.splitlines()
    ext.as_plain_text(None, what, "name", None, None, lines)
    return "\n".join(lines)


def test_an_indented_block_is_a_formula(ext):
    text = "The law.\n\n    |x| = a*b*c\n\nAfter it.\n\n    y = x_\n\n    z\n\nEnd."
    wanted = "The law.\n\n::\n\n    |x| = a*b*c\n\nAfter it.\n\n::\n\n    y = x_\n\n    z\n\nEnd."
    assert shown(ext, text) == wanted


def test_a_block_that_is_literal_already_stays(ext):
    text = "The commands::\n\n    run |x|"
    assert shown(ext, text) == text


def test_the_body_of_a_section_is_prose(ext):
    text = "Return it.\n\nArgs:\n    x: |x| < 1.\n\n        further."
    assert shown(ext, text) == "Return it.\n\nArgs:\n    x: \\|x\\| < 1.\n\n        further."


def test_prose_keeps_its_signs_and_its_code(ext):
    assert shown(ext, "x_ and *y* of `a*b`, $\\kappa_1$") == (
        "x\\_ and \\*y* of `a*b`, :math:`\\kappa_1`"
    )


def test_an_attribute_begins_without_a_colon(ext):
    assert shown(ext, "Of sequences: distance.", "attribute") == "..\n\nOf sequences: distance."


def test_a_type_that_is_not_installed_joins_and_has_parameters(ext):
    ext.setup(SimpleNamespace(connect=lambda *event, priority: None))
    torch: Any = _MockModule("torch")
    assert name_of(torch.Tensor | None) == "Tensor | None"
    assert name_of(int | torch.Tensor) == "Tensor | int"
    assert name_of(torch.NDArray[int]) == "NDArray[int]"
