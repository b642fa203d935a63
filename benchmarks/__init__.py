"""Measurements that the README quotes. Each module is a command: ``python -m benchmarks.NAME``; tables go to results/."""
