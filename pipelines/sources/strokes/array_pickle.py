"""Read arrays that NumPy has pickled inside another array, without unpickling.

`np.savez` pickles an array of arrays, and a pickle is a program that may call anything. Here its
opcodes are listed (pickletools.genops executes none) and followed only as far as NumPy uses them
for arrays of numbers, in protocols 2 to 5, from Python 2 too: the few names that NumPy refers to
stand for themselves, "calling" them makes a record of shape, type and bytes, and anything else is
refused. No code that a file names is imported or run.
"""

import math
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipelines.sources.base import BadFileError

_NUMBERS = re.compile(r"[iuf][1248]")
# Of 25 a drawing; each takes some 64 bytes of memory. The largest of Google's files has a half.
_MOST_STEPS = 1 << 24
_CORES = ("numpy.core", "numpy._core")


@dataclass(slots=True)
class PickledArray:
    """An array as its pickle describes it; nothing of it is checked.

    content  bytes, or a list of an array of objects
    """

    shape: Any = ()
    type: Any = None
    is_fortran: Any = False
    content: Any = b""

    def numbers(self) -> npt.NDArray[Any]:
        """Return it as an array of numbers.

        Raises ValueError if it is none, or its bytes are not those of its shape.
        """
        shape, kind, content = self.shape, self.type, self.content
        if not (isinstance(kind, _Type) and isinstance(kind.text, str)):
            raise ValueError("an array without a type")
        if not _NUMBERS.fullmatch(kind.text) or kind.order not in ("<", ">", "|", "="):
            raise ValueError(f"an array of {kind.text!r:.20}, expected numbers")
        if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)):
            raise ValueError("an array without a shape")
        dtype = np.dtype(kind.order + kind.text)
        if isinstance(content, str):  # bytes of Python 2
            content = content.encode("latin1")
        if not isinstance(content, bytes | bytearray) or (
            len(content) != math.prod(shape) * dtype.itemsize
        ):
            raise ValueError(f"an array of {shape!r:.40} {dtype} with bytes of another size")
        order = "F" if self.is_fortran else "C"
        return np.frombuffer(content, dtype).reshape(shape, order=order)


@dataclass(slots=True)
class _Type:
    text: Any
    order: Any = "|"


@dataclass(frozen=True, slots=True)
class _Name:
    """One of the names that NumPy's pickles refer to; `call` makes what calling it would."""

    call: Callable[..., Any]


def _no_call(*_: Any) -> Any:
    raise ValueError("a class is called")


def _as_bytes(text: str = "", encoding: str = "latin1") -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise ValueError("text in another encoding than Latin 1")
    return text.encode("latin1")


def _of_buffer(content: Any, kind: Any, shape: Any, order: Any) -> PickledArray:
    return PickledArray(shape, kind, order == "F", content)


_NAMES: Mapping[str, _Name] = {
    "numpy ndarray": _Name(_no_call),
    "numpy dtype": _Name(lambda text, *_: _Type(text)),
    "_codecs encode": _Name(_as_bytes),
    **dict.fromkeys(("__builtin__ bytes", "builtins bytes"), _Name(_as_bytes)),
    **{f"{c}.multiarray _reconstruct": _Name(lambda *_: PickledArray()) for c in _CORES},
    **{f"{core}.numeric _frombuffer": _Name(_of_buffer) for core in _CORES},
}


@dataclass(slots=True)
class _Machine:
    """What a pickle has made so far."""

    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since(self, start: int) -> list[Any]:
        """Take the values from there on off the stack."""
        values = self.stack[start:]
        del self.stack[start:]
        return values


def _mark(machine: _Machine, _: Any) -> None:
    machine.marks.append(len(machine.stack))


def _memoize(machine: _Machine, place: Any) -> None:
    """BINPUT has a place, MEMOIZE takes the next one."""
    machine.memo[len(machine.memo) if place is None else place] = machine.stack[-1]


def _tuple(machine: _Machine, _: Any) -> None:
    machine.stack.append(tuple(machine.since(machine.marks.pop())))


def _append(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is not list:
        raise ValueError("values of no list")
    target.extend(values)


def _refer(machine: _Machine, name: Any) -> None:
    """GLOBAL has the name, for STACK_GLOBAL its two parts are on the stack."""
    name = " ".join(machine.since(-2)) if name is None else name
    if name not in _NAMES:
        raise ValueError(f"it refers to {name.replace(' ', '.')!r:.60}")
    machine.stack.append(_NAMES[name])


def _call(machine: _Machine, _: Any) -> None:
    called, arguments = machine.since(-2)
    if not isinstance(called, _Name):
        raise ValueError("something else than a name is called")
    machine.stack.append(called.call(*arguments))


def _set_state(machine: _Machine, _: Any) -> None:
    """Give an array or type the state that ndarray.__reduce__ and dtype.__reduce__ describe."""
    state, made = machine.stack.pop(), machine.stack[-1]
    if isinstance(made, PickledArray):
        _, made.shape, made.type, made.is_fortran, made.content = state
    elif isinstance(made, _Type) and tuple(state[2:5]) == (None, None, None):
        made.order = state[1]
    else:
        raise ValueError("a state of something else than an array or a plain type")


_VALUES = (
    *("BININT", "BININT1", "BININT2", "LONG1"),
    *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(value)


def _tuple_of(number: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple(machine.since(-number)))


_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_VALUES, lambda machine, value: machine.stack.append(value)),
    **{name: _constant(value) for name, value in _CONSTANTS.items()},
    **{name: _tuple_of(number) for name, number in _TUPLES.items()},
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, place: m.stack.append(m.memo[place])),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoize),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _refer),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda *_: None),
    "MARK": _mark,
    "TUPLE": _tuple,
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "APPEND": lambda machine, _: _append(machine, machine.since(-1)),
    "APPENDS": lambda machine, _: _append(machine, machine.since(machine.marks.pop())),
    "REDUCE": _call,
    "BUILD": _set_state,
}


def read_pickled(file: BinaryIO, where: str) -> PickledArray:
    """Return the array that NumPy has pickled here.

    Raises BadFileError for a pickle of anything else, and one that is damaged.
    """
    machine = _Machine()
    try:
        for step, (opcode, value, _) in enumerate(pickletools.genops(file)):
            if step >= _MOST_STEPS:
                raise ValueError(f"more than {_MOST_STEPS} opcodes")
            if opcode.name not in _STEPS:
                raise ValueError(f"the opcode {opcode.name}")
            _STEPS[opcode.name](machine, value)
        (found,) = machine.stack
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise BadFileError(
            f"{where} holds pickled Python objects other than arrays of numbers ({error!s:.80}), or "
            "is damaged; only such arrays are read, and nothing is unpickled"
        ) from error
    if not isinstance(found, PickledArray):
        raise BadFileError(f"{where} holds a pickled {type(found).__name__}, expected an array")
    return found
