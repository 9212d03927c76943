"""Programs of compiled kernels: how models run on a CPU."""
