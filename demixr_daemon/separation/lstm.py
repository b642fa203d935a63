"""One direction of one int8 LSTM layer, frame after frame, as one kernel.

A frame's product of the recurrent weights with the hidden state is a matrix times a vector: the weights are read once a frame
and used once, so that int8 weights, which stay in the cache, take a quarter of the time. torch's quantized LSTM packs,
dispatches and rounds anew for every frame, and needs many chunks side by side to make up for it.

Activations are ``uint8`` with the zero point :data:`ZERO`; one step is :data:`STEP`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic
from numpy.typing import NDArray

from demixr_daemon.separation.compiled import SETTINGS

_FEATURES = frozenset((numba.config.CPU_FEATURES or get_host_cpu_features()).split(","))
_WITH_VNNI = bool(_FEATURES & {"+avx512vnni", "+avxvnni"})
LANES = 16 if "+avx512vnni" in _FEATURES and "+prefer-256-bit" not in _FEATURES else 8
"""Rows of weights that one instruction multiplies."""
_VECTORS = 8  # chains of sums at once, enough to hide an instruction's latency
BLOCK_ROWS = LANES * _VECTORS

ZERO = 128 if _WITH_VNNI else 64
"""What stands for 0. Without VNNI instructions, the sums of two 8-bit products overflow 16 bits; seven bits do not."""
STEP = 1.0 / (ZERO - 1)


UNITS = BLOCK_ROWS // 4
"""Units whose four gates make a block. Units and what belongs to them are padded to whole blocks."""


def padded(units: int) -> int:
    """Up to whole blocks."""
    return -(-units // UNITS) * UNITS


def by_block(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows (4 * units, ...) from torch's order, all units' gate i, then f, g, o, to blocks of units with their four gates."""
    units = len(rows) // 4
    gates = np.zeros((4, padded(units), *rows.shape[1:]), rows.dtype)
    gates[:, :units] = rows.reshape(4, units, *rows.shape[1:])
    blocks = gates.reshape(4, -1, UNITS, *rows.shape[1:]).swapaxes(0, 1)  # (blocks, gates, units, ...)
    return np.ascontiguousarray(blocks.reshape(-1, *rows.shape[1:]))


def pack(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Recurrent weights (4 * units, units) to (blocks, padded units / 4, BLOCK_ROWS, 4), the order in which they are read."""
    units = weights.shape[1]
    square = np.pad(weights, ((0, 0), (0, padded(units) - units)))
    fours = by_block(square).reshape(-1, BLOCK_ROWS, padded(units) // 4, 4).swapaxes(1, 2)
    return np.ascontiguousarray(fours)


@intrinsic
def _address(typing: Any, array: Any, offset: Any) -> Any:
    """Where an array's memory begins, plus ``offset`` bytes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view: Any = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        return builder.gep(builder.bitcast(view.data, ir.IntType(8).as_pointer()), [arguments[1]])

    return types.voidptr(array, types.intp), codegen


@intrinsic
def _block_dots(typing: Any, weights: Any, hidden: Any, sums: Any, fours: Any) -> Any:
    """``sums[row] = sum_k weights[k // 4, row, k % 4] * hidden[k]`` for the rows of one block.

    One ``vpdpbusd`` adds four such products to each of its lanes.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        vector = ir.VectorType(integer, LANES)
        weights_at = builder.bitcast(arguments[0], vector.as_pointer())
        hidden_at = builder.bitcast(arguments[1], integer.as_pointer())
        sums_at = builder.bitcast(arguments[2], vector.as_pointer())
        count = arguments[3]
        index = count.type
        instruction = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.x86.avx512.vpdpbusd.{32 * LANES}"
        )
        before, loop, end = builder.block, builder.append_basic_block("fours"), builder.append_basic_block("end")
        builder.branch(loop)
        builder.position_at_end(loop)
        four = builder.phi(index)
        four.add_incoming(index(0), before)
        running = [builder.phi(vector) for _ in range(_VECTORS)]
        activations = builder.load(builder.gep(hidden_at, [four]), align=1)
        spread = builder.insert_element(vector(ir.Undefined), activations, integer(0))
        spread = builder.shuffle_vector(spread, vector(ir.Undefined), vector([0] * LANES))
        first = builder.mul(four, index(_VECTORS))
        added = []
        for number, total in enumerate(running):
            total.add_incoming(vector([0] * LANES), before)
            part = builder.load(builder.gep(weights_at, [builder.add(first, index(number))]), align=1)
            added.append(builder.call(instruction, [total, spread, part]))
            total.add_incoming(added[-1], loop)
        following = builder.add(four, index(1))
        four.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
        builder.position_at_end(end)
        for number, total in enumerate(added):
            builder.store(total, builder.gep(sums_at, [index(number)]), align=1)
        return context.get_dummy_value()

    return types.void(types.voidptr, types.voidptr, types.voidptr, types.intp), codegen




@numba.njit(error_model="numpy")
def _dots(weights, hidden, sums, backwards):  # type: ignore[no-untyped-def]
    """``sums = weights @ hidden`` in integers, rows in the order of :func:`pack`, ``backwards`` from the last block on."""
    blocks, fours, rows, _ = weights.shape
    if _WITH_VNNI:
        for number in range(blocks):
            block = blocks - 1 - number if backwards else number
            _block_dots(
                _address(weights, block * fours * rows * 4), _address(hidden, 0), _address(sums, block * rows * 4), fours
            )
    else:
        sums[:] = 0
        for block in range(blocks):
            part = sums[block * rows : (block + 1) * rows]
            for four in range(fours):
                for k in range(4):
                    activation = np.int32(hidden[4 * four + k])
                    for row in range(rows):
                        part[row] += np.int32(weights[block, four, row, k]) * activation


@numba.njit(fastmath=True, error_model="numpy", inline="always")
def tanh(x):  # type: ignore[no-untyped-def]
    """The hyperbolic tangent to 1e-4: its continued fraction (Lambert 1761), cut where it reaches 1.

    Plain arithmetic, so that compilers turn it into vectors; there is no vector form of the library's.
    """
    x = min(max(x, np.float32(-4.97)), np.float32(4.97))
    s = x * x
    upper = x * (np.float32(135135.0) + s * (np.float32(17325.0) + s * (np.float32(378.0) + s)))
    lower = np.float32(135135.0) + s * (np.float32(62370.0) + s * (np.float32(3150.0) + s * np.float32(28.0)))
    return upper / lower


@numba.njit(
    "void(float32[:,::1], int8[:,:,:,::1], float32[::1], uint8[::1], float32[::1], uint8[:,:], boolean)",
    fastmath=True, **SETTINGS,
)  # fmt: skip
def run(gates, weights, scales, hidden, cell, outputs, reverse):  # type: ignore[no-untyped-def]
    """Run over some frames. Rows are in the order of :func:`by_block`, units padded.

    :param gates: (frames, rows), the inputs' part of the gates with all biases; what ``hidden`` contributes through its zero
        point is already taken off.
    :param weights: the recurrent ones, see :func:`pack`.
    :param scales: (rows,), what one step of a weight times one step of an activation is worth.
    :param hidden: (padded units,), with ``cell`` the state from which to start; both are changed.
    :param outputs: (frames, units), the hidden state after each frame.
    :param reverse: from the last frame to the first.
    """
    frames = len(gates)
    sums = np.empty(len(scales), np.int32)
    half, one_step, rounding = np.float32(0.5), np.float32(ZERO - 1), np.float32(ZERO + 0.5)
    for number in range(frames):
        frame = frames - 1 - number if reverse else number
        # To and fro: the weights read last are those that a cache too small for all of them still holds.
        _dots(weights, hidden, sums, number % 2 == 1)
        for block in range(len(weights)):
            whole = slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
            gate, total, scale = gates[frame, whole], sums[whole], scales[whole]
            c, h = cell[block * UNITS : (block + 1) * UNITS], hidden[block * UNITS : (block + 1) * UNITS]
            for u in range(UNITS):
                i = half + half * tanh(half * (gate[u] + np.float32(total[u]) * scale[u]))
                f = half + half * tanh(half * (gate[u + UNITS] + np.float32(total[u + UNITS]) * scale[u + UNITS]))
                g = tanh(gate[u + 2 * UNITS] + np.float32(total[u + 2 * UNITS]) * scale[u + 2 * UNITS])
                o = half + half * tanh(half * (gate[u + 3 * UNITS] + np.float32(total[u + 3 * UNITS]) * scale[u + 3 * UNITS]))
                c[u] = f * c[u] + i * g
                h[u] = np.uint8(np.int32(o * tanh(c[u]) * one_step + rounding))
        for u in range(outputs.shape[1]):
            outputs[frame, u] = hidden[u]
