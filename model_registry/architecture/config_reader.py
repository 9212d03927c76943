"""Reads a published `config.json`: every number checked, every error with the key's name."""

import reprlib
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from model_registry.errors import UnsupportedArchitecture

LARGEST_NUMBER: Final = 2**32
"""Larger sizes are mistakes: every product of them stays quick to compute."""
MOST_LAYERS: Final = 10_000

_RENAMED: Final = {"mamba": "linear_attention", "attention": "full_attention"}


class ConfigReader:
    """Reads a config, accepting each key under every name that versions of transformers used.

    A `default` is that of the type's config class in transformers 5.23. Every method raises
    UnsupportedArchitecture, naming the key, where the value is missing or of another kind.
    """

    def __init__(self, config: Mapping[str, Any], model_type: str) -> None:
        self._config = config
        self.model_type = model_type

    def has(self, name: str) -> bool:
        """The key is there and not null."""
        return self._config.get(name) is not None

    def is_auto(self, name: str) -> bool:
        """The value is the word "auto"."""
        return bool(self._config.get(name) == "auto")

    def size(self, *names: str, default: int | None = None) -> int:
        """A number of at least 1, under the first of the names that is set."""
        return self._number(names, default, least=1)

    def count(self, *names: str, default: int | None = None) -> int:
        """A number of at least 0, under the first of the names that is set."""
        return self._number(names, default, least=0)

    def optional_size(self, *names: str) -> int | None:
        """As `size`, None where no name is set."""
        return self.size(*names) if any(map(self.has, names)) else None

    def layers(self) -> int:
        """`num_hidden_layers`, no more than `MOST_LAYERS`."""
        layers = self.size("num_hidden_layers")
        if layers > MOST_LAYERS:
            self.refuse("num_hidden_layers", f"is {layers}, more than {MOST_LAYERS}")
        return layers

    def factor(self, name: str, *, default: float) -> float | None:
        """A positive number; None where it is null."""
        value = self._config.get(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._refuse_value(name, value, "a number")
        if not 0 < value <= LARGEST_NUMBER:
            self._refuse_value(name, value, "a positive number")
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self._config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._refuse_value(name, value, "true or false")
        return value

    def word(self, name: str) -> str | None:
        """A string; None where the key is missing or null."""
        value = self._config.get(name)
        if value is not None and not isinstance(value, str):
            self._refuse_value(name, value, "a string")
        return value

    def words(self, *names: str) -> list[str] | None:
        """A list of strings, not empty; None where no name is set."""
        name, value = self._first(names)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            self._refuse_value(name, value, "a list of strings")
        if not 0 < len(value) <= MOST_LAYERS:
            self.refuse(name, f"has {len(value)} entries, not 1 to {MOST_LAYERS}")
        return list(value)

    def indices(self, name: str) -> frozenset[int]:
        """Layer numbers; none where the key is missing or null."""
        value = self._config.get(name)
        if value is None:
            return frozenset()
        if not isinstance(value, list | tuple) or any(type(one) is not int for one in value):
            self._refuse_value(name, value, "a list of layer numbers")
        return frozenset(value)

    def kinds(self, *names: str, allowed: frozenset[str]) -> list[str] | None:
        """The kind of each layer by the names of transformers 5; None where no name is set."""
        kinds = self.words(*names)
        if kinds is None:
            return None
        renamed = [_RENAMED.get(kind, kind) for kind in kinds]
        self.check_kinds(renamed, allowed, names[0])
        return renamed

    def check_kinds(self, kinds: list[str], allowed: frozenset[str], name: str) -> None:
        """Refuse a layer kind that the type does not have."""
        if unknown := sorted(set(kinds) - allowed):
            self.refuse(name, f"has an unknown layer type {reprlib.repr(unknown[0])}")

    def nested(self, name: str) -> "ConfigReader":
        """An object inside the config; empty where the key is missing or null."""
        value = self._config.get(name)
        if value is not None and not isinstance(value, Mapping):
            self._refuse_value(name, value, "an object")
        return ConfigReader(value or {}, self.model_type)

    def replaced(self, changes: Mapping[str, Any]) -> "ConfigReader":
        """The config with other values under some keys."""
        return ConfigReader({**self._config, **changes}, self.model_type)

    def quotient(self, total: int, parts: int, name: str) -> int:
        """Size of one of *parts* of *total*; refused by *name* where nothing is left for one."""
        if total < parts:
            self.refuse(name, f"would be 0: {total} is less than {parts}")
        return total // parts

    def refuse(self, name: str, reason: str) -> NoReturn:
        """Raise UnsupportedArchitecture that names the key."""
        raise UnsupportedArchitecture(f"{self.model_type}: `{name}` {reason}")

    def _first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        return next(
            ((name, self._config[name]) for name in names if self.has(name)), (names[0], None)
        )

    def _number(self, names: tuple[str, ...], default: int | None, *, least: int) -> int:
        name, value = self._first(names)
        if value is None:
            value = default
        if value is None:
            raise UnsupportedArchitecture(f"{self.model_type}: the config lacks `{name}`")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse_value(name, value, "a whole number")
        if not least <= value <= LARGEST_NUMBER:
            self._refuse_value(name, value, f"between {least} and {LARGEST_NUMBER}")
        return value

    def _refuse_value(self, name: str, value: object, wanted: str) -> NoReturn:
        self.refuse(name, f"is {_shown(value)}, not {wanted}")


def _shown(value: object) -> str:
    """A value for a message: short, whatever it is."""
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER**2:
        return "a number of too many digits"
    return reprlib.repr(value)
