"""Memory estimates of the torch engine, for every variant of the catalogue."""

from typing import get_args

import pytest

from model_registry.catalog import load_catalog
from model_registry.sources.locate import locate
from model_registry.spec import QUANTIZED_WEIGHT_BYTES, Quantization
from service.engines.torch.memory_estimate import TorchMemoryEstimate
from service.engines.torch.options import TorchOptions


def test_every_quantization_has_its_bytes():
    """A quantization that the catalogue takes is never a model that cannot be sized."""
    assert set(get_args(Quantization)) == QUANTIZED_WEIGHT_BYTES.keys()


@pytest.mark.parametrize("name", ["reference-transformer", "reference-ssm", "reference-hybrid"])
def test_fewer_bits_are_predicted_to_hold_less(name, tmp_path):
    """Of one model the variant of 4 bits holds least, then that of 8, then the plain one."""
    entry = load_catalog().entries[name]
    held = [
        TorchMemoryEstimate(
            locate(entry, variant, tmp_path), TorchOptions(data_dir=tmp_path, slots=1), threads=1
        ).at_rest.held_bytes
        for variant in ("int4", "int8", None, "float32")
    ]

    assert held == sorted(held)
    assert len(set(held)) == len(held)
