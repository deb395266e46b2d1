"""What every chapter shares and no paper owns: the ledger of claims, quoted numbers, figures."""

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
    "figure",
    "heat_maps",
    "quote",
]
