"""How the kernels are compiled: by numba, once on a machine where there is a folder to keep them in."""

from __future__ import annotations

from typing import Any

import numba


def _can_be_kept() -> bool:
    """Whether numba finds a folder for what it compiled: beside the program, or the user's cache."""
    try:
        numba.njit(cache=True)(_can_be_kept)
    except RuntimeError:  # neither can be written to: they are compiled again in every process
        return False
    return True


SETTINGS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "cache": _can_be_kept()}
"""For ``numba.njit``, of every kernel."""
