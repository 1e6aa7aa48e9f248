"""Runs pickles on a machine that builds inert values only: nothing is imported or called by name.

CPython's unpickler calls whatever `find_class` returns and sets attributes on whatever is on its
stack; an allow-list has to foresee each way to abuse that. This machine has no such ways: a global
is a row of a table of ours, BUILD and NEWOBJ make plain containers, and nothing is ever hashed but
short keys, so that no opcode takes more time or memory than its own length.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from viewstore.generators.checkpoints.scan import Budget, Malformed, scan

NOT_STYLEGAN2 = "this is not a StyleGAN2 file, or it is hostile: do not open it with other tools"

Arguments = tuple[object, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A name that a pickle may mention.

    Attributes:
        name: Module and name, joined by a dot.
        call: What calling it gives; None if it may only be mentioned.
        make: What an instance without arguments is; None if it has none.
    """

    name: str
    call: Callable[[Arguments], object] | None = None
    make: Callable[[], object] | None = None


class Stateful(ABC):
    """What a pickle may give a state, once it is made; it decides itself what it keeps of it."""

    __slots__ = ()

    @abstractmethod
    def take_state(self, state: object) -> None:
        """Take the state. Raises Malformed: it is none that such a thing can have."""


@dataclass(frozen=True, slots=True, eq=False)
class DType(Stateful):
    """A numpy dtype by its code. It accepts the state of a little-endian number, and keeps none."""

    code: str

    def take_state(self, state: object) -> None:
        """Raise Malformed unless the state is that of a little-endian number."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
            raise Malformed("a numpy dtype is not a little-endian number")


Table = Mapping[str, Global]
PersistentLoad = Callable[[object], object]


def load(
    stream: io.BytesIO,
    table: Table,
    budget: Budget,
    *,
    persistent: PersistentLoad | None = None,
) -> object:
    """Return the value of the pickle that starts at the position of `stream`.

    Sets come back as lists and dict subclasses as dicts. `persistent` resolves persistent ids;
    without it they are refused.

    Raises:
        Malformed: the pickle breaks a rule, or names a global outside `table`.
    """
    machine = _Machine(table, persistent)
    allowed = _LITERALS | _STEPS.keys()
    if persistent is None:
        allowed -= {"BINPERSID"}
    for name, argument, position in scan(stream, budget, allowed=allowed):
        try:
            machine.step(name, argument)
        except _Misuse as error:
            raise Malformed(f"{error} ({name} at byte {position})", fix=error.fix) from error
    return machine.result()


class _Misuse(Malformed):
    """An opcode does not fit what is on the stack; `load` adds its name and offset."""


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, table: Table, persistent: PersistentLoad | None) -> None:
        self._table = table
        self._persistent = persistent
        self._stack: list[object] = []
        self._outer: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def step(self, name: str, argument: object) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        else:
            _STEPS[name](self, argument)

    def result(self) -> object:
        value = self._pop()
        if self._stack or self._outer:
            raise Malformed("the pickle ends with values left over")
        return value

    def _pop(self) -> object:
        if not self._stack:
            raise _Misuse("the pickle takes a value that is not there")
        return self._stack.pop()

    def _pop_mark(self) -> list[object]:
        if not self._outer:
            raise _Misuse("the pickle takes a mark that is not there")
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def mark(self, _: object) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def short_tuple(self, length: int) -> None:
        items = [self._pop() for _ in range(length)]
        self._push(tuple(reversed(items)))

    def marked_tuple(self, _: object) -> None:
        self._push(tuple(self._pop_mark()))

    def extend(self, items: list[object]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            raise _Misuse("the pickle appends to what is not a list")
        target.extend(items)
        self._push(target)

    def update(self, items: list[object]) -> None:
        target = self._pop()
        if not isinstance(target, dict):
            raise _Misuse("the pickle sets an item of what is not a dict")
        if len(items) % 2:
            raise _Misuse("the pickle sets a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a nested tuple takes time exponential in its depth, and long integers can
            # be chosen to collide.
            if not (isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 64)):
                raise _Misuse(f"a dict key must be a string, got {type(key).__name__}")
            target[key] = value
        self._push(target)

    def put(self, index: object) -> None:
        assert isinstance(index, int)
        value = self._pop()
        self._memo[index] = value
        self._push(value)

    def get(self, index: object) -> None:
        assert isinstance(index, int)
        if index not in self._memo:
            raise _Misuse(f"the pickle recalls memo {index}, which was never stored")
        self._push(self._memo[index])

    def global_by_name(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _Misuse("a global must be named by two strings")
        found = self._table.get(f"{module}.{name}")
        if found is None:
            named = printable(f"{module}.{name}")
            raise Malformed(f"global {named} is not allowed", fix=NOT_STYLEGAN2)
        self._push(found)

    def text_global(self, argument: object) -> None:
        assert isinstance(argument, str)
        module, _, name = argument.partition(" ")
        self.global_by_name(module, name)

    def stack_global(self, _: object) -> None:
        name, module = self._pop(), self._pop()
        self.global_by_name(module, name)

    def reduce(self, _: object) -> None:
        arguments, target = self._pop(), self._pop()
        if not (isinstance(target, Global) and target.call and isinstance(arguments, tuple)):
            raise _Misuse("the pickle calls what cannot be called")
        self._push(target.call(arguments))

    def new_object(self, _: object) -> None:
        arguments, target = self._pop(), self._pop()
        if not (isinstance(target, Global) and target.make):
            raise _Misuse("the pickle makes an object of what is not a class")
        if not isinstance(arguments, tuple) or arguments:
            raise _Misuse(f"{target.name} is made with arguments")
        self._push(target.make())

    def build(self, _: object) -> None:
        """Hand a state to what takes one, and drop the attributes of a dict: none is ever set."""
        state, target = self._pop(), self._pop()
        if isinstance(target, Stateful):
            target.take_state(state)
        elif not isinstance(target, dict):
            raise _Misuse("the pickle sets attributes of what has none")
        self._push(target)

    def persistent_id(self, _: object) -> None:
        assert self._persistent is not None
        self._push(self._persistent(self._pop()))


# Every opcode that Python's own pickler writes for the files we read, protocols 2 to 5. Whatever
# is not here is refused: EXT*, PERSID, INST, OBJ, shared buffers, frozen sets, the text of protocol
# 0, and what copies or drops the top of the stack.
_LITERALS = frozenset(
    {
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    }
)
_STEPS: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "MARK": _Machine.mark,
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "TUPLE1": lambda machine, _: machine.short_tuple(1),
    "TUPLE2": lambda machine, _: machine.short_tuple(2),
    "TUPLE3": lambda machine, _: machine.short_tuple(3),
    "TUPLE": _Machine.marked_tuple,
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_SET": lambda machine, _: machine._push([]),
    "APPEND": lambda machine, _: machine.extend([machine._pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine._pop_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine._pop_mark()),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "SETITEM": lambda machine, _: machine.update([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.update(machine._pop_mark()),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine._memo)),
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.text_global,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new_object,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
}


def printable(text: str) -> str:
    """Return text from a file, cut and escaped so that it can stand in a message."""
    return text[:100].encode("unicode_escape").decode("ascii")
