"""Pickles, interpreted: opcodes build plain values and inert placeholders, and nothing is ever imported, called or executed.

A pickle is a program for a stack machine. This machine has the opcodes of the binary protocols 2 to 5 that checkpoints use (`OPCODES`); the others
are refused by name. A symbol (GLOBAL, STACK_GLOBAL) is two texts. Calling a symbol (REDUCE, NEWOBJ) does something only if the symbol is in a
closed table, and then it is the function of that table that runs, which is code of this package; every other call makes an `Inert`
placeholder that remembers the symbol, the arguments, and what was built into it.

What a pickle makes the machine build is counted in bytes of objects against `Limits.heap` before it is built; nothing here calls itself,
so that depth costs nothing. Keys of a dictionary that are chosen to collide would make it slow, by the square of their number: integers as keys
have 64 bits, and numbers that are neither small nor the one after the last are few, as are tuples of numbers, and gaps in the memo.

Reference: the comments of the standard library's pickletools module, which specify every opcode.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from weights_io.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from weights_io.limits import Limits

__all__ = [
    "OPCODES",
    "RULES",
    "SYMBOLS",
    "Inert",
    "Items",
    "Known",
    "Machine",
    "Node",
    "Opcode",
    "Symbol",
    "merged",
    "set_items",
    "shown",
]

RULES = {
    "pickle.begin": "A pickle begins with PROTO and a protocol from 2 to 5.",
    "pickle.opcode": "A pickle uses the opcodes of the binary protocols; text, extension and out-of-band opcodes are not read.",
    "pickle.truncated": "Every byte that an opcode announces is in the pickle, and STOP ends it.",
    "pickle.opcodes": "A pickle has at most 20 million opcodes, and at most 100 thousand plus four for each byte of the file.",
    "pickle.stack": "Every opcode finds on the stack, above the last mark, what it takes, and STOP finds one object and no mark.",
    "pickle.memo": "Only what was put into the memo is taken from it, and the memo is filled in order, but for 1000 places.",
    "pickle.text": "Text is UTF-8.",
    "pickle.integer": "An integer has at most 1024 bytes.",
    "pickle.symbol": "A symbol is a module and a name, each a text of 1 to 255 printable characters.",
    "pickle.key": "A key of a dictionary, and an element of a set, is a plain value, a tuple of such, or a placeholder; scattered numbers are few.",
    "pickle.target": "Elements are added to lists, sets, dictionaries and placeholders, each with its own opcode, and pairs are whole.",
    "pickle.call": "What is called is a symbol or a placeholder, its arguments are a tuple, and known symbols get the arguments that they take.",
    "pickle.build": "A state is built into what has one.",
}

RENAMED_BUILTINS = {"xrange": "range", "long": "int", "unicode": "str", "unichr": "chr"}
MAX_OPCODES, FREE_OPCODES = 20_000_000, 100_000
MAX_INTEGER = 1024  # bytes: Python shows integers of up to 4300 digits
MAX_SYMBOL = 255
MAX_KEY = 16  # plain values in one key
MAX_WEAK_KEYS = 1000  # in one pickle: a tuple of numbers has a hash that a file can choose
SMALL_KEY, MAX_SCATTERED = (
    1024,
    10_000,
)  # numbers as keys: those that are free; and how many others a pickle may have, but see `scattered`
CALL_COST = 32  # so that calls which make nothing are not free
ELEMENT, PAIR = 140, 100  # bytes that an element of a set and an item of a dictionary cost at most
SHOWN_DEPTH, SHOWN_ITEMS, SHOWN_TEXT, SHOWN = 3, 8, 60, 400
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names, which protocol 2 keeps
NOT_READ = "INT LONG FLOAT STRING UNICODE DICT LIST GET PUT INST OBJ PERSID DUP PROTO EXT1 EXT2 EXT4 NEXT_BUFFER READONLY_BUFFER"
REFUSED = dict(zip(b"ILFSVdlgpioP2\x80\x82\x83\x84\x97\x98", NOT_READ.split(), strict=True))


class Symbol(NamedTuple):
    """A name in a module, as a pickle has it: two texts and nothing more."""

    module: str
    name: str

    def __repr__(self) -> str:
        return f"{self.module}.{self.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Symbol) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return tuple.__hash__(self)


class Node:
    """Something that a pickle built which is not a plain value."""

    __slots__ = ("__weakref__",)

    def build(self, machine: Machine, state: Any) -> None:
        """Take the state of a BUILD opcode."""
        machine.refuse("pickle.build", "this has no state", got=self)


class Inert(Node):
    """A placeholder for an object of a class, or the result of a function, that is not in the closed table.

    Attributes
    ----------
    function : Symbol of the class or function; or the placeholder that was called
    args, kwargs : what it was called with
    state : what was built into it: a dict of attributes, or another value; None where there is none
    slots : the attributes in slots, a dict, where there are any
    items : the elements that were appended or added
    pairs : the items that were set
    """

    __slots__ = ("args", "function", "items", "kwargs", "pairs", "slots", "state")

    def __init__(
        self, function: Any, args: tuple[Any, ...] = (), kwargs: Mapping[Any, Any] | None = None, state: Any = None
    ) -> None:
        self.function, self.args, self.kwargs, self.state = function, args, kwargs, state
        self.slots: Any = None
        self.items: list[Any] = []
        self.pairs: dict[Any, Any] = {}

    def build(self, machine: Machine, state: Any) -> None:
        """Take a state; a pair of dictionaries is one of attributes and one of slots."""
        if type(state) is tuple and len(state) == 2 and all(part is None or isinstance(part, dict) for part in state):
            self.slots = merged(machine, self.slots, state[1])
            state = state[0]
        self.state = merged(machine, self.state, state)

    def __repr__(self) -> str:
        return shown(self)


class Items(dict[Any, Any]):
    """A dictionary of a known class (OrderedDict, defaultdict, Counter), which can have attributes."""

    __slots__ = ("function", "state")

    def __init__(self, function: Symbol) -> None:
        super().__init__()
        self.function, self.state = function, None

    def build(self, machine: Machine, state: Any) -> None:
        """Take attributes."""
        if state is not None and not isinstance(state, dict):
            machine.refuse("pickle.build", "attributes must be a dictionary", got=type(state).__name__)
        self.state = merged(machine, self.state, state)


def merged(machine: Machine, old: Any, new: Any) -> Any:
    """The state after another BUILD: attributes are updated, anything else is replaced."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old if new is None else new
    machine.spend(100 + 16 * (len(old) + len(new)))
    both: dict[Any, Any] = {}
    for pairs in (old, new):
        set_items(machine, both, [part for pair in pairs.items() for part in pair])
    return both


def shown(value: Any, depth: int = 0) -> str:
    """A value as text of bounded length, however large, deep or cyclic it is."""
    text = _shown(value, depth)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _shown(value: Any, depth: int) -> str:
    if isinstance(value, (str, bytes, bytearray)):
        return repr(value if len(value) <= SHOWN_TEXT else value[:SHOWN_TEXT]) + (
            "" if len(value) <= SHOWN_TEXT else "..."
        )
    if isinstance(value, (dict, list, tuple, set, frozenset, Inert)) and not isinstance(value, Symbol):
        return _shown_container(value, depth + 1) if depth < SHOWN_DEPTH else "..."
    return repr(value)[:SHOWN]


def _shown_container(value: Any, depth: int) -> str:
    if isinstance(value, Inert):
        return _shown_inert(value, depth)
    if isinstance(value, dict):
        return (
            "{" + _shown_parts(value, [f"{_shown(k, depth)}: {_shown(v, depth)}" for k, v in _few(value.items())]) + "}"
        )
    left, right = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
    return left + _shown_parts(value, [_shown(item, depth) for item in _few(value)]) + right


def _shown_inert(node: Inert, depth: int) -> str:
    named = [pairs for pairs in (node.kwargs, node.state, node.slots) if isinstance(pairs, dict)]
    parts = [_shown(part, depth) for part in _few(node.args)]
    parts += [f"{_text(key)}={_shown(item, depth)}" for pairs in named for key, item in _few(pairs.items())]
    parts += [_shown(part, depth) for part in (node.state, node.items, node.pairs) if part and not _among(part, named)]
    many = len(node.args) > SHOWN_ITEMS or any(len(pairs) > SHOWN_ITEMS for pairs in named)
    return f"{_shown(node.function, depth)}({', '.join(parts[:SHOWN_ITEMS])}{', ...' if many or len(parts) > SHOWN_ITEMS else ''})"


def _among(part: Any, named: list[Any]) -> bool:
    """Whether it is one of these: comparing what is in them would take as long as the file likes."""
    return any(part is other for other in named)


def _few(values: Any) -> list[Any]:
    return [value for value, _ in zip(values, range(SHOWN_ITEMS), strict=False)]


def _text(key: Any) -> str:
    return str(key[:SHOWN_TEXT]) if isinstance(key, str) else _shown(key, SHOWN_DEPTH)


def _shown_parts(value: Any, parts: list[str]) -> str:
    return ", ".join(parts) + (", ..." if len(value) > len(parts) else "")


class Machine:
    """One pickle being interpreted.

    Parameters
    ----------
    data : the bytes from which the pickle is read; it may end before they do
    where, base : the file, and the place of `data` in it, for messages
    limits, size : the budget for what is built is `limits.heap(size)`
    symbols : the closed table: what is done when a symbol is called
    persistent : what a persistent identifier means
    cost : what was built already
    position : where the pickle begins in `data`
    """

    def __init__(
        self,
        data: Any,
        where: Path,
        base: int,
        limits: Limits,
        size: int,
        symbols: Mapping[Symbol, Known],
        persistent: Callable[[Machine, Any], Any],
        cost: int = 0,
        position: int = 0,
    ) -> None:
        self.data, self.where, self.base, self.limits, self.size = memoryview(data), where, base, limits, size
        self.symbols, self.persistent = symbols, persistent
        self.cost, self.allowed = cost, limits.heap(size)
        self.position = self.begin = position
        self.floor = self.weak_keys = self.weak_puts = 0
        self.numbers = self.last_put = 0
        self.last_key: float = -1
        self.scattered = MAX_SCATTERED + math.isqrt(
            size
        )  # as many may collide: their square costs what the file's size allows
        self.end = len(self.data)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.sparse_memo: dict[int, Any] = {}
        self.known: dict[tuple[str, str], Symbol] = {}

    # What handlers use

    def refuse(self, rule: str, what: str, **more: Any) -> NoReturn:
        """Raise FormatError for the opcode at hand."""
        raise FormatError(what, rule=rule, where=self.where, offset=self.base + self.begin, **more)

    def spend(self, cost: int) -> None:
        """Count objects of `cost` bytes, before they are built."""
        self.cost += cost
        if self.cost > self.allowed:
            self.limits.check_heap(self.cost, self.size, self.where, f"pickle, byte {self.base + self.begin}")

    def take(self, length: int) -> memoryview:
        """The next bytes of the pickle."""
        start = self.position
        if length > self.end - start:
            self.refuse(
                "pickle.truncated",
                "the pickle ends inside an opcode",
                expected=f"{length} bytes",
                got=f"{self.end - start} bytes to the end",
            )
        self.position = start + length
        return self.data[start : start + length]

    def number(self, length: int) -> int:
        """The next bytes as an unsigned little-endian integer."""
        return int.from_bytes(self.take(length), "little")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """The topmost value, taken from the stack."""
        if len(self.stack) <= self.floor:
            self.refuse("pickle.stack", "nothing is left on the stack above the last mark")
        return self.stack.pop()

    def top(self) -> Any:
        """The topmost value, left on the stack."""
        if len(self.stack) <= self.floor:
            self.refuse("pickle.stack", "nothing is on the stack above the last mark")
        return self.stack[-1]

    def several(self) -> list[Any]:
        """The values above the last mark, taken from the stack, and the mark with them."""
        if not self.marks:
            self.refuse("pickle.stack", "there is no mark")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        self.floor = self.marks[-1] if self.marks else 0
        return values

    def put(self, index: int) -> None:
        """Remember the topmost value."""
        value = self.top()
        if index == len(self.memo):
            self.spend(16)
            self.memo.append(value)
            self.sparse_memo.pop(index, None)
        elif index < len(self.memo):
            self.memo[index] = value
        else:
            self.spend(PAIR + 32)
            self._count_put(index)
            self.sparse_memo[index] = value

    def _count_put(self, index: int) -> None:
        """Places after each other are as good as a list; others could be chosen to collide."""
        self.weak_puts += index != self.last_put + 1
        self.last_put = index
        if self.weak_puts > MAX_WEAK_KEYS:
            self.refuse("pickle.memo", "the memo has too many gaps", field=f"memo {index}")

    def get(self, index: int) -> None:
        """Push what was remembered."""
        self.spend(16)
        if index < len(self.memo):
            self.stack.append(self.memo[index])
        elif index in self.sparse_memo:
            self.stack.append(self.sparse_memo[index])
        else:
            self.refuse("pickle.memo", "the memo has nothing there", field=f"memo {index}")

    def symbol(self, module: str, name: str) -> Symbol:
        """The one Symbol of that module and name; Python 2's names become those of Python 3."""
        known = self.known.get((module, name))
        if known is not None:
            return known
        for text in (module, name):
            if not (0 < len(text) <= MAX_SYMBOL and text.isprintable()):
                self.refuse("pickle.symbol", "this is no symbol", got=f"{module[:64]!r}, {name[:64]!r}")
        self.spend(500 + 5 * (len(module) + len(name)))
        renamed = RENAMED.get(module, module)
        found = Symbol(renamed, RENAMED_BUILTINS.get(name, name) if renamed == "builtins" else name)
        self.known[module, name] = found
        return found

    def key(self, key: Any) -> Any:
        """The same value, if it may be a key: its hash is quick to make, and hard to choose."""
        if type(key) is str or key is None or isinstance(key, (bool, bytes, Symbol, Node)):
            return key
        if (type(key) is float or (type(key) is int and key.bit_length() <= 64)) and self._few_numbers(key):
            return key
        if type(key) in (tuple, frozenset) and self._plain_key(key):
            return key
        return self.refuse("pickle.key", "this cannot be a key", got=f"{type(key).__name__} {shown(key)}")

    def _few_numbers(self, key: float) -> bool:
        """Numbers one after the other do not collide, and small ones are few; what a file can choose among all others is counted."""
        whole = type(key) is int
        self.numbers += not (whole and (key == self.last_key + 1 or abs(key) <= SMALL_KEY))
        self.last_key = key if whole else -1
        return self.numbers <= self.scattered

    def _plain_key(self, key: Any) -> bool:
        pending, count, numbers, secret = [key], 0, False, False
        while pending:
            part = pending.pop()
            count += 1
            if count > MAX_KEY:
                return False
            if type(part) in (tuple, frozenset):
                pending.extend(list(part)[: MAX_KEY + 1])
            elif isinstance(part, (str, bytes, Symbol, Node)):
                secret = secret or bool(part)  # its hash is not for the file to know
            elif type(part) is float or (type(part) is int and part.bit_length() <= 64):
                numbers = True
            elif part is not None and type(part) is not bool:
                return False
        self.weak_keys += numbers or not secret
        return self.weak_keys <= MAX_WEAK_KEYS

    def call(self, function: Any, args: Any) -> Any:
        """What a function gives, or a class called with arguments: the closed table decides, and what it does not know becomes an Inert."""
        self._check_call(function, args)
        known = self.symbols.get(function) if isinstance(function, Symbol) else None
        return self._inert(function, args, None) if known is None else known.run(self, args)

    def new(self, function: Any, args: Any, kwargs: Mapping[Any, Any] | None = None) -> Any:
        """What a class makes without being initialised: a list or dictionary is empty then, whatever its arguments."""
        self._check_call(function, args)
        known = self.symbols.get(function) if isinstance(function, Symbol) else None
        if known is None:
            return self._inert(function, args, kwargs)
        if kwargs or known.new == "never" or (args and known.new == "empty"):
            self.refuse("pickle.call", "this is not made so", field=function, got=shown(args))
        return known.run(self, args)

    def _check_call(self, function: Any, args: Any) -> None:
        self.spend(CALL_COST)
        if not isinstance(function, (Symbol, Inert)):
            self.refuse(
                "pickle.call", "only a symbol can be called", got=f"{type(function).__name__} {shown(function)}"
            )
        if type(args) is not tuple:
            self.refuse("pickle.call", "the arguments must be a tuple", field=function, got=type(args).__name__)

    def _inert(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[Any, Any] | None) -> Inert:
        self.spend(300)
        return Inert(function, args, kwargs or None)

    def wrong_call(self, symbol: object, args: Any, expected: str) -> NoReturn:
        """Refuse the arguments of a known symbol."""
        self.refuse("pickle.call", "wrong arguments", field=symbol, expected=expected, got=shown(args))

    # The run

    def run(self) -> Any:
        """The object that the pickle describes; afterwards `position` is behind STOP."""
        self._begin()
        most = min(MAX_OPCODES, FREE_OPCODES + 4 * self.size)
        for _ in range(most):
            self.begin = self.position
            if self.position >= self.end:
                self.refuse("pickle.truncated", "the pickle ends without STOP")
            code = self.data[self.position]
            self.position += 1
            if code == STOP:
                return self._finish()
            opcode = OPCODES.get(code)
            if opcode is None:
                self._refuse_opcode(code)
            opcode.run(self)
        return self.refuse("pickle.opcodes", "the pickle is too long", expected=f"at most {most} opcodes")

    def release(self) -> None:
        """Forget the bytes and the memo; the budget goes on."""
        self.data = memoryview(b"")
        self.memo, self.sparse_memo = [], {}

    def _begin(self) -> None:
        self.begin = self.position
        head = bytes(self.data[self.position : self.position + 2])
        if len(head) != 2 or head[0] != PROTO or head[1] not in range(2, 6):
            self.refuse("pickle.begin", "this is no binary pickle", expected="PROTO, 2 to 5", got=head)
        self.position += 2

    def _refuse_opcode(self, code: int) -> NoReturn:
        if code not in REFUSED:
            self.refuse("pickle.opcode", "this is no opcode", got=f"byte 0x{code:02x}")
        raise UnsupportedError(
            "this pickle opcode is not read",
            rule="pickle.opcode",
            where=self.where,
            offset=self.base + self.begin,
            expected=", ".join(opcode.name for opcode in OPCODES.values()) + ", STOP",
            got=REFUSED[code],
            remedy="checkpoints are written with pickle protocol 2 or later",
        )

    def _finish(self) -> Any:
        result = self.pop()
        if self.stack or self.marks:
            got = f"{len(self.stack)} more objects, {len(self.marks)} marks"
            self.refuse("pickle.stack", "something is left on the stack at the end", got=got)
        return result


class Opcode:
    """An opcode that is read: its name, and what it does."""

    __slots__ = ("name", "run")

    def __init__(self, name: str, run: Callable[[Machine], object]) -> None:
        self.name, self.run = name, run


STOP, PROTO = b"."[0], 0x80
OPCODES: dict[int, Opcode] = {}


def _opcode(code: bytes, name: str) -> Callable[[Callable[[Machine], object]], Callable[[Machine], object]]:
    def register(run: Callable[[Machine], object]) -> Callable[[Machine], object]:
        OPCODES[code[0]] = Opcode(name, run)
        return run

    return register


# --- Numbers, text, bytes -------------------------------------------------------------------------------------------------------


def _constant(code: bytes, name: str, value: Any) -> None:
    def run(machine: Machine) -> None:
        machine.spend(8)
        machine.stack.append(value)

    _opcode(code, name)(run)


_constant(b"N", "NONE", None)
_constant(b"\x88", "NEWTRUE", True)
_constant(b"\x89", "NEWFALSE", False)
_constant(b")", "EMPTY_TUPLE", ())


def _integer(code: bytes, name: str, length: int, *, signed: bool = False) -> None:
    def run(machine: Machine) -> None:
        machine.spend(40)
        machine.stack.append(int.from_bytes(machine.take(length), "little", signed=signed))

    _opcode(code, name)(run)


_integer(b"K", "BININT1", 1)
_integer(b"M", "BININT2", 2)
_integer(b"J", "BININT", 4, signed=True)


def _long(code: bytes, name: str, width: int) -> None:
    def run(machine: Machine) -> None:
        length = machine.number(width)
        if length > MAX_INTEGER:
            machine.refuse(
                "pickle.integer",
                "the integer is too long",
                expected=f"at most {MAX_INTEGER} bytes",
                got=f"{length} bytes",
            )
        machine.spend(48 + 2 * length)
        machine.push(int.from_bytes(machine.take(length), "little", signed=True))

    _opcode(code, name)(run)


_long(b"\x8a", "LONG1", 1)
_long(b"\x8b", "LONG4", 4)


@_opcode(b"G", "BINFLOAT")
def _binfloat(machine: Machine) -> None:
    machine.spend(32)
    machine.push(struct.unpack(">d", machine.take(8))[0])


def _width(raw: memoryview) -> int:
    """Bytes that each character of a text takes, from the bytes of its UTF-8."""
    largest = int(np.frombuffer(raw, np.uint8).max(initial=0))
    return 1 if largest < 0xC4 else 2 if largest < 0xF0 else 4


def _decoded(machine: Machine, length: int) -> str:
    raw = machine.take(length)
    if length > 64:
        machine.spend(length * _width(raw))
    try:
        text = str(raw, "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        return machine.refuse("pickle.text", "the text is not UTF-8", got=str(error.reason))
    machine.spend(72 if length > 64 else 72 + (1 if text.isascii() else 4) * length)
    return text


def _unicode(code: bytes, name: str, width: int) -> None:
    _opcode(code, name)(lambda machine: machine.push(_decoded(machine, machine.number(width))))


_unicode(b"\x8c", "SHORT_BINUNICODE", 1)
_unicode(b"X", "BINUNICODE", 4)
_unicode(b"\x8d", "BINUNICODE8", 8)


def _bytes(code: bytes, name: str, width: int, kind: type) -> None:
    def run(machine: Machine) -> None:
        raw = machine.take(machine.number(width))
        machine.spend(72 + len(raw))
        machine.push(kind(raw))

    _opcode(code, name)(run)


_bytes(b"C", "SHORT_BINBYTES", 1, bytes)
_bytes(b"B", "BINBYTES", 4, bytes)
_bytes(b"\x8e", "BINBYTES8", 8, bytes)
_bytes(b"\x96", "BYTEARRAY8", 8, bytearray)


def _old_string(code: bytes, name: str, width: int) -> None:
    """A string of Python 2: text if it is UTF-8, bytes otherwise."""

    def run(machine: Machine) -> None:
        raw = machine.take(machine.number(width))
        machine.spend(80 + (1 + _width(raw)) * len(raw))
        value = bytes(raw)
        try:
            machine.push(value.decode())
        except UnicodeDecodeError:
            machine.push(value)

    _opcode(code, name)(run)


_old_string(b"U", "SHORT_BINSTRING", 1)
_old_string(b"T", "BINSTRING", 4)


# --- The stack and the memo -----------------------------------------------------------------------------------------------------


@_opcode(b"(", "MARK")
def _mark(machine: Machine) -> None:
    machine.spend(48)
    machine.floor = len(machine.stack)
    machine.marks.append(machine.floor)


@_opcode(b"0", "POP")
def _pop(machine: Machine) -> None:
    if machine.marks and len(machine.stack) == machine.floor:
        machine.several()
    else:
        machine.pop()


_opcode(b"1", "POP_MARK")(Machine.several)
_opcode(b"q", "BINPUT")(lambda machine: machine.put(machine.number(1)))
_opcode(b"r", "LONG_BINPUT")(lambda machine: machine.put(machine.number(4)))
_opcode(b"\x94", "MEMOIZE")(lambda machine: machine.put(len(machine.memo) + len(machine.sparse_memo)))
_opcode(b"h", "BINGET")(lambda machine: machine.get(machine.number(1)))
_opcode(b"j", "LONG_BINGET")(lambda machine: machine.get(machine.number(4)))


@_opcode(b"\x95", "FRAME")
def _frame(machine: Machine) -> None:
    length = machine.number(8)
    if length > machine.end - machine.position:
        machine.refuse(
            "pickle.truncated",
            "the frame is longer than the pickle",
            expected=f"at most {machine.end - machine.position} bytes",
            got=f"{length} bytes",
        )


# --- Containers -----------------------------------------------------------------------------------------------------------------


def _container(code: bytes, name: str, kind: type, cost: int) -> None:
    def run(machine: Machine) -> None:
        machine.spend(cost)
        machine.stack.append(kind())

    _opcode(code, name)(run)


_container(b"]", "EMPTY_LIST", list, 88)
_container(b"}", "EMPTY_DICT", dict, 96)
_container(b"\x8f", "EMPTY_SET", set, 248)


def _tuple(code: bytes, name: str, count: int) -> None:
    def run(machine: Machine) -> None:
        machine.spend(64 + 8 * count)
        stack = machine.stack
        if len(stack) - count < machine.floor:
            machine.refuse("pickle.stack", "too few objects for a tuple are on the stack", expected=count)
        stack[-count:] = [tuple(stack[-count:])]

    _opcode(code, name)(run)


_tuple(b"\x85", "TUPLE1", 1)
_tuple(b"\x86", "TUPLE2", 2)
_tuple(b"\x87", "TUPLE3", 3)


@_opcode(b"t", "TUPLE")
def _tuple_from_mark(machine: Machine) -> None:
    machine.spend(64 + 16 * (len(machine.stack) - machine.floor))
    machine.push(tuple(machine.several()))


@_opcode(b"\x91", "FROZENSET")
def _frozenset(machine: Machine) -> None:
    machine.spend(248 + ELEMENT * (len(machine.stack) - machine.floor))
    machine.push(frozenset(machine.key(item) for item in machine.several()))


def _append(machine: Machine, items: list[Any]) -> None:
    target = machine.top()
    machine.spend(8 + 16 * len(items))
    if type(target) is list:
        target.extend(items)
    elif isinstance(target, Inert):
        target.items.extend(items)
    else:
        machine.refuse("pickle.target", "elements can be appended to lists only", got=type(target).__name__)


_opcode(b"a", "APPEND")(lambda machine: _append(machine, [machine.pop()]))
_opcode(b"e", "APPENDS")(lambda machine: _append(machine, machine.several()))


@_opcode(b"\x90", "ADDITEMS")
def _additems(machine: Machine) -> None:
    items = machine.several()
    target = machine.top()
    machine.spend(ELEMENT * len(items))
    if type(target) is set:
        target.update(machine.key(item) for item in items)
    elif isinstance(target, Inert):
        target.items.extend(items)
    else:
        machine.refuse("pickle.target", "elements can be added to sets only", got=type(target).__name__)


def set_items(machine: Machine, target: Any, pairs: list[Any]) -> None:
    """Put keys and values, which alternate in `pairs`, into a dictionary or a placeholder."""
    if len(pairs) % 2:
        machine.refuse("pickle.target", "a key has no value", got=f"{len(pairs)} keys and values")
    where = target.pairs if isinstance(target, Inert) else target
    if not isinstance(where, dict):
        machine.refuse("pickle.target", "items can be set in dictionaries only", got=type(target).__name__)
    machine.spend(PAIR * (len(pairs) // 2))
    for i in range(0, len(pairs), 2):
        where[machine.key(pairs[i])] = pairs[i + 1]


@_opcode(b"s", "SETITEM")
def _setitem(machine: Machine) -> None:
    value = machine.pop()
    key = machine.pop()
    set_items(machine, machine.top(), [key, value])


@_opcode(b"u", "SETITEMS")
def _setitems(machine: Machine) -> None:
    pairs = machine.several()
    set_items(machine, machine.top(), pairs)


# --- Symbols, and what is called ------------------------------------------------------------------------------------------------


@_opcode(b"c", "GLOBAL")
def _global(machine: Machine) -> None:
    parts: list[bytes] = []
    for most in (128, 2 * (4 * MAX_SYMBOL + 1)):
        line = bytes(machine.data[machine.position : machine.position + most])
        parts = line.split(b"\n", 2)
        if len(parts) == 3:
            break
    else:
        machine.refuse("pickle.symbol", "this is no symbol", expected="two short lines", got=line[:64])
    machine.position += len(parts[0]) + len(parts[1]) + 2
    try:
        module, name = parts[0].decode(), parts[1].decode()
    except UnicodeDecodeError:
        machine.refuse("pickle.symbol", "the symbol is not UTF-8", got=line[:64])
    machine.push(machine.symbol(module, name))


@_opcode(b"\x93", "STACK_GLOBAL")
def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if type(module) is not str or type(name) is not str:
        machine.refuse(
            "pickle.symbol", "this is no symbol", expected="two texts", got=f"{shown(module)}, {shown(name)}"
        )
    machine.push(machine.symbol(module, name))


@_opcode(b"R", "REDUCE")
def _reduce(machine: Machine) -> None:
    args, function = machine.pop(), machine.pop()
    machine.push(machine.call(function, args))


@_opcode(b"\x81", "NEWOBJ")
def _newobj(machine: Machine) -> None:
    args, function = machine.pop(), machine.pop()
    machine.push(machine.new(function, args))


@_opcode(b"\x92", "NEWOBJ_EX")
def _newobj_ex(machine: Machine) -> None:
    kwargs, args, function = machine.pop(), machine.pop(), machine.pop()
    if not isinstance(kwargs, dict):
        machine.refuse(
            "pickle.call", "keyword arguments must be a dictionary", field=function, got=type(kwargs).__name__
        )
    machine.push(machine.new(function, args, kwargs))


@_opcode(b"b", "BUILD")
def _build(machine: Machine) -> None:
    state, instance = machine.pop(), machine.top()
    if not isinstance(instance, (Node, Items)):
        machine.refuse("pickle.build", "this has no state", got=type(instance).__name__)
    instance.build(machine, state)


@_opcode(b"Q", "BINPERSID")
def _binpersid(machine: Machine) -> None:
    machine.push(machine.persistent(machine, machine.pop()))


# --- The closed table of the standard library -----------------------------------------------------------------------------------


def _dictionary(machine: Machine, symbol: Symbol, pairs: Any) -> Items:
    """A dictionary of a known class, from another one or from a list of pairs."""
    result = Items(symbol)
    machine.spend(160)
    if isinstance(pairs, dict):
        machine.spend(16 * len(pairs))
        pairs = list(pairs.items())
    elif symbol.name == "Counter" and pairs != ():
        machine.wrong_call(symbol, pairs, "a dictionary: the elements of a list would be counted")
    if not (type(pairs) in (list, tuple) and all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs)):
        machine.wrong_call(symbol, pairs, "a dictionary, or a list of pairs")
    machine.spend(16 * len(pairs))
    set_items(machine, result, [part for pair in pairs for part in pair])
    return result


def _ordered(name: str, skipped: int) -> Callable[[Machine, tuple[Any, ...]], Any]:
    symbol = Symbol("collections", name)

    def run(machine: Machine, args: tuple[Any, ...]) -> Any:
        if len(args) > skipped + 1:
            machine.wrong_call(symbol, args, f"at most {skipped + 1} arguments")
        return _dictionary(machine, symbol, args[skipped] if len(args) > skipped else ())

    return run


def _collected(name: str, kind: type) -> Callable[[Machine, tuple[Any, ...]], Any]:
    symbol = Symbol("builtins", name)

    def run(machine: Machine, args: tuple[Any, ...]) -> Any:
        if len(args) > 1 or (args and type(args[0]) not in (list, tuple, set, frozenset)):
            machine.wrong_call(symbol, args, "one list, or nothing")
        machine.spend(248 + ELEMENT * sum(map(len, args)))
        return kind([machine.key(item) for item in args[0]] if args else [])

    return run


def _range(machine: Machine, args: tuple[Any, ...]) -> Any:
    machine.spend(120)
    if not (1 <= len(args) <= 3 and all(type(value) is int for value in args)) or args[2:] == (0,):
        machine.wrong_call("builtins.range", args, "one to three integers, the third not 0")
    return range(*args)


def _slice(machine: Machine, args: tuple[Any, ...]) -> Any:
    machine.spend(80)
    if not (1 <= len(args) <= 3 and all(value is None or type(value) is int for value in args)):
        machine.wrong_call("builtins.slice", args, "one to three integers or None")
    return slice(*args)


def _complex(machine: Machine, args: tuple[Any, ...]) -> Any:
    machine.spend(40)
    if len(args) != 2 or not all(type(value) is float for value in args):
        machine.wrong_call("builtins.complex", args, "two floats")
    return complex(*args)


def _encode(machine: Machine, args: tuple[Any, ...]) -> Any:
    """Bytes in protocol 2: a text whose characters are the bytes."""
    if len(args) != 2 or type(args[0]) is not str or args[1] not in ("latin1", "latin-1"):
        machine.wrong_call("_codecs.encode", args, "a text and latin1")
    machine.spend(64 + len(args[0]))
    try:
        return args[0].encode("latin-1")
    except UnicodeEncodeError:
        return machine.wrong_call("_codecs.encode", args, "characters up to U+00FF")


def _bytearray(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) == 2:
        args = (_encode(machine, args),)
    if len(args) > 1 or (args and not isinstance(args[0], (bytes, bytearray))):
        machine.wrong_call("builtins.bytearray", args, "bytes, or nothing")
    machine.spend(80 + sum(map(len, args)))
    return bytearray(*args)


def _bytes_of_nothing(machine: Machine, args: tuple[Any, ...]) -> Any:
    if args:
        machine.wrong_call("builtins.bytes", args, "nothing")
    return b""


def _new(machine: Machine, args: tuple[Any, ...]) -> Any:
    """copyreg.__newobj__(class, *args), as protocols that lack the opcode write it."""
    if not args or args[0] in COPYREG:
        machine.wrong_call("copyreg.__newobj__", args, "a class")
    machine.spend(64 + 8 * len(args))
    return machine.new(args[0], args[1:])


def _new_ex(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 3 or args[0] in COPYREG or not isinstance(args[2], dict):
        machine.wrong_call("copyreg.__newobj_ex__", args, "a class, a tuple and a dictionary")
    return machine.new(*args)


def _reconstructor(machine: Machine, args: tuple[Any, ...]) -> Any:
    """copyreg._reconstructor(class, base, state): an instance as protocols 0 and 1 wrote them."""
    if len(args) != 3 or args[0] in COPYREG:
        machine.wrong_call("copyreg._reconstructor", args, "a class, its base and a state")
    return machine.new(args[0], () if args[2] is None else (args[2],))


class Known(NamedTuple):
    """A symbol of the closed table: what calling it does, and whether NEWOBJ may make it: "never", "empty" (without arguments), or "any"."""

    run: Callable[[Machine, tuple[Any, ...]], Any]
    new: str = "never"


COPYREG = tuple(Symbol("copyreg", name) for name in ("__newobj__", "__newobj_ex__", "_reconstructor"))
SYMBOLS = {
    Symbol("collections", "OrderedDict"): Known(_ordered("OrderedDict", 0), "empty"),
    Symbol("collections", "Counter"): Known(_ordered("Counter", 0), "empty"),
    Symbol("collections", "defaultdict"): Known(_ordered("defaultdict", 1), "empty"),
    Symbol("builtins", "set"): Known(_collected("set", set), "empty"),
    Symbol("builtins", "frozenset"): Known(_collected("frozenset", frozenset), "any"),
    Symbol("builtins", "range"): Known(_range, "any"),
    Symbol("builtins", "slice"): Known(_slice, "any"),
    Symbol("builtins", "complex"): Known(_complex, "any"),
    Symbol("builtins", "bytearray"): Known(_bytearray, "empty"),
    Symbol("builtins", "bytes"): Known(_bytes_of_nothing, "any"),
    Symbol("_codecs", "encode"): Known(_encode),
    **dict(zip(COPYREG, map(Known, (_new, _new_ex, _reconstructor)), strict=True)),
}
