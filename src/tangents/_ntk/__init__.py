"""The machinery of `empirical`: layers, routes, tiles, kernels on disk."""
