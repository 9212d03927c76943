"""Code generation: vector lanes, tiles, threads, and the kernel cache."""
