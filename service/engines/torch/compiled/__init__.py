"""Programs of compiled kernels: how models run on a CPU."""

from service.engines.torch.compiled.cache import use_cache

use_cache()
