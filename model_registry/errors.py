"""Errors of the registry, in one tree.

    RegistryError
    ├── CatalogError              a catalogue file is wrong: names file, key and fix
    ├── UnknownModel              no such id in the catalogue
    ├── UnknownVariant            the model has no such variant
    ├── NotPulled                 the files are not on this machine yet
    ├── UnsupportedArchitecture   a model type or file layout that cannot be read here
    ├── PullFailed                the files could not be fetched or written
    └── CorruptFile               a file is not what it should be: wrong hash, broken header

`str(error)` is one line for a person; callers turn these into their own errors where they enter.
"""


class RegistryError(Exception):
    """Root of the tree."""


class CatalogError(RegistryError):
    """A catalogue file is wrong; the message names file, key and fix."""


class UnknownModel(RegistryError):
    """No such id in the catalogue."""


class UnknownVariant(RegistryError):
    """The model has no such variant."""


class NotPulled(RegistryError):
    """The files are not on this machine yet; the message says how to get them."""


class UnsupportedArchitecture(RegistryError):
    """A model type or file layout that cannot be read here; the message names it and why."""


class PullFailed(RegistryError):
    """The files could not be fetched or written."""


class CorruptFile(RegistryError):
    """A file is not what it should be."""
