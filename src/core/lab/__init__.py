"""What chapters share and no paper owns: the ledger of claims, quoted numbers, figures, clips."""

from core.lab.clips import clip
from core.lab.devices import choose_device
from core.lab.figures import COLOURS, figure, heat_maps
from core.lab.ledger import VERDICTS, Claim, Ledger
from core.lab.prose import quote

__all__ = [
    "COLOURS",
    "VERDICTS",
    "Claim",
    "Ledger",
    "choose_device",
    "clip",
    "figure",
    "heat_maps",
    "quote",
]
