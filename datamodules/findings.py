"""What looking through a data set has brought to light: one form for the check, the start of a run and the tests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from datamodules.errors import DataError

Severity = Literal["error", "warning", "note"]
EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One cause by which something of a split is lost, doubtful, or worth knowing.

    Attributes:
        kind: Short name, such as `crowd`, for programs.
        severity: `error`: nothing sensible can be trained or scored, so that no run starts; `warning`: something is
            lost or doubtful, so that a strict run does not start; `note`: nothing is lost.
        where: The file or folder that it is about.
        count: How many things it is about.
        total: Out of how many.
        text: What was found, what was expected and what helps, in one sentence that begins behind the count.
        examples: Ids or file names of some of them.
    """

    kind: str
    severity: Severity
    where: str
    count: int
    total: int
    text: str
    examples: Sequence[str] = ()

    def __str__(self) -> str:
        """One line."""
        shown = ", ".join(self.examples[:EXAMPLES]) + ", ..." * (len(self.examples) > EXAMPLES)
        return f"{self.where}: {self.count} of {self.total} {self.text}{f' ({shown})' * bool(shown)}"


def stop_at(findings: Iterable[Finding], strict: bool = False) -> None:
    """Refuses a data set that no run can use.

    Args:
        findings: What was found.
        strict: Refuse what is lost or doubtful, too.

    Raises:
        DataError: There is an error, or in strict mode a warning.
    """
    stopping = [
        finding for finding in findings if finding.severity == "error" or strict * (finding.severity == "warning")
    ]
    if stopping:
        raise DataError("; ".join(map(str, stopping)))
