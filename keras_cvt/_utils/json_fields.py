"""Dataclasses that JSON can hold."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self


@dataclasses.dataclass(frozen=True)
class JsonFields:
    """The base of dataclasses that are saved as a dict of their fields."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON."""
        fields = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return the instance that has the fields of `to_dict`.

        Raises:
            ValueError: If a field is missing, unknown or invalid.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != names:
            raise ValueError(
                f"Expected the fields {', '.join(sorted(names))} of {cls.__name__}. "
                f"Received: {dict(fields)!r}"
            )
        return cls(**fields)
