"""Catalogue folders and the folder of pulled models, as the commands are given them."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from model_registry.catalog import Catalog, CatalogEntry, load_catalog
from model_registry.errors import CorruptFile, UnsupportedArchitecture
from model_registry.sources.locate import find_folder
from model_registry.sources.lock import Lock
from model_registry.sources.model_files import read_config
from service.settings import load_settings


class CatalogPlace(Struct, frozen=True, kw_only=True):
    """Catalogue folders of the operator's own, and where pulled models lie."""

    folders: tuple[Path, ...]
    models_dir: Path

    def catalog(self) -> Catalog:
        """The shipped models and the operator's own. Raises CatalogError."""
        return load_catalog(self.folders)

    def local(self, entry: CatalogEntry) -> tuple[Path, Lock] | None:
        """Folder and lock of a model's files; None if they are not on this machine or damaged."""
        try:
            return find_folder(entry, self.models_dir)
        except (CorruptFile, UnsupportedArchitecture):
            return None

    def architecture(self, entry: CatalogEntry) -> Mapping[str, Any]:
        """The numbers of a model: those of its files if they are here, else the catalogue's.

        Raises UnsupportedArchitecture if there are neither.
        """
        if (found := self.local(entry)) is not None:
            return read_config(found[0])
        if entry.spec.architecture:
            return entry.spec.architecture
        raise UnsupportedArchitecture(
            f"{entry.file}: has no [architecture] and {entry.spec.id} is not pulled; "
            f"add the numbers of its config.json, or run: triptych models pull {entry.spec.id}"
        )


def catalog_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--models`, `--data-dir` and `--config`, and pass it the place they name."""

    @click.option(
        "--models",
        "folders",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder with additional catalogue files; may be repeated.",
    )
    @click.option(
        "--data-dir", metavar="DIR", help="Folder of pulled models and records.  [default: data]"
    )
    @click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings as for `triptych serve`.",
    )
    @functools.wraps(command)
    def with_place(
        folders: tuple[Path, ...], data_dir: str | None, config: Path | None, **options: object
    ) -> object:
        settings = load_settings(config, {} if data_dir is None else {"data_dir": data_dir})
        place = CatalogPlace(
            folders=folders or tuple(Path(folder) for folder in settings.models),
            models_dir=Path(settings.data_dir) / "models",
        )
        return command(place=place, **options)

    return with_place
