"""The thread team: torch's own OpenMP threads, so that no second team spins against them."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from service.torch_host.compiled.codegen.scalars import int64s

#: Most operands of a kernel, its thread and the number of threads not counted.
_MOST_OPERANDS: Final = 24

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def compute_alone() -> None:
    """Run OpenMP regions of the calling thread on that thread alone.

    OpenMP keeps a team for every thread that ever had one and, once there are more threads than
    cores, lets all of them sleep at every barrier: a model then decodes at half its speed. So only
    the engine's thread has a team.
    """
    torch.get_num_threads()  # torch sets a thread's number when it is first asked for it
    _library().omp_set_num_threads(1)


@cache
def _library() -> ctypes.CDLL:
    """The OpenMP library that torch computes with. Raises OSError if there is none to share."""
    bundled = sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    return ctypes.CDLL(str(bundled[0]) if bundled else "libgomp.so.1")


@intrinsic
def _call_kernel(typing_context, kernel, count, operands, thread, threads):
    """Call `kernel(first operand, thread, threads, following operands…)`, `count` operands."""

    def generate(context, builder, signature, arguments):
        kernel, count, operands, *team = arguments
        values = builder.inttoptr(operands, _I64.as_pointer())
        after = builder.append_basic_block("called")
        switch = builder.switch(count, after)
        for number in range(1, _MOST_OPERANDS + 1):
            block = builder.append_basic_block(f"of.{number}")
            switch.add_case(ir.Constant(_I64, number), block)
            builder.position_at_end(block)
            first, *rest = (
                builder.load(builder.gep(values, [ir.Constant(_I64, index)]))
                for index in range(number)
            )
            kind = ir.FunctionType(ir.VoidType(), [_I64] * (number + 2))
            builder.call(builder.inttoptr(kernel, kind.as_pointer()), [first, *team, *rest])
            builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def _call(typing_context, function):
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_I32, [])
        result = builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])
        return builder.sext(result, _I64)

    return types.int64(types.int64), generate


def _run_instructions(address):
    head = int64s(address)
    count, kernels = head[0], int64s(head[1])
    counts, operands = int64s(head[6]), int64s(head[2])
    # A kernel without preemption lets a waking thread wait for its next tick, 4 ms at 250 Hz, while
    # this team spins: the service would get tokens late. Where nothing waits, it costs 0.3 µs.
    _call(head[7])
    # OpenMP may grant fewer threads than asked for (OMP_THREAD_LIMIT, OMP_DYNAMIC).
    thread, threads = _call(head[3]), _call(head[4])
    for instruction in range(count):
        _call_kernel(
            kernels[instruction], counts[instruction], operands[instruction], thread, threads
        )
        _call(head[5])


@cache
def _team() -> tuple[Any, int, tuple[int, ...], Any]:
    library = _library()
    functions = [
        ctypes.cast(function, ctypes.c_void_p).value or 0
        for function in (
            library.omp_get_thread_num,
            library.omp_get_num_threads,
            library.GOMP_barrier,
            ctypes.CDLL(None).sched_yield,
        )
    ]
    run: Any = cfunc(types.void(types.int64), cache=True)(_run_instructions)
    launch = library.GOMP_parallel
    launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    launch.restype = None
    return launch, int(run.address), tuple(functions), run


class Instructions:
    """Kernels with their operands, run one after the other by at most `threads` threads.

    Every thread runs every kernel for its own part, and none begins the next before all are done.
    """

    def __init__(self, kernels: list[int], operands: list[list[int]], *, threads: int) -> None:
        width = max(len(row) for row in operands)
        assert width <= _MOST_OPERANDS
        self._counts = np.array([len(row) for row in operands], dtype=np.int64)
        self._operands = np.zeros((len(operands), width), dtype=np.int64)
        for row, values in zip(self._operands, operands, strict=True):
            row[: len(values)] = values
        self._kernels = np.array(kernels, dtype=np.int64)
        rows = np.arange(len(operands), dtype=np.int64) * width * 8
        self._addresses = self._operands.ctypes.data + rows
        self._launch, self._run, functions, self._keep = _team()
        self._threads = threads
        self._head = np.array(
            [
                len(kernels),
                self._kernels.ctypes.data,
                self._addresses.ctypes.data,
                *functions[:3],
                self._counts.ctypes.data,
                functions[3],
            ],
            dtype=np.int64,
        )
        self._head_address = self._head.ctypes.data

    def run(self, *, alone: bool = False) -> None:
        """Run all of them, `alone` on this thread; the interpreter's lock is free meanwhile."""
        self._launch(self._run, self._head_address, 1 if alone else self._threads, 0)
