"""The chapter's cell for a reader's own video, which the committed run leaves out."""

from pathlib import Path
from typing import Any

import jupytext
import pytest
import torch

CHAPTER = Path(__file__).parents[2] / "book/controlvideo.py"
pytest.importorskip("cv2")


@pytest.mark.slow
def test_the_cell_edits_a_film_with_a_checkpoint_of_stable_diffusions_format(here):
    cells = [c for c in jupytext.read(CHAPTER).cells if c.cell_type == "code"]
    (parameters,) = (c for c in cells if "parameters" in c.metadata.get("tags", []))
    (inputs,) = (c for c in cells if "inputs" in c.metadata.get("tags", []))
    (cell,) = (c for c in cells if c.source.startswith("if base_model:"))
    imports, _, _ = inputs.source.partition("ledger = ")
    shown: list[dict[str, torch.Tensor]] = []
    known: dict[str, Any] = {"where": torch.device("cpu")}
    exec(parameters.source + "\n" + imports, known)
    known |= {"base_model": "base", "controlnet": "net0", "film": "in.mp4"}
    known |= {"film_frames": 2, "film_size": 16, "says": "a red", "becomes": "a blue"}
    known["clip"] = lambda panels, **_: shown.append(panels)
    exec(cell.source, known)
    (panels,) = shown
    assert {tuple(v.shape) for v in panels.values()} == {(2, 3, 16, 16)}
    assert panels["edit"].isfinite().all()
    assert not torch.equal(panels["edit"], panels["source"])
