"""The driver, its errors, devices and contexts, on a library that a test names.

Written after pycuda's documentation (documen.tician.de/pycuda/driver.html). It keeps pycuda's
rules of contexts: a stack of them in each thread, which must be empty when the thread ends; what
is destroyed in a thread with another context on top is not given back.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import threading
from typing import Any

_library: Any = None
aborted: list[str] = []
"""What real pycuda would have ended the program for."""


def use(library: Any) -> None:
    """The driver's library; for tests."""
    global _library
    _library = library
    aborted.clear()


class Error(Exception):
    pass


class MemoryError(Error, builtins.MemoryError):
    pass


class LogicError(Error):
    pass


class LaunchError(Error):
    pass


class RuntimeError(Error):
    pass


_KINDS: dict[int, type[Error]] = {
    **dict.fromkeys((700, 701, 702, 719), LaunchError),
    **dict.fromkeys((100, 209, 301, 600, 214), RuntimeError),
    2: MemoryError,
    999: Error,
}


def call(name: str, *arguments: Any) -> None:
    function = ctypes.c_void_p()
    _library.cuGetProcAddress_v2(
        name.encode(), ctypes.byref(function), 12060, ctypes.c_uint64(0), None
    )
    code = ctypes.CFUNCTYPE(ctypes.c_int)(function.value)(*arguments)
    if code:
        text = ctypes.c_char_p()
        _library.cuGetErrorString(code, ctypes.byref(text))
        raise _KINDS.get(code, LogicError)(f"{name} failed: {(text.value or b'').decode()}")


def word(value: int) -> ctypes.c_size_t:
    assert type(value) is int, f"{value!r} is no integer that pycuda converts"
    return ctypes.c_size_t(value)


def init(flags: int = 0) -> None:
    call("cuInit", flags)


class _Stack(threading.local):
    def __init__(self) -> None:
        self.contexts: list[Context] = []


_stack = _Stack()


def check_thread() -> None:
    """What pycuda checks when a thread ends."""
    if _stack.contexts:
        aborted.append("The context stack was not empty upon module cleanup.")


class Device:
    def __init__(self, number: int) -> None:
        self._device = ctypes.c_int()
        call("cuDeviceGet", ctypes.byref(self._device), number)

    def name(self) -> str:
        buffer = ctypes.create_string_buffer(1024)
        call("cuDeviceGetName", buffer, 1024, self._device)
        return buffer.value.decode()

    def compute_capability(self) -> tuple[int, int]:
        numbers = []
        for attribute in (75, 76):
            value = ctypes.c_int()
            call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
            numbers.append(value.value)
        return numbers[0], numbers[1]

    def retain_primary_context(self) -> Context:
        return Context(self._device)


class Context:
    def __init__(self, device: Any) -> None:
        self._device, self._handle = device, ctypes.c_void_p()
        self._thread, self._valid = threading.get_ident(), True
        call("cuDevicePrimaryCtxRetain", ctypes.byref(self._handle), device)

    def push(self) -> None:
        if _stack.contexts:
            call("cuCtxPopCurrent", ctypes.byref(ctypes.c_void_p()))
        call("cuCtxPushCurrent", self._handle)
        _stack.contexts.append(self)

    @staticmethod
    def pop() -> None:
        if not _stack.contexts:
            raise LogicError("context::pop failed: invalid device context - cannot pop")
        call("cuCtxPopCurrent", ctypes.byref(ctypes.c_void_p()))
        _stack.contexts.pop()
        if _stack.contexts:
            call("cuCtxPushCurrent", _stack.contexts[-1]._handle)

    def detach(self) -> None:
        if not self._valid:
            raise LogicError("context::detach failed: invalid device context")
        self._valid = False
        on_top = bool(_stack.contexts) and _stack.contexts[-1] is self
        if on_top or self._thread == threading.get_ident():
            clean_up("cuDevicePrimaryCtxRelease", self._device)
        # Each time that it was pushed and never popped: also where a pop failed.
        while on_top and _stack.contexts and not _stack.contexts[-1]._valid:
            _stack.contexts.pop()


def clean_up(name: str, *arguments: Any) -> None:
    """A failure is a line on stderr."""
    try:
        call(name, *arguments)
    except Error as error:
        print(f"PyCUDA WARNING: a clean-up operation failed (dead context maybe?)\n{error}")


class Owned:
    """Remembers the context that it was made in, and is destroyed in it or not at all."""

    def __init__(self) -> None:
        if not _stack.contexts:
            raise LogicError(
                "explicit_context_dependent failed: invalid device context - "
                "no currently active context?"
            )
        self._context = _stack.contexts[-1]

    def _destroy(self, name: str, *arguments: Any) -> None:
        context = self._context
        if not context._valid:
            return
        if _stack.contexts and _stack.contexts[-1] is context:
            clean_up(name, *arguments)
        elif context._thread == threading.get_ident():
            with contextlib.suppress(Error):
                context.push()
                clean_up(name, *arguments)
                context.pop()
