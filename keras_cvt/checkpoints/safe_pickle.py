"""Reads a pickle that holds plain data, and can do nothing else.

A `pickle.Unpickler` that only answers to a few names still lets a file do harm:
BUILD overwrites attributes of objects that were checked already, one memo index
reserves 64 GB, and hashing nested tuples hangs or crashes the interpreter. So the
opcodes of plain data are carried out here one by one; any other is refused.
"""

import io
import pickletools
from collections.abc import Callable, Iterable, Mapping

from keras_cvt.errors import CheckpointError

# Names and shapes only: the largest published checkpoint's pickle has 0.2 MB. Each
# byte can cost some 100 bytes of memory, which this bounds.
MAX_BYTES = 8 * 2**20

_PUSH_ARGUMENT = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8".split()
)
_PUSH_NEW = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))
_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def load(
    data: bytes,
    names: Mapping[tuple[str, str], object],
    persistent_load: Callable[[object], object],
) -> tuple[object, int]:
    """Read one pickle from the start of `data`.

    Args:
        data: The pickle; bytes after its end are left alone.
        names: (module, name) -> what stands for it. Only a callable of this table
            is ever called.
        persistent_load: Turns a persistent id into an object.

    Returns:
        What the pickle holds, and the number of bytes it takes.

    Raises:
        CheckpointError: If the pickle is damaged, too long, or asks for anything
            but plain data and `names`.
    """
    machine = _Machine(names, persistent_load)
    file = io.BytesIO(data[: MAX_BYTES + 1])
    try:
        for opcode, argument, position in pickletools.genops(file):
            if position >= MAX_BYTES:
                break
            machine.step(opcode.name, argument)
        if file.tell() > MAX_BYTES:
            raise CheckpointError(f"its pickle has more than {MAX_BYTES} bytes.")
        (content,) = machine.stack
    except CheckpointError:
        raise
    except Exception as error:  # whatever damaged bytes make of the steps below
        raise CheckpointError(
            f"its pickle is damaged: {type(error).__name__}: {str(error)[:100]!a}"
        ) from error
    return content, file.tell()


def mapping(items: Iterable[tuple[object, object]] = ()) -> dict:
    """Return a dict of `items`; stands for `OrderedDict`."""
    result = {}
    for key, value in items:
        _set_item(result, key, value)
    return result


def _set_item(target, key, value):
    # The hash of a nested tuple can take forever or overflow the C stack.
    if key is not None and not isinstance(key, (str, int, float, bytes)):
        raise CheckpointError(f"its pickle has a {type(key).__name__} as a key.")
    # Larger ones can be chosen to have one hash, which makes a dict crawl.
    if isinstance(key, int) and not -(2**60) < key < 2**60:
        raise CheckpointError("its pickle has an integer of over 60 bits as a key.")
    target[key] = value


class _Machine:
    """The stack, marks and memo of the pickle language."""

    def __init__(self, names, persistent_load):
        self.stack = []
        self._below_marks = []
        self._memo = {}
        self._names = names
        self._persistent_load = persistent_load

    def step(self, name, argument):
        stack = self.stack
        if name in _PUSH_ARGUMENT:
            stack.append(argument)
        elif name in _PUSH_NEW:
            stack.append(_PUSH_NEW[name]())
        elif name in _PUT:
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in _GET:
            stack.append(self._memo[argument])
        elif name in _TUPLE_SIZES:
            size = _TUPLE_SIZES[name]
            values = tuple(stack[-size:])
            if len(values) != size:
                raise IndexError("the stack is empty")
            stack[-size:] = [values]
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        else:
            step = getattr(self, f"_{name.lower()}", None)
            if step is None:
                raise CheckpointError(
                    f"its pickle uses the opcode {name}, which a state dict does not "
                    "need; nothing was run."
                )
            if argument is None:
                step()
            else:
                step(argument)

    def _pop_mark(self):
        values, self.stack = self.stack, self._below_marks.pop()
        return values

    def _mark(self):
        self._below_marks.append(self.stack)
        self.stack = []

    def _tuple(self):
        values = tuple(self._pop_mark())
        self.stack.append(values)

    def _list(self):
        values = self._pop_mark()
        self.stack.append(values)

    def _dict(self):
        values = self._pop_mark()
        self.stack.append(mapping(zip(values[::2], values[1::2], strict=True)))

    def _append(self):
        value = self.stack.pop()
        self._top(list).append(value)

    def _appends(self):
        values = self._pop_mark()
        self._top(list).extend(values)

    def _setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        _set_item(self._top(dict), key, value)

    def _setitems(self):
        values = self._pop_mark()
        target = self._top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            _set_item(target, key, value)

    def _top(self, kind):
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"expected a {kind.__name__}")
        return self.stack[-1]

    def _build(self):
        # An OrderedDict's attributes (`_metadata`) say nothing about the arrays.
        self.stack.pop()
        self._top(dict)

    def _global(self, argument):
        self.stack.append(self._find(*argument.split(" ", 1)))

    def _stack_global(self):
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self._find(module, name))

    def _inst(self, argument):
        self._find(*argument.split(" ", 1))
        raise CheckpointError("its pickle makes an instance; nothing was run.")

    def _find(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no string")
        if (module, name) not in self._names:
            raise CheckpointError(
                f"it refers to {f'{module}.{name}'[:100]!a}, which a state dict does "
                "not need; nothing was run. If you trust the file, which PyTorch "
                "then runs, save its state dict alone: torch.save(torch.load(path, "
                'weights_only=False)["state_dict"], new_path).'
            )
        return self._names[module, name]

    def _reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        # Everything on the stack that can be called is from the table of names.
        if not callable(function) or type(arguments) is not tuple:
            raise TypeError("a call of what is no function")
        self.stack.append(function(*arguments))

    def _binpersid(self):
        self.stack.append(self._persistent_load(self.stack.pop()))
