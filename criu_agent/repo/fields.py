"""Reading the values of a JSON object by key and type, and refusing what is not as it should be."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn, TypeVar, cast

from criu_agent.errors import Corrupt
from criu_agent.store.base import NAME

HEX = re.compile(r"[0-9a-f]{64}")
HEX_ID = re.compile(r"[0-9a-f]{32}")
_SIZE_MAX = (1 << 63) - 1
_Value = TypeVar("_Value")


class Fields:
    """A JSON object whose values are asked for by key and type. Corrupt names the key that is not so."""

    def __init__(self, document: object, what: str) -> None:
        self.what = what
        if not isinstance(document, dict):
            raise Corrupt(f"{what} is changed: it is no JSON object")
        self.document: dict[str, Any] = document

    def text(self, key: str) -> str:
        return cast(str, self._typed(key, str, "a string"))

    def flag(self, key: str) -> bool:
        return cast(bool, self._typed(key, bool, "true or false"))

    def integer(self, key: str, *, least: int = 0) -> int:
        value = self._typed(key, int, "an integer")
        if isinstance(value, bool) or not least <= value <= _SIZE_MAX:
            self._wrong(key, f"an integer from {least} to {_SIZE_MAX}")
        return cast(int, value)

    def any(self, key: str) -> Any:  # noqa: ANN401 - JSON is any of its types
        return self._typed(key, object, "a value")

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._typed(key, list, "a list of strings")
        if not all(isinstance(value, str) for value in values):
            self._wrong(key, "a list of strings")
        return tuple(values)

    def name(self, key: str) -> str:
        value = self.text(key)
        return value if NAME.fullmatch(value) else self._wrong(key, f"of the form {NAME.pattern}")

    def snapshot_id(self, key: str) -> str:
        value = self.text(key)
        return value if not value or HEX.fullmatch(value) else self._wrong(key, "64 hex digits or empty")

    def hex_id(self, key: str) -> str:
        value = self.text(key)
        return value if HEX_ID.fullmatch(value) else self._wrong(key, "32 hex digits")

    def time(self, key: str) -> str:
        value = self.text(key)
        try:
            datetime.fromisoformat(value)
        except ValueError:
            self._wrong(key, "a time")
        return value if value.endswith("Z") else self._wrong(key, "a time in UTC")

    def inner(self, key: str) -> "Fields":
        return Fields(self.any(key), f"{key} of {self.what}")

    def mapping(self, key: str, value: Callable[["Fields", str], _Value]) -> Mapping[str, _Value]:
        inner = self.inner(key)
        return {name: value(inner, name) for name in inner.document}

    def named(self, key: str, value: Callable[["Fields", str], _Value]) -> Mapping[str, _Value]:
        """A mapping whose keys are names."""
        for name in self.inner(key).document:
            if not NAME.fullmatch(name):
                raise Corrupt(f"{self.what} is changed: {key!r} has {name!r}, which is no name")
        return self.mapping(key, value)

    def _typed(self, key: str, kind: type, what: str) -> Any:  # noqa: ANN401 - the callers narrow it
        if key not in self.document or not isinstance(self.document[key], kind):
            self._wrong(key, what)
        return self.document[key]

    def _wrong(self, key: str, what: str) -> NoReturn:
        raise Corrupt(f"{self.what} is changed: {key!r} is not {what}")
