"""Functions in C, compiled as the package is installed."""
