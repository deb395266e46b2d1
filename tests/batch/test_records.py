"""The record on disk: valid, whole or absent, comparable."""

import json

import pytest
from jsonschema import Draft202012Validator

from core.batch import records


def record_of(root) -> records.Record:
    return json.loads((root / "book" / "tiny.json").read_text())


def test_the_schema_is_a_schema_and_describes_its_fields():
    Draft202012Validator.check_schema(records.schema())
    fields = records.schema()["properties"]
    # evidence from before figures had numbers is not run again for them; a seal comes last
    assert set(records.schema()["required"]) == set(fields) - {"figures", "seal"}
    assert records.schema()["additionalProperties"] is False


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "ok"),
        ("source", "abc"),
        ("started", "yesterday"),
        ("claims", [{"id": "a"}]),
        ("provenance", {}),
        ("failure", {"cell": 1}),
        ("cells", [{"index": -1, "seconds": 0}]),
        ("nonsense", 1),
    ],
)
def test_a_record_out_of_shape_is_not_written(once, field, value):
    good = record_of(once)
    assert records.faults(good) == []
    assert len(records.faults({**good, field: value})) >= 1
    with pytest.raises(ValueError, match="the record of tiny is not valid"):
        records.text_of({**good, field: value})


def test_results_are_compared_without_their_circumstances(once):
    good = record_of(once)
    later = {**good, "started": "2000-01-01T00:00:00Z", "seconds": 9, "cells": []}
    assert records.result_of(later) == records.result_of(good)
    assert records.result_of({**good, "warnings": ["w"]}) != records.result_of(good)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff"])
def test_what_is_no_record_reads_as_none(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, errors="surrogateescape")
    assert records.read_record(path) is None
    assert records.read_record(tmp_path / "missing.json") is None
