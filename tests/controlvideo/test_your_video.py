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
    imports, _, set_up = inputs.source.partition("ledger = ")
    reads = set_up[set_up.index("if base_model:") : set_up.index("quote(")]
    shown: list[dict[str, torch.Tensor]] = []
    known: dict[str, Any] = {"where": torch.device("cpu")}
    exec(parameters.source + "\n" + imports, known)
    known |= {"base_model": "base", "controlnet": "net0", "film": "in.mp4"}
    known |= {"film_frames": 2, "film_size": 16, "says": "a red", "becomes": "a blue"}
    known["clip"] = lambda panels, **_: shown.append(panels)
    exec(reads + cell.source, known)
    (panels,) = shown
    assert {tuple(v.shape) for v in panels.values()} == {(2, 3, 16, 16)}
    assert panels["edit"].isfinite().all()
    assert not torch.equal(panels["edit"], panels["source"])


def test_a_film_that_is_not_there_is_missed_before_anything_is_tuned():
    cells = [c for c in jupytext.read(CHAPTER).cells if c.cell_type == "code"]
    reads = next(i for i, c in enumerate(cells) if "read(film" in c.source)
    tunes = next(i for i, c in enumerate(cells) if "bench." in c.source)
    assert reads < tunes
