"""Read numbers out of a `config.json` under the names that versions of transformers gave them."""

from collections.abc import Mapping
from typing import Any

from model_registry.errors import UnsupportedArchitecture


class Numbers:
    """The numbers of one config.

    A `default` is that of the type's config class in transformers 5.23.
    """

    def __init__(self, config: Mapping[str, Any], model_type: str) -> None:
        self.config = config
        self.model_type = model_type

    def _first(self, names: tuple[str, ...]) -> Any:  # noqa: ANN401 — JSON holds anything
        return next(
            (self.config[name] for name in names if self.config.get(name) is not None), None
        )

    def whole(self, *names: str, default: int | None = None) -> int:
        """The number under the first of the names that is set. Raises UnsupportedArchitecture."""
        value = self._first(names)
        if value is None:
            value = default
        if value is None:
            raise UnsupportedArchitecture(f"{self.model_type}: the config lacks `{names[0]}`")
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise UnsupportedArchitecture(
                f"{self.model_type}: `{names[0]}` is {value!r}, not a whole number"
            )
        return int(value)

    def optional(self, *names: str) -> int | None:
        """As `whole`, None where no name is set."""
        return None if self._first(names) is None else self.whole(*names)

    def flag(self, name: str, *, default: bool) -> bool:
        """A yes or no."""
        value = self.config.get(name)
        return default if value is None else bool(value)

    def indices(self, *names: str) -> frozenset[int]:
        """Layer numbers; none where no name is set."""
        return frozenset(self._first(names) or ())

    def kinds(self, *names: str) -> list[str] | None:
        """The kind of each layer by the names of transformers 5; None where no name is set."""
        kinds = self._first(names)
        return None if kinds is None else [_RENAMED.get(kind, kind) for kind in kinds]


_RENAMED = {"mamba": "linear_attention", "attention": "full_attention"}
