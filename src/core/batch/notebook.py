"""What may be read from an executed notebook, and the form in which it is committed.

No metadata is trusted: papermill calls every cell "completed" when the kernel was killed. A
notebook is whole when each of its code cells carries an execution count and none an error.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from nbformat import NotebookNode

MIME = "core"
CLAIMS_TAG = "nbval-check-output"
INJECTED = "injected-parameters"
NOISE = ("papermill", "execution", "lines_to_next_cell")
WARNING = re.compile(r"\b(\w*Warning: .*)")


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Return the code cells that are not empty, each with its place among all cells."""
    numbered = enumerate(notebook.cells)
    return [(i, c) for i, c in numbered if c.cell_type == "code" and c.source.strip()]


def code_hash(notebook: NotebookNode) -> str:
    """Return the hash of a chapter's code: no prose, no tags, no parameters that were given."""
    cells = (
        cell for _, cell in code_cells(notebook) if INJECTED not in cell.metadata.get("tags", [])
    )
    return hashlib.sha256("\n# %%\n".join(cell.source for cell in cells).encode()).hexdigest()


def with_prose(executed: NotebookNode, source: NotebookNode) -> NotebookNode:
    """Return the execution with prose and tags as `source` has them.

    Raises:
        ValueError: it is an execution of other code.
    """
    if code_hash(executed) != code_hash(source):
        raise ValueError("want an execution of the same code, got one of another")
    again = copy.deepcopy(executed)
    again.cells = copy.deepcopy(source.cells)
    for (_, cell), (_, ran) in zip(code_cells(again), code_cells(executed), strict=True):
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    return normalise(again)


def what_is_missing(notebook: NotebookNode) -> str | None:
    """Return why the notebook is no whole execution, None where it is one."""
    for index, cell in code_cells(notebook):
        if cell.execution_count is None:
            return f"cell {index} never ran"
        for output in cell.outputs:
            if output.output_type == "error":
                return f"cell {index} raised {output.ename}: {output.evalue}"
    if len(list(_ledgers(notebook))) > 1:
        return "more than one output carries claims: a chapter has one ledger"
    return None


def claims_in(notebook: NotebookNode) -> list[dict[str, Any]]:
    """Return the claims that the ledger left in the metadata of its output, [] without one."""
    return [claim for _, claims in _ledgers(notebook) for claim in claims]


def claims_cell(notebook: NotebookNode) -> NotebookNode | None:
    """Return the cell whose output carries the claims."""
    return next((cell for cell, _ in _ledgers(notebook)), None)


def figures_in(notebook: NotebookNode) -> dict[str, list[dict[str, Any]]]:
    """Return the numbers behind each figure, as `core.lab` left them with it.

    A figure is called as the page calls it, else by its place among all figures: `figure-3`.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for _, cell in code_cells(notebook):
        for panels in panels_of(cell.outputs):
            called = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            number = f"figure-{len(found) + 1}"
            found[called if called and called not in found else number] = panels
    return json.loads(json.dumps(found, sort_keys=True))  # in one order, wherever it was read


def panels_of(outputs: list[NotebookNode]) -> list[list[dict[str, Any]]]:
    """Return the numbers behind the figures among the outputs of a cell, those that have any."""
    kept = (output.get("metadata", {}).get(MIME, {}).get("figure") for output in outputs)
    return [panels for panels in kept if panels is not None]


def warnings_in(notebook: NotebookNode) -> list[str]:
    """Return the warnings on standard error, without the temporary paths they begin with."""
    outputs = (output for _, cell in code_cells(notebook) for output in cell.outputs)
    texts = (output.text for output in outputs if output.get("name") == "stderr")
    return [found for text in texts for found in WARNING.findall(text)]


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook without what differs from run to run; the argument is changed.

    Cell ids become hashes of their content; timings, standard error and all metadata but the
    kernel's name go. Two executions with equal results are then equal byte for byte.
    """
    kernel = notebook.metadata["kernelspec"]
    kernelspec = {key: kernel[key] for key in ("display_name", "language", "name") if key in kernel}
    language = {"name": kernelspec.get("language", "python")}
    notebook.metadata = NotebookNode(kernelspec=kernelspec, language_info=language)
    for index, cell in enumerate(notebook.cells):
        cell["id"] = hashlib.sha256(f"{index}\n{cell.source}".encode()).hexdigest()[:8]
        for key in NOISE:
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill leaves an empty list
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def without_banners(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook without the cells by which papermill points at an error."""
    tag = "papermill-error-cell-tag"
    notebook.cells = [c for c in notebook.cells if tag not in c.metadata.get("tags", [])]
    return notebook


def same_source(notebook: NotebookNode, source: NotebookNode) -> bool:
    """Return whether the two agree cell by cell in kind, text and metadata."""
    return [_essence(cell) for cell in notebook.cells] == [_essence(cell) for cell in source.cells]


def _essence(cell: NotebookNode) -> tuple[str, str, dict[str, Any]]:
    kept = {key: value for key, value in cell.metadata.items() if key not in NOISE}
    return cell.cell_type, cell.source, kept


def _ledgers(notebook: NotebookNode) -> Iterator[tuple[NotebookNode, list[dict[str, Any]]]]:
    for _, cell in code_cells(notebook):
        for output in cell.outputs:
            claims = output.get("metadata", {}).get(MIME, {}).get("claims")
            if claims is not None:
                yield cell, claims
