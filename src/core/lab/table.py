"""How claims look: a card each, a table for people, plain text for comparing two runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.lab.ledger import Claim

HEADS = ("Claim", "Where", "Statement", "Paper says", "We measure", "Verdict")


def as_text(claims: list[Claim]) -> str:
    """Return one line a claim, id and verdict, then the counts; no numbers that drift."""
    width = max((len(c.id) for c in claims), default=0)
    lines = [f"{c.id:<{width}}  {c.verdict}" for c in claims]
    counts = Counter(c.verdict for c in claims)
    tally = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    return "\n".join([*lines, f"{len(claims)} claims: {tally or 'none'}"])


def as_html(chapter: str, claims: list[Claim]) -> str:
    """Return the table that a reader sees, each id a link to the cell that proves it."""
    head = "".join(f'<th scope="col">{name}</th>' for name in HEADS)
    return (
        f'<table class="ledger"><caption>Claims of {escape(chapter)}: {len(claims)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, claims))}</tbody></table>"
    )


def as_card(claim: Claim) -> str:
    """Return the paragraph that stands below the cell that proves the claim."""
    id, source, statement, paper, here, verdict, _ = map(escape, asdict(claim).values())
    kind = claim.verdict.replace(" ", "-")
    return (
        f'<p class="claim"><span class="verdict verdict-{kind}">{verdict}</span> '
        f"<strong>{id}</strong> ({source}): {statement}.<br>"
        f"Paper: {paper}.<br>Here: {here}.</p>"
    )


def _row(claim: Claim) -> str:
    id, source, statement, paper, here, verdict, _ = map(escape, asdict(claim).values())
    kind = claim.verdict.replace(" ", "-")
    return (
        f'<tr><th scope="row"><a href="#{id}">{id}</a></th>'
        f"<td>{source}</td><td>{statement}</td><td>{paper}</td><td>{here}</td>"
        f'<td><span class="verdict verdict-{kind}">{verdict}</span></td></tr>'
    )
