"""Dataclasses that JSON can hold."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self


@dataclasses.dataclass(frozen=True)
class JsonFields:
    """The base of dataclasses that are saved as a dict of their fields."""

    # Whether `from_dict` also needs the fields that have a default.
    _needs_all: ClassVar[bool] = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as dicts, lists and numbers, for JSON."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the instance that has the fields of `to_dict`.

        Raises:
            ValueError: If a field is missing, unknown or invalid.
        """
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        given = values if isinstance(values, Mapping) else {}
        unknown = sorted(set(given) - set(fields))
        missing = [
            name
            for name, default in fields.items()
            if name not in given and (cls._needs_all or default is dataclasses.MISSING)
        ]
        if given is not values or unknown or missing:
            raise ValueError(
                f"Expected a {cls.__name__} or a dict of its fields, "
                f"{', '.join(fields)}. Unknown: {unknown}. Missing: {missing}. "
                f"Received: {values!r}"
            )
        return cls(**values)


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
