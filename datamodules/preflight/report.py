"""What is known of a split before a run: its facts, and what is lost or doubtful."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from datamodules.findings import Finding, Severity

Split = Literal["training", "validation", "test"]


@dataclass(frozen=True)
class Looked:
    """What one look through a split has brought to light.

    Attributes:
        facts: Numbers by name.
        findings: What is lost or doubtful.
        words: What is worth telling of a healthy split, in a few words each.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    words: Sequence[str] = ()


@dataclass(frozen=True)
class SplitReport:
    """All that is known of a split.

    Attributes:
        split: Which.
        facts: Numbers by name, as they go to `data.json`.
        findings: What is lost or doubtful.
        words: What is worth telling of a healthy split.
    """

    split: Split
    facts: Mapping[str, Any]
    findings: Sequence[Finding]
    words: Sequence[str]

    @classmethod
    def of(cls, split: Split, *looks: Looked) -> "SplitReport":
        """Puts together what several looks have found."""
        return cls(
            split,
            {name: value for look in looks for name, value in look.facts.items()},
            [finding for look in looks for finding in look.findings],
            [words for look in looks for words in look.words],
        )

    def with_look(self, look: Looked) -> "SplitReport":
        """What another look has found besides."""
        return SplitReport.of(self.split, Looked(self.facts, self.findings, self.words), look)

    def lines(self, told: Collection[Severity]) -> list[str]:
        """One line on the split, and one for each finding of the severities that are to be told."""
        shown = [finding for finding in self.findings if finding.severity in told]
        return [f"{self.split}: {'; '.join(self.words)}", *(f"{finding.severity}: {finding}" for finding in shown)]

    def content(self) -> dict[str, Any]:
        """As plain data."""
        return {**self.facts, "findings": [asdict(finding) for finding in self.findings]}

    def numbers(self) -> dict[str, int | float]:
        """The plain numbers among the facts, and how many things each finding is about: `data/training/images`."""
        facts = {name: value for name, value in self.facts.items() if isinstance(value, int | float)}
        counts = {finding.kind: finding.count for finding in self.findings}
        return {f"data/{self.split}/{name}": value for name, value in (facts | counts).items()}
