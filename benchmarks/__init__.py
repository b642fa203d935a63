"""Measurements that the README quotes. Each module is a command: ``python -m benchmarks.NAME``; tables go to results/."""

import demixr_daemon.separation  # noqa: F401 - before torch, which it keeps quiet
