"""Restricted pickle machine, which builds plain data and calls nothing.

`pickletools` decodes the opcodes. Each has its effect of the pickle protocol,
except that no global is imported and no method of an object is called: the
caller resolves names and calls.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any


@dataclass
class Inert:
    """Placeholder of an instance that is not built, with its pickled state."""

    name: str
    state: Any = None


def run(
    file: IO[bytes],
    *,
    find: Callable[[Any, Any], Any],
    call: Callable[[Any, Any], Any],
    persistent: Callable[[Any], Any],
) -> Any:
    """Reads one pickle, up to its end in the file.

    Work and memory are linear in the bytes read. Dicts keep only keys that
    are strings, so that no other object of the file is hashed.

    Args:
      file: at the first opcode; `read` and `readline` are used.
      find: (module, name) -> stand-in of a global.
      call: (function, arguments) -> result.
      persistent: persistent id -> object.

    ValueError, LookupError or TypeError where it is no pickle, is cut short, or
    holds an opcode that no state dict needs.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    argument: Any

    def above_mark() -> list[Any]:
        mark = marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    def last(count: int) -> list[Any]:
        items = [stack.pop() for _ in range(count)]
        return items[::-1]

    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case name if name in _ARGUMENTS:
                stack.append(argument)
            case name if name in _NEW:
                stack.append(_NEW[name]())
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "POP":
                stack.pop()
            case "TUPLE":
                stack.append(tuple(above_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack.append(tuple(last(int(name[-1]))))
            case "LIST":
                stack.append(above_mark())
            case "APPEND" | "APPENDS" | "ADDITEMS" as name:
                items = last(1) if name == "APPEND" else above_mark()
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            case "DICT":
                items = above_mark()
                stack.append({})
                set_items(stack[-1], items)
            case "SETITEM" | "SETITEMS" as name:
                items = last(2) if name == "SETITEM" else above_mark()
                set_items(stack[-1], items)
            case "FROZENSET":
                above_mark()
                stack.append(Inert("frozenset"))
            case "GLOBAL":
                stack.append(find(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(find(*last(2)))
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                stack.append(call(*last(2)))
            case "NEWOBJ_EX":
                function, arguments, _keywords = last(3)
                stack.append(call(function, arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Inert):
                    stack[-1].state = state
            case "STOP":
                return stack.pop()
            case "PROTO" | "FRAME":
                pass
            case name:
                raise ValueError(f"no state dict needs the opcode {name}")
    raise ValueError("no end")


def set_items(target: Any, items: list[Any]) -> None:
    """Puts alternating keys and values into a dict; ignores other targets."""
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is str:
                target[key] = value


_ARGUMENTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Inert("set"),
}
