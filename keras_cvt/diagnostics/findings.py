"""One thing that was found out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

# A note is worth reading. A problem makes results wrong or calls fail.
Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found out about this environment.

    Attributes:
        topic: What it belongs to, such as `"backend"`.
        name: What was looked at.
        value: What was found.
        status: `"ok"`, `"note"` or `"problem"`. Defaults to `"ok"`.
        advice: What to do about it. Defaults to nothing.
    """

    topic: str
    name: str
    value: str
    status: Status = "ok"
    advice: str = ""


def guarded(topic: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return what a function finds, until it fails; its error is the last finding.

    Args:
        topic: The topic of that finding.
        look: The function. What is broken here can raise any error.
    """
    findings = []
    try:
        for finding in look():
            findings.append(finding)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        findings.append(Finding(topic, "error", said, "problem"))
    return findings
