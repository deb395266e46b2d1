"""Values as typed or as in YAML, against the annotation; papermill's own guesses are the traps."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.batch.chapters import find_chapters
from core.batch.parameters import Parameter, parameters_of, scales_of, values_of
from core.command import Refused


def a(annotation: str) -> Parameter:
    return Parameter("x", annotation, None, "")


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("str", "007", "007"),
        ("str", "1e3", "1e3"),
        ("str", "none", "none"),
        ("str", "None", "None"),
        ("str", "[1, 2]", "[1, 2]"),
        ("str", "", ""),
        ("str", "'quoted'", "'quoted'"),
        ("int", "-3", -3),
        ("int", "1_000", 1000),
        ("float", "1e3", 1000.0),
        ("float", "2", 2.0),
        ("bool", "False", False),
        ("list[int]", "[1, 2]", [1, 2]),
        ("list[float]", "[1, 2.5]", [1.0, 2.5]),
        ("list[str]", "['a']", ["a"]),
        ("list[list[int]]", "[[1], []]", [[1], []]),
        ("dict[str, float]", "{'a': 1}", {"a": 1.0}),
        ("int | None", "None", None),
        ("str | None", "None", None),
        ("str | None", "abc", "abc"),
        ("float | str", "2", 2.0),
    ],
)
def test_text_becomes_what_the_annotation_says(annotation, text, value):
    parsed = a(annotation).parse(text)
    assert parsed == value
    assert type(parsed) is type(value)
    if isinstance(value, list):
        assert [type(item) for item in parsed] == [type(item) for item in value]


SIMPLE = {
    "int": st.integers(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "list[str]": st.lists(st.text()),
}
# an annotation, and what draws values of it
TYPED = st.recursive(
    st.sampled_from(list(SIMPLE.items())),
    lambda inner: st.one_of(
        inner.map(lambda of: (f"list[{of[0]}]", st.lists(of[1], max_size=3))),
        inner.map(lambda of: (f"dict[str, {of[0]}]", st.dictionaries(st.text(), of[1]))),
        inner.map(lambda of: (f"{of[0]} | None", of[1] | st.none())),
    ),
    max_leaves=4,
)
# the same examples each time, however slow the machine
steady = settings(max_examples=50, deadline=None, database=None, derandomize=True)


@steady
@given(TYPED.flatmap(lambda of: st.tuples(st.just(of[0]), of[1])))
def test_a_literal_of_the_type_is_taken_as_it_is(typed):
    annotation, value = typed
    assert repr(a(annotation).parse(repr(value))) == repr(value)


@steady
@given(st.text())
def test_a_string_takes_any_text_as_it_is(text):
    assert a("str").parse(text) == text


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("int", "1.0"),
        ("int", "1e3"),
        ("int", "007"),
        ("int", "True"),
        ("int", "seven"),
        ("int", ""),
        ("float", "True"),
        ("float", "1e999"),
        ("bool", "1"),
        ("bool", "true"),
        ("list[int]", "[1, True]"),
        ("list[int]", "(1, 2)"),
        ("list[int]", "1"),
        ("dict[str, int]", "{1: 2}"),
        ("int | None", "none"),
        ("int", "__import__('os').getcwd()"),
        ("Path", "here"),
    ],
)
def test_text_of_another_type_is_refused(annotation, text):
    with pytest.raises(Refused, match="parameter x wants "):
        a(annotation).parse(text)


def test_an_untyped_parameter_takes_nothing():
    with pytest.raises(Refused, match="has no type"):
        a("").parse("1")


def test_the_command_line_wins_over_the_scale(book):
    (tiny,) = find_chapters(book, ())
    assert scales_of(tiny) == ["cpu", "long"]
    assert values_of(tiny, "cpu", {}) == {}
    assert values_of(tiny, "long", {"rate": "3"}) == {"rate": 3.0, "widths": [3]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rate: float = 2 * 3", "malformed"),
        ("print(1)", "line 2 sets none"),
        ("rate: float = ", "invalid syntax"),
    ],
)
def test_a_parameters_cell_holds_literals_alone(book, line, said):
    script = book / "book" / "tiny.py"
    script.write_text(script.read_text().replace("rate: float = 1.0", line))
    with pytest.raises(Refused, match=f"parameters cell: want lines of .*{said}"):
        parameters_of(find_chapters(book, ())[0])
