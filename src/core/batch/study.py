"""What became of each claim over seeds: `over-seeds.json` in a chapter's evidence.

It is made from the results of `grid`. A run in which a verdict was not the expected one has failed,
and counts: its ledger is whole. `study.schema.json` says what each field means.
"""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from core.batch.chapters import Chapter
from core.batch.parameters import DEFAULT_SCALE, defaults_of
from core.batch.records import Record, read_record, seal_of
from core.batch.results import Results
from core.batch.trace import told
from core.command import Refused

NAME = "over-seeds.json"
Study = dict[str, Any]


def path_of(chapter: Chapter) -> Path:
    """Return where the study of a chapter stands."""
    return chapter.root / "book" / "evidence" / chapter.name / NAME


def faults(study: Any) -> list[str]:
    """Return where a study departs from its schema, one line each."""
    return [f"{error.json_path}: {error.message}" for error in _schema().iter_errors(study)]


def read(path: Path) -> Study | None:
    """Return the study, None where there is none or it is not valid."""
    found = read_record(path)
    return None if found is None or faults(found) else found


def runs_of(results: Results) -> dict[str, list[Record]]:
    """Return, by chapter, the records of the grid that was last asked for, failed ones too.

    Those at other scales than the default are left out: the page of claims, which a study is for,
    has its own column for each.

    Raises:
        Refused: a task has not been run, or nothing was asked for.
    """
    failed, done = results.failures(), results.done()
    found: dict[str, list[Record]] = {}
    for task in results.plan():
        if task.scale != DEFAULT_SCALE:
            continue
        if task.key not in done and task.key not in failed:
            raise Refused(f"{task}: it has no result yet: run the grid again")
        record = results.record(task.key) if task.key in done else failed[task.key]
        found.setdefault(task.chapter, []).append(record)
    if not found:
        raise Refused(f"{results.place}: no run at scale {DEFAULT_SCALE} was asked for")
    return found


def check_default(study: Study, chapter: Chapter) -> None:
    """Refuse a study of other parameters than the page of the chapter shows.

    Raises:
        Refused: one of them is not the default.
    """
    wanted = defaults_of(chapter)
    for name, value in study["parameters"].items():
        if value != wanted.get(name):
            raise Refused(
                f"{study['chapter']}: a study is kept of the defaults alone, got {name} = "
                f"{value!r} for {wanted.get(name)!r}: `results` and `plot` show any grid"
            )


def study_of(records: list[Record]) -> Study:
    """Return the study of the runs of one chapter.

    Args:
        records: of runs that differ in their seed alone.

    Raises:
        Refused: they differ in more, or are fewer than two.
    """
    first = records[0]
    shared = [_shared(record) for record in records]
    for name, value in shared[0].items():
        others = [other[name] for other in shared if other[name] != value]
        if others:
            values = f"{name} {value!r} and {others[0]!r}"
            raise Refused(
                f"{first['chapter']}: want runs that differ in their seed alone: {values}"
            )
    by_seed = {record["seed"]: record for record in records}
    if len(by_seed) < 2 or None in by_seed:
        raise Refused(
            f"{first['chapter']}: want two seeds or more, got {len(by_seed)}: --seeds 0..4"
        )
    seeds = sorted(by_seed)
    runs = [by_seed[seed] for seed in seeds]
    stopped = {r["seed"]: told(r["failure"]) for r in runs if r["failure"] and not r["claims"]}
    names = dict.fromkeys(claim["id"] for run in runs for claim in run["claims"])
    return {
        "study": "over seeds",
        "chapter": first["chapter"],
        "scale": first["scale"],
        "parameters": {n: v for n, v in first["parameters"].items() if n != "seed"},
        "source": first["source"],
        "seeds": seeds,
        "unfinished": {str(seed): why for seed, why in stopped.items()},
        "claims": [_claim(name, runs) for name in names],
        "provenance": _once([run["provenance"] for run in runs]),
    }


def text_of(study: Study) -> str:
    """Return the study as it is written: sealed."""
    study = study | {"seal": seal_of(study)}
    return json.dumps(study, indent=1, ensure_ascii=False) + "\n"


def told_of(study: Study, name: str, verdict: str) -> str:
    """Return how often a claim came out as it stands: `5 of 5`, `3 of 5 holds, 2 undecided`.

    Nothing where it was never tried.
    """
    total = len(study["seeds"])
    claim = next((claim for claim in study["claims"] if claim["id"] == name), None)
    if claim is None:
        return ""
    counts = Counter({said: len(seeds) for said, seeds in claim["verdicts"].items()})
    counts["without"] = total - counts.total()
    if counts["not tried"] == total:
        return ""
    if counts[verdict] == total:
        return f"{total} of {total}"
    (most, number), *rest = [pair for pair in counts.most_common() if pair[1]]
    return ", ".join([f"{number} of {total} {most}", *(f"{n} {said}" for said, n in rest)])


def _shared(record: Record) -> dict[str, Any]:
    """Return all that runs of a study have in common."""
    values = {n: value for n, value in record["parameters"].items() if n != "seed"}
    return {"scale": record["scale"], "source": record["source"], **values}


def _claim(name: str, runs: list[Record]) -> dict[str, Any]:
    verdicts: dict[str, list[int]] = {}
    here: dict[str, str] = {}
    for run in runs:
        for claim in run["claims"]:
            if claim["id"] == name:
                verdicts.setdefault(claim["verdict"], []).append(run["seed"])
                here[str(run["seed"])] = claim["here"]
    return {"id": name, "verdicts": verdicts, "here": here}


def _once(values: list[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]


@cache
def _schema() -> Draft202012Validator:
    text = Path(__file__).with_name("study.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))
