"""Tiny models, made once a session: their folders, transformers' answers, and loaded with slots."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from service.engines.torch.protocol.messages import KernelChoice
from service.torch_host.slot_model import SlotModel
from service.torch_host.weights.loading import load
from support import oracle, tiny_models

SLOTS = 5


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a tiny model → folder with its checkpoint."""
    root = tmp_path_factory.mktemp("tiny")

    @cache
    def folder(name: str) -> Path:
        return tiny_models.write(name, root / name)

    return folder


@pytest.fixture(scope="session")
def tiny_answers(tiny_folder: Callable[[str], Path]) -> Callable[[str], list[oracle.Answer]]:
    """Name of a tiny model → what `transformers.generate` answers."""

    @cache
    def answers(name: str) -> list[oracle.Answer]:
        return oracle.answers(tiny_folder(name))

    return answers


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Callable[[str], Path]) -> Callable[..., SlotModel]:
    """Name of a tiny model → the loaded model; a test gives back the slots that it takes."""

    @cache
    def model(name: str, dtype: str = "float32", kernels: KernelChoice = "auto") -> SlotModel:
        resolved = tiny_models.resolved(name, tiny_folder(name), dtype=dtype)
        return load(resolved, slots=SLOTS, progress=lambda _: None, kernels=kernels)

    return model
