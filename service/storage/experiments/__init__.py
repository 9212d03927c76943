"""Stores of experiments."""

from service.core.experiments.ports import ExperimentStore


def open_experiments(url: str) -> ExperimentStore:
    """The store of experiments at the URL of a record store, in whose database they are kept.

    Raises StoreUnavailable. `service.storage.open_store` opens the database first and names what is
    wrong with a URL or a file.
    """
    if url.startswith("memory:"):
        from service.storage.experiments.memory import MemoryExperimentStore

        return MemoryExperimentStore()
    from service.storage.experiments.sql import SqlExperimentStore

    return SqlExperimentStore(url)
