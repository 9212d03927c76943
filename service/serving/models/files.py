"""Where a model's files are, or why they cannot be used."""

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


class LocatedModel:
    """Looks for the files of `model` or `model:variant`, again and again."""

    def __init__(
        self, entry: CatalogEntry, variant: str | None, *, locate: Locate, models_dir: Path
    ) -> None:
        self._entry = entry
        self._variant = variant
        self._locate = locate
        self._models_dir = models_dir
        self._logged: str | None = None
        self.architecture = _summary(entry.spec.architecture)
        """None until a config was found, and where it cannot be read here."""

    def look(self) -> ResolvedModel | TriptychError:
        """Blocking: the model's files, or why they cannot be used."""
        try:
            model = self._locate(self._entry, self._variant, self._models_dir)
            if self.architecture is None and model.path:
                self.architecture = _summary(read_config(Path(model.path)))
        except NotPulled as error:
            return ModelNotPulled(str(error), param="model")
        except UnsupportedArchitecture as error:
            return ModelUnusable(str(error), param="model")
        except RegistryError as error:
            name = (
                f"{self._entry.spec.id}:{self._variant}" if self._variant else self._entry.spec.id
            )
            if str(error) != self._logged:  # looked at again and again: logged once
                self._logged = str(error)
                log.warning("the files of %s cannot be used: %s", name, error)
            return ModelUnusable(
                f"the files of {name} cannot be used; see the service's log", param="model"
            )
        return model


def _summary(config: Mapping[str, Any]) -> ArchitectureSummary | None:
    """Layer counts of a `config.json`; None where there is none, or it cannot be read here."""
    try:
        layers = read_layers(config)
    except UnsupportedArchitecture:
        return None
    return ArchitectureSummary(
        model_type=str(config["model_type"]),
        layers={str(kind): count for kind, count in layers.counts().items()},
    )
