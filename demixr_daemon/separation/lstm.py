"""One direction of one int8 LSTM layer, frame after frame, as one kernel.

A frame's product of the recurrent weights with the hidden state is a matrix times a vector: the weights are read once a frame
and used once, so that nothing is gained by floating point, and int8 weights that stay in the cache are read in a quarter of the
time. torch's quantized LSTM packs, dispatches and rounds anew for every frame, and needs many chunks side by side to make up for it.

Activations are ``uint8`` with the zero point :data:`ZERO`; one step is :data:`STEP`.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

_FEATURES: Any = llvmlite.binding.get_host_cpu_features()
LANES = 16 if _FEATURES.get("avx512vnni") else 8
"""Rows of weights that one instruction multiplies."""
_INSTRUCTION = "" if not (_FEATURES.get("avx512vnni") or _FEATURES.get("avxvnni")) else f"vpdpbusd.{32 * LANES}"
_VECTORS = 8  # chains of sums at once, enough to hide an instruction's latency
BLOCK_ROWS = LANES * _VECTORS

ZERO = 128 if _INSTRUCTION else 64
"""What stands for 0. Without VNNI instructions, the sums of two 8-bit products overflow 16 bits; seven bits do not."""
STEP = 1.0 / (ZERO - 1)


def pack(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Recurrent weights (4 * hidden, hidden), gates in torch's order, in the order in which the kernel reads them.

    Rows are padded to whole blocks: units come in groups of ``BLOCK_ROWS / 4``, each with its four gates.
    """
    hidden = weights.shape[1]
    units, depth = _padded(hidden, BLOCK_ROWS // 4), _padded(hidden, 4)
    padded = np.zeros((4, units, depth), np.int8)
    padded[:, :hidden, :hidden] = weights.reshape(4, hidden, hidden)
    by_block = padded.reshape(4, -1, BLOCK_ROWS // 4, depth).swapaxes(0, 1)  # (blocks, gates, units, depth)
    by_four = by_block.reshape(-1, BLOCK_ROWS, depth // 4, 4).swapaxes(1, 2)  # (blocks, depth / 4, rows, 4)
    return np.ascontiguousarray(by_four)


def _padded(size: int, to: int) -> int:
    return -(-size // to) * to


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
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.x86.avx512.{_INSTRUCTION}"
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


_jit: Any = numba.njit
_WITH_VNNI = bool(_INSTRUCTION)


@_jit(error_model="numpy")
def _dots(weights, hidden, sums):  # type: ignore[no-untyped-def]
    """``sums = weights @ hidden`` in integers, rows in the order of :func:`pack`."""
    blocks, fours, rows, _ = weights.shape
    if _WITH_VNNI:
        for block in range(blocks):
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


@_jit(fastmath=True, error_model="numpy", inline="always")
def tanh(x):  # type: ignore[no-untyped-def]
    """The hyperbolic tangent to 1e-4: its continued fraction (Lambert 1761), cut where it reaches 1.

    Plain arithmetic, so that compilers turn it into vectors; there is no vector form of the library's.
    """
    x = min(max(x, np.float32(-4.97)), np.float32(4.97))
    s = x * x
    upper = x * (np.float32(135135.0) + s * (np.float32(17325.0) + s * (np.float32(378.0) + s)))
    lower = np.float32(135135.0) + s * (np.float32(62370.0) + s * (np.float32(3150.0) + s * np.float32(28.0)))
    return upper / lower


@_jit(
    "void(float32[:,::1], int8[:,:,:,::1], float32[::1], uint8[::1], float32[::1], uint8[:,:], boolean)",
    fastmath=True, error_model="numpy", nogil=True, cache=True,
)  # fmt: skip
def run(gates, weights, scales, hidden, cell, outputs, reverse):  # type: ignore[no-untyped-def]
    """Run over some frames.

    :param gates: (frames, 4 * units), the inputs' part of the gates with all biases, in torch's order i, f, g, o; what ``hidden``
        contributes through its zero point is already taken off.
    :param weights: the recurrent ones, see :func:`pack`.
    :param scales: (4 * units,), what one step of a weight times one step of an activation is worth, in torch's order.
    :param hidden: the hidden state, padded to a multiple of four, with ``cell`` the state from which to start; both are changed.
    :param outputs: (frames, units), the hidden state after each frame.
    :param reverse: from the last frame to the first.
    """
    frames = len(gates)
    units = len(cell)
    group = BLOCK_ROWS // 4
    sums = np.empty(weights.shape[0] * BLOCK_ROWS, np.int32)
    half, one_step, rounding = np.float32(0.5), np.float32(ZERO - 1), np.float32(ZERO + 0.5)
    for number in range(frames):
        frame = frames - 1 - number if reverse else number
        _dots(weights, hidden, sums)
        gate = gates[frame]
        for first in range(0, units, group):
            for unit in range(first, min(first + group, units)):
                row = 4 * first + unit - first
                i = half + half * tanh(half * (gate[unit] + sums[row] * scales[unit]))
                f = half + half * tanh(half * (gate[units + unit] + sums[row + group] * scales[units + unit]))
                g = tanh(gate[2 * units + unit] + sums[row + 2 * group] * scales[2 * units + unit])
                o = half + half * tanh(half * (gate[3 * units + unit] + sums[row + 3 * group] * scales[3 * units + unit]))
                cell[unit] = f * cell[unit] + i * g
                hidden[unit] = np.uint8(np.int32(o * tanh(cell[unit]) * one_step + rounding))
        for unit in range(units):
            outputs[frame, unit] = hidden[unit]
