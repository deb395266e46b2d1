"""A ledger of what a paper states, what this run measured, and the verdict.

A verdict is computed from numbers, beside the one its author expects. `Ledger.verify` ends the
chapter: it shows every row and fails the run where the two differ, in either direction.
"""

import re
from dataclasses import asdict, dataclass, field
from math import isfinite

from core.lab.table import as_card, as_html, as_text

VERDICTS = {
    "holds": "exactly, or within the stated error",
    "holds at this scale": "a scaled-down experiment agrees in direction and size",
    "corrected": "wrong or incomplete as printed; the chapter shows by how much",
    "not seen": "tried here, did not come out",
    "undecided": "this run is too small to tell: its error exceeds what the claim resolves",
    "not tried": "needs what is named: weights, data, days",
}
"""Every verdict there is, and what it means."""

_SLUG = re.compile(r"[a-z][a-z0-9]*")
_LABEL = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")


@dataclass(frozen=True)
class Claim:
    """One checkable statement of a paper beside what this run found. All fields are plain text."""

    id: str
    """`<chapter>-<row>`, also the label of the cell that proves it."""
    source: str
    """Where the paper says it, such as `"Thm. 4.1"`, `"Eq. (3)"`, `"Table 1"`."""
    statement: str
    """What is claimed, in one sentence."""
    paper: str
    """The paper's value."""
    here: str
    """This run's value, rounded, with its error."""
    verdict: str
    """One of `VERDICTS`."""
    expected: str
    """The verdict at the chapter's default scale."""

    def __post_init__(self) -> None:
        """Refuse what is not text, and verdicts that do not exist."""
        _want_text(self.id, asdict(self))
        for verdict in (self.verdict, self.expected):
            if verdict not in VERDICTS:
                known = ", ".join(VERDICTS)
                raise ValueError(f"{self.id}: no verdict {verdict!r}; there are: {known}")
        if self.expected == "undecided":
            raise ValueError(f"{self.id}: the default scale must decide; expect a verdict")

    def _repr_html_(self) -> str:
        return as_card(self)


@dataclass(repr=False)
class Ledger:
    """The claims of one chapter, in the order it makes them; shown, they are a table."""

    chapter: str
    """The chapter's slug; every id starts with it."""
    claims: list[Claim] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse a slug that cannot begin a label."""
        if not _SLUG.fullmatch(self.chapter):
            raise ValueError(
                f"want a chapter slug of lower-case letters and digits, got {self.chapter!r}"
            )

    def record(
        self,
        id: str,
        source: str,
        statement: str,
        *,
        paper: str,
        here: str,
        verdict: str,
        expected: str,
        error: float | None = None,
        needs: float | None = None,
    ) -> None:
        """Add a claim that this run tested, and in a notebook show it where it was proved.

        A verdict that differs from the expected one is kept and shown; `verify` is what fails.

        Args:
            id: `<chapter>-<row>`, the label of the cell that proves it.
            source: where the paper says it.
            statement: what it says.
            paper: the paper's value.
            here: this run's value, already rounded: text.
            verdict: one of `VERDICTS`, computed from numbers.
            expected: the verdict at the chapter's default scale.
            error: this run's statistical error, in the unit of `needs`.
            needs: the resolution that the claim states. Where `error > needs` the run cannot
                tell, and the verdict becomes `undecided`, whatever the numbers say.

        Raises:
            ValueError: a bad or repeated id, an unknown verdict, a value that is not text, or
                `error` and `needs` not both given and finite.
        """
        if "not tried" in (verdict, expected):
            raise ValueError(f"{id}: a claim that was not tried is added by `not_tried`")
        if _too_coarse(id, error, needs):
            verdict = "undecided"
        self._add(Claim(id, source, statement, paper, here, verdict, expected))

    def not_tried(self, id: str, source: str, statement: str, *, paper: str, needs: str) -> None:
        """Add a claim that nothing here can test.

        Args:
            id: `<chapter>-<row>`, the label of the paragraph that says why.
            source: where the paper says it.
            statement: what it says.
            paper: the paper's value.
            needs: what a test would take: `"ImageNet latents and eight GPUs for two days"`.

        Raises:
            ValueError: a bad or repeated id, or a value that is not text.
        """
        here = f"needs {needs}" if isinstance(needs, str) and needs else needs
        self._add(Claim(id, source, statement, paper, here, "not tried", "not tried"))

    def audited(
        self,
        id: str,
        source: str,
        statement: str,
        *,
        paper: str,
        here: str,
        read: str,
        verdict: str,
        expected: str,
    ) -> None:
        """Add a claim settled by reading, not by running: a table's sums, a repository's state.

        Args:
            id: `<chapter>-<row>`, the label of the cell or paragraph that shows it.
            source: where the paper says it.
            statement: what it says.
            paper: the paper's value.
            here: what the reading gave.
            read: what was read, with its version or date.
            verdict: one of `VERDICTS`.
            expected: the verdict its author expects.

        Raises:
            ValueError: a bad or repeated id, an unknown verdict, or a value that is not text.
        """
        _want_text(id, {"here": here, "read": read})
        self.record(
            id,
            source,
            statement,
            paper=paper,
            here=f"{here} (read: {read})",
            verdict=verdict,
            expected=expected,
        )

    def verify(self) -> None:
        """Show id and verdict of every claim as plain text, then fail where one is unexpected.

        The output's metadata carries all rows, `{"core": {"claims": [...]}}`, for the runner to
        lift into the record. It is shown before the failure, so that a failed record is whole.
        An `undecided` claim fails nothing: at a smaller scale that is the honest outcome.

        Raises:
            AssertionError: the ledger is empty, or a verdict differs from the expected one; one
                line, as a record of a failed run keeps one.
        """
        from IPython.display import display  # the book's dependency, not the library's

        display(_Verdicts(self.claims))
        if not self.claims:
            raise AssertionError(f"the ledger of {self.chapter!r} is empty: record a claim")
        wrong = [c for c in self.claims if c.verdict not in (c.expected, "undecided")]
        if wrong:
            named = "; ".join(f"{c.id}: {c.verdict}, expected {c.expected}" for c in wrong)
            raise AssertionError(f"verdicts that were not expected: {named}")

    def _add(self, claim: Claim) -> None:
        if not (_LABEL.fullmatch(claim.id) and claim.id.startswith(f"{self.chapter}-")):
            raise ValueError(
                f"want an id {self.chapter}-<row> of lower-case letters, digits and single "
                f"hyphens, as it is a label in the page, got {claim.id!r}"
            )
        if any(claim.id == c.id for c in self.claims):
            raise ValueError(f"{claim.id} is recorded already: each claim has a row of its own")
        self.claims.append(claim)
        _show(claim)

    def _repr_html_(self) -> str:
        return as_html(self.chapter, self.claims)

    def __repr__(self) -> str:
        """Return id and verdict of every claim, for terminals."""
        return as_text(self.claims)


@dataclass(repr=False)
class _Verdicts:
    """What `verify` displays: plain text to compare, and the full rows as metadata."""

    claims: list[Claim]

    def __repr__(self) -> str:
        return as_text(self.claims)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple:
        metadata = {"core": {"claims": [asdict(c) for c in self.claims]}}
        return {"text/plain": repr(self)}, metadata


def _show(claim: Claim) -> None:
    """Show the claim below its cell; outside a notebook there is nowhere to show it."""
    from IPython.core.getipython import get_ipython  # the book's dependency, not the library's

    if get_ipython() is not None:
        from IPython.display import display

        display(claim)


def _want_text(id: object, fields: dict[str, object]) -> None:
    for name, value in fields.items():
        if not (isinstance(value, str) and value.strip()):
            raise ValueError(f"{id}: want `{name}` as text (round it here), got {value!r}")


def _too_coarse(id: str, error: float | None, needs: float | None) -> bool:
    """Return whether a run with this error cannot tell; refuse half an answer."""
    if error is None and needs is None:
        return False
    if error is None or needs is None:
        raise ValueError(f"{id}: give both error and needs or neither, got {error=}, {needs=}")
    if not (isfinite(error) and isfinite(needs) and error >= 0 and needs > 0):
        raise ValueError(f"{id}: want finite error >= 0 and needs > 0, got {error=}, {needs=}")
    return bool(error > needs)
