"""The files of a model on this machine, or the reason that it cannot be served here."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model_registry.architecture import read_layers
from model_registry.catalog import CatalogEntry
from model_registry.errors import NotPulled, RegistryError, UnsupportedArchitecture
from model_registry.sources.model_files import read_config
from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotPulled, ModelUnusable, TriptychError
from service.core.model_status import ArchitectureSummary

log = logging.getLogger(__name__)

Locate = Callable[[CatalogEntry, str | None, Path], ResolvedModel]

Refusal = Callable[[ResolvedModel], str | None]
"""Why a model whose files are here cannot be served on this machine, None if it can."""


def nothing_refused(_: ResolvedModel) -> str | None:
    """The `Refusal` of a machine on which every model can be served."""
    return None


class LocatedModel:
    """Looks for the files of `model` or `model:variant`; looking again notices changes."""

    def __init__(
        self,
        entry: CatalogEntry,
        variant: str | None,
        *,
        locate: Locate,
        models_dir: Path,
        refusal: Refusal = nothing_refused,
    ) -> None:
        self._entry = entry
        self._name = f"{entry.spec.id}:{variant}" if variant else entry.spec.id
        self._variant = variant
        self._locate = locate
        self._models_dir = models_dir
        self._refusal = refusal
        self._logged: str | None = None
        self.architecture = _summary(entry.spec.architecture)
        """None until a config was found, and if it cannot be read here."""

    def look(self) -> ResolvedModel | TriptychError:
        """Blocking: the model's files, or why it cannot be served. Never raises."""
        try:
            return self._look()
        except NotPulled as error:
            return ModelNotPulled(str(error), param="model")
        except UnsupportedArchitecture as error:
            return ModelUnusable(str(error), param="model")
        except RegistryError as error:
            return self._unusable(error, trace=False)
        except Exception as error:  # noqa: BLE001 (one odd file must not hide all other models)
            return self._unusable(error, trace=True)

    def _look(self) -> ResolvedModel | TriptychError:
        model = self._locate(self._entry, self._variant, self._models_dir)
        if self.architecture is None and model.path:
            self.architecture = _summary(read_config(Path(model.path)))
        refused = self._refusal(model)
        return model if refused is None else ModelUnusable(refused, param="model")

    def _unusable(self, error: Exception, *, trace: bool) -> TriptychError:
        words = f"{type(error).__name__}: {error}" if trace else str(error)
        if words != self._logged:  # files are looked at again and again: log each fault once
            self._logged = words
            log.warning(
                "the files of %s cannot be used: %s",
                self._name,
                words,
                exc_info=error if trace else None,
            )
        return ModelUnusable(
            f"the files of {self._name} cannot be used; see the service's log", param="model"
        )


def _summary(config: Mapping[str, Any]) -> ArchitectureSummary | None:
    """Layer counts of a `config.json`; None without one, and if it cannot be read here."""
    try:
        layers = read_layers(config)
    except UnsupportedArchitecture:
        return None
    return ArchitectureSummary(
        model_type=str(config["model_type"]),
        layers={str(kind): count for kind, count in layers.counts().items()},
    )
