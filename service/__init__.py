"""The Triptych service."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("triptych")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"
