"""One thing that was found out."""

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
