"""What a chapter can be asked to do differently: its typed parameters, and its scales.

The cell tagged `parameters` holds lines such as `runs: int = 200  # Monte Carlo runs`. A scale is
a YAML file of values for them, `book/scales/<chapter>/<scale>.yaml`; the defaults are the scale
`cpu`. Papermill guesses types (`007` becomes 7) and lets unknown names pass, so that both are
settled here, before it sees them.
"""

import ast
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core.batch.chapters import Chapter
from core.command import Refused

DEFAULT_SCALE = "cpu"
SIMPLE = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell."""

    name: str
    annotation: str
    """As written, such as `list[int]`; empty where the line has none."""
    default: Any
    comment: str

    def accept(self, value: Any) -> Any:
        """Return `value` in the type of the annotation.

        Raises:
            Refused: it is of another type.
        """
        if not self.annotation:
            raise Refused(f"parameter {self.name} has no type: write {self.name}: int = ...")
        try:
            return _fit(value, ast.parse(self.annotation, mode="eval").body)
        except TypeError:
            said = f"parameter {self.name} wants {self.annotation}, got {value!r}"
            like = re.fullmatch(r"([+-]?\d+)(e[+-]?\d+)", str(value))
            hint = f"write {like[1]}.0{like[2]}" if like else f"such as {self.default!r}"
            raise Refused(f"{said}: {hint}") from None

    def parse(self, text: str) -> Any:
        """Return what is meant by `text` from a command line.

        A Python literal of the right type is taken as such; else, where the type allows a string,
        the text itself: `007` is 7 for an int and stays "007" for a str.

        Raises:
            Refused: it is neither.
        """
        try:
            value = ast.literal_eval(text)
            if not isinstance(value, str):
                return self.accept(value)
        except (ValueError, SyntaxError, Refused):
            pass
        return self.accept(text)


def defaults_of(chapter: Chapter) -> dict[str, Any]:
    """Return the parameters of a chapter as its script has them."""
    return {name: parameter.default for name, parameter in parameters_of(chapter).items()}


def parameters_of(chapter: Chapter) -> dict[str, Parameter]:
    """Return the parameters in the order of the cell; none where no cell has the tag.

    Raises:
        Refused: the cell holds something else than `name: type = literal` lines.
    """
    cells = chapter.source.cells
    cell = next((c.source for c in cells if "parameters" in c.metadata.get("tags", [])), "")
    try:
        found = [_parameter(cell, line) for line in ast.parse(cell).body]
    except (SyntaxError, ValueError) as error:
        where = f"book/{chapter.name}.py, parameters cell"
        raise Refused(f"{where}: want lines of `name: type = literal` ({error})") from error
    return {parameter.name: parameter for parameter in found}


def scales_of(chapter: Chapter) -> list[str]:
    """Return the names of the scales, the default one first."""
    return [DEFAULT_SCALE, *sorted(path.stem for path in _folder(chapter).glob("*.yaml"))]


def values_of(chapter: Chapter, scale: str, overrides: dict[str, str]) -> dict[str, Any]:
    """Return every value that differs from the chapter's defaults by request.

    Args:
        chapter: whose parameters are meant.
        scale: one of `scales_of`.
        overrides: name -> text as typed; it wins over the scale.

    Returns:
        Parameter name -> value of the annotated type.

    Raises:
        Refused: an unknown scale or parameter, or a value of the wrong type.
    """
    known = parameters_of(chapter)
    values = scale_values(chapter, scale)
    for name, text in overrides.items():
        values[name] = named_parameter(known, name, chapter.name).parse(text)
    return values


def scale_values(chapter: Chapter, scale: str) -> dict[str, Any]:
    """Return the values a scale file gives, each of the annotated type; none for `cpu`.

    Raises:
        Refused: there is no such file, or it names a parameter or value that does not fit.
    """
    if scale == DEFAULT_SCALE:
        return {}
    if scale not in scales_of(chapter):
        known = ", ".join(scales_of(chapter))
        raise Refused(f"unknown scale {scale!r}: chapter {chapter.name} has {known}")
    path = _folder(chapter) / f"{scale}.yaml"
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(given, dict):
            raise Refused("want lines of `name: value`")
        parameters = parameters_of(chapter)
        return {n: named_parameter(parameters, n, chapter.name).accept(v) for n, v in given.items()}
    except (Refused, yaml.YAMLError) as error:
        where = path.relative_to(chapter.root)
        raise Refused(f"{where}: {' '.join(str(error).split())}") from error


def named_parameter(known: dict[str, Parameter], name: str, chapter: str) -> Parameter:
    """Return the parameter of that name.

    Raises:
        Refused: the chapter has none.
    """
    if name not in known:
        listed = ", ".join(known) or "none"
        raise Refused(f"unknown parameter {name!r}: chapter {chapter} has {listed}")
    return known[name]


def _folder(chapter: Chapter) -> Path:
    return chapter.root / "book" / "scales" / chapter.name


def _parameter(cell: str, line: ast.stmt) -> Parameter:
    rest = cell.splitlines()[(line.end_lineno or 1) - 1][line.end_col_offset or 0 :]
    comment = rest.partition("#")[2].strip()
    match line:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=ast.expr() as value):
            return Parameter(name, ast.unparse(kind), ast.literal_eval(value), comment)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return Parameter(name, "", ast.literal_eval(value), comment)
    raise ValueError(f"line {line.lineno} sets none")


def _fit(value: Any, kind: ast.expr) -> Any:
    """Return `value` as a `kind`, an int widened to a float where one is wanted.

    Raises:
        TypeError: it is of another type, or the annotation is none that YAML can hold.
    """
    match kind:
        case ast.Name("float") if type(value) is int:
            return float(value)
        case ast.Name("float") if type(value) is float and not math.isfinite(value):
            raise TypeError  # JSON has no name for it
        case ast.Name(name) if name in SIMPLE and type(value) is SIMPLE[name]:
            return value
        case ast.Constant(None) if value is None:
            return None
        case ast.Subscript(ast.Name("list"), element) if isinstance(value, list):
            return [_fit(item, element) for item in value]
        case ast.Subscript(ast.Name("dict"), ast.Tuple([key, item])) if isinstance(value, dict):
            return {_fit(k, key): _fit(v, item) for k, v in value.items()}
        case ast.BinOp(left, ast.BitOr(), right):
            try:
                return _fit(value, left)
            except TypeError:
                return _fit(value, right)
    raise TypeError
