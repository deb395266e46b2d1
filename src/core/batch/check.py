"""Check what is committed, without running it: every problem, with its file and what mends it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import nbformat

from core.batch import claims_page, study
from core.batch.chapters import Chapter, all_chapters
from core.batch.notebook import claims_in, code_hash, figures_in, what_is_missing
from core.batch.parameters import defaults_of, scale_values
from core.batch.records import Record, broken_seal, faults, read_record, runs_in
from core.batch.rules import CHAPTER_RULES, REFRESH, Committed, Problem
from core.command import Refused

DELETE = "delete it, or enter its chapter in book/_toc.yml"


def problems(root: Path) -> list[Problem]:
    """Return all that is wrong with the book below `root`, in the order of the book."""
    chapters = all_chapters(root)
    found = [p for chapter in chapters for p in _of_chapter(chapter)]
    return [*found, *_strays(root, chapters), *_pages(root, chapters)]


def notes(root: Path) -> list[Problem]:
    """Return what is no fault and yet worth knowing: evidence of another version of the code."""
    return [
        Problem(path.relative_to(root).as_posix(), "of another version of the code", again)
        for chapter in all_chapters(root)
        for path, again in (*_kept(chapter), *_studied(chapter))
        if (read_record(path) or {}).get("source") != chapter.sha256
    ]


def _of_chapter(chapter: Chapter) -> Iterator[Problem]:
    try:
        ast.parse(chapter.text)
    except SyntaxError as error:
        where, what = f"book/{chapter.name}.py", f"line {error.lineno}: {error.msg}"
        yield Problem(where, what, "a chapter is a Python script")
        return
    committed = _committed(chapter)
    if isinstance(committed, Problem):
        yield committed
        return
    for rule in CHAPTER_RULES:
        yield from rule(committed)
    yield from _scales(chapter)
    yield from _evidence(chapter)


def _committed(chapter: Chapter) -> Committed | Problem:
    refresh = REFRESH.format(chapter.name)
    try:
        notebook = nbformat.read(chapter.notebook, as_version=4)
    except (OSError, ValueError):
        return Problem(f"book/{chapter.name}.ipynb", "missing, or no notebook", refresh)
    record = read_record(chapter.record)
    if record is None:
        return Problem(f"book/{chapter.name}.json", "missing, or no record", refresh)
    return Committed(chapter, notebook, record)


def _scales(chapter: Chapter) -> Iterator[Problem]:
    """Demand that each scale names parameters of the chapter, with values of their types."""
    for path in sorted((chapter.root / "book" / "scales" / chapter.name).glob("*.yaml")):
        try:
            scale_values(chapter, path.stem)
        except Refused as why:
            file, _, what = str(why).partition(": ")
            yield Problem(file, what, "correct the file")


def _evidence(chapter: Chapter) -> Iterator[Problem]:
    """Demand that each run kept as evidence is whole, and is what its name says."""
    labels = {claim["id"] for claim in (read_record(chapter.record) or {}).get("claims", [])}
    for path, again in _kept(chapter):
        for what in _faults_of_evidence(path, chapter, labels):
            yield Problem(path.relative_to(chapter.root).as_posix(), what, again)
    for path, again in _studied(chapter):
        for what in _faults_of_study(read_record(path), chapter.name, labels):
            yield Problem(path.relative_to(chapter.root).as_posix(), what, again)


def _kept(chapter: Chapter) -> Iterator[tuple[Path, str]]:
    """Yield the record of each run kept as evidence, with the command that makes it again."""
    for path in runs_in(chapter.root / "book" / "evidence" / chapter.name):
        yield path, f"python -m core.batch run {chapter.name} --scale {path.stem} --evidence"


def _studied(chapter: Chapter) -> Iterator[tuple[Path, str]]:
    """Yield the study over seeds, if there is one, with the commands that make it again."""
    path = study.path_of(chapter)
    if path.is_file():
        yield path, f"python -m core.batch grid {chapter.name} --seeds 0..4, then study"


def _faults_of_study(found: study.Study | None, chapter: str, labels: set[str]) -> Iterator[str]:
    wrong = study.faults(found)
    yield from (f"not valid, {fault}" for fault in wrong)
    if found is None or wrong:
        return
    if seal := broken_seal(found):
        yield seal
    if found["chapter"] != chapter:
        yield f"it is the study of {found['chapter']}"
    for claim in found["claims"]:
        if claim["id"] not in labels:
            yield f"claim {claim['id']} is none of the chapter's"


def _faults_of_evidence(path: Path, chapter: Chapter, labels: set[str]) -> Iterator[str]:
    record = read_record(path) or {}
    yield from (f"not valid, {fault}" for fault in faults(record))
    if seal := broken_seal(record):
        yield seal
    if (record.get("chapter"), record.get("scale")) != (chapter.name, path.stem):
        yield f"it is the record of {record.get('chapter')} at scale {record.get('scale')}"
    elif record.get("source") == chapter.sha256 and not _is_of_scale(record, chapter):
        yield f"its parameters are not those of the scale {path.stem}"
    for claim in record.get("claims", []):
        if claim.get("id") not in labels:
            yield f"claim {claim.get('id')} is none of the chapter's"
    try:
        notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    except (OSError, ValueError):
        yield "its notebook is missing"
        return
    missing = what_is_missing(notebook)
    if missing:
        yield f"in its notebook, {missing}"
    if code_hash(notebook) != record.get("source"):
        yield "it is not the record of the code in its notebook"
    if claims_in(notebook) != record.get("claims"):
        yield "its claims are not those in its notebook"
    if figures_in(notebook) != record.get("figures", {}):
        yield "its figures are not those in its notebook"


def _is_of_scale(record: Record, chapter: Chapter) -> bool:
    try:
        wanted = defaults_of(chapter) | scale_values(chapter, record["scale"])
    except Refused:  # of which another rule tells
        return True
    return record.get("parameters") == wanted


def _strays(root: Path, chapters: list[Chapter]) -> Iterator[Problem]:
    """Demand that every notebook, scale and piece of evidence belongs to a chapter."""
    known = {chapter.name for chapter in chapters}
    book = root / "book"
    stray = [path for path in book.glob("*.ipynb") if path.stem not in known]
    folders = [*book.glob("scales/*/"), *book.glob("evidence/*/")]
    stray += [folder for folder in folders if folder.name not in known and any(folder.iterdir())]
    for path in sorted(stray):
        yield Problem(path.relative_to(root).as_posix(), "belongs to no chapter", DELETE)


def _pages(root: Path, chapters: list[Chapter]) -> Iterator[Problem]:
    """Demand that what is generated from the records is what they generate now."""
    due = claims_page.generated(root / "book", chapters)
    for name in claims_page.SUMMARISED:
        if (root / name).is_file() and root / name not in due:
            marks = " and ".join(claims_page.MARKS)
            yield Problem(name, "it has no table of claims", f"put {marks} where it belongs")
    for path, text in due.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            what = "it is not what the records give"
            yield Problem(path.relative_to(root).as_posix(), what, REFRESH.format("--pages"))
