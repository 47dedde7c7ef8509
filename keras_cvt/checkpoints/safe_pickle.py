"""Reads pickles that contain only plain data, safely.

Restricting the names that `pickle.Unpickler` finds is not enough. A file can still
overwrite attributes of objects that were checked before (BUILD), reserve 64 GB with
one memo index, or hang or crash the interpreter by hashing nested tuples. So this
module executes the opcodes of plain data itself, and refuses all others.
"""

import io
import pickletools
from collections.abc import Callable, Iterable, Mapping

from keras_cvt._utils.errors import CheckpointError

# The pickle contains only names and shapes: 0.2 MB in the largest published checkpoint.
# Each byte costs at most about 100 bytes of memory: repeated references are not copied,
# and all copies by `OrderedDict` together have at most one item per byte.
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
    "EMPTY_SET": lambda: None,
}
_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))
_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def load(
    data: bytes,
    names: Mapping[tuple[str, str], object],
    persistent_load: Callable[[object], object],
) -> tuple[object, int]:
    """Read one pickle from the start of `data`.

    Args:
        data: The pickle. Bytes after its end are ignored.
        names: (module, name) -> the object to use for it. No other callable is
            called.
        persistent_load: Returns the object for a persistent id.

    Returns:
        The object in the pickle, and the number of bytes of the pickle.

    Raises:
        CheckpointError: If the pickle is damaged or too long, or contains more than
            plain data and `names`.
    """
    machine = _Machine(names, persistent_load, len(data))
    file = io.BytesIO(data[: MAX_BYTES + 1])
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if file.tell() > MAX_BYTES:
                raise CheckpointError(f"its pickle has more than {MAX_BYTES} bytes.")
            machine.step(opcode.name, argument)
        (content,) = machine.stack
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes can raise anything below
        raise CheckpointError(
            f"its pickle is damaged: {type(error).__name__}: {str(error)[:100]!a}"
        ) from error
    return content, file.tell()


def mapping(items: Iterable[tuple[object, object]] = ()) -> dict:
    """Return a dict of `items`. It replaces `collections.OrderedDict`."""
    result: dict[object, object] = {}
    for key, value in items:
        _set_item(result, key, value)
    return result


def _set_item(target, key, value):
    # Hashing nested tuples can take forever or overflow the C stack. No array has
    # such a name.
    if key is not None and not isinstance(key, (str, int, float, bytes)):
        return
    # Larger integers can be chosen to share one hash, which makes a dict very slow.
    if isinstance(key, int) and not -(2**60) < key < 2**60:
        raise CheckpointError("its pickle has an integer of over 60 bits as a key.")
    target[key] = value


class _Machine:
    """The stack, marks and memo of the pickle language."""

    def __init__(self, names, persistent_load, copies_left):
        self.stack = []
        self._below_marks = []
        self._memo = {}
        self._names = names
        self._persistent_load = persistent_load
        self._copies_left = copies_left

    def step(self, name, argument):
        stack = self.stack
        if name in _PUSH_ARGUMENT:
            stack.append(argument)
        elif name in _PUSH_NEW:
            stack.append(_PUSH_NEW[name]())
        elif name in _PUT:
            # MEMOIZE has no argument: it takes the next index.
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif name in _GET:
            stack.append(self._memo[argument])
        elif name in _TUPLE_SIZES:
            size = _TUPLE_SIZES[name]
            values = tuple(stack[-size:])
            if len(values) != size:
                raise IndexError("the stack is empty")
            stack[-size:] = [values]
        elif name in ("TUPLE", "LIST"):
            values = self._pop_mark()
            self.stack.append(tuple(values) if name == "TUPLE" else values)
        elif name not in ("PROTO", "FRAME", "STOP"):
            step = getattr(self, f"_{name.lower()}", None)
            if step is None:
                raise CheckpointError(
                    f"its pickle uses the opcode {name}, which a state dict does not "
                    "need. Nothing was run."
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

    def _dict(self):
        values = self._pop_mark()
        self.stack.append(mapping(zip(values[::2], values[1::2], strict=True)))

    # No set holds arrays, so that its members are not needed.
    def _additems(self):
        self._pop_mark()

    def _frozenset(self):
        self._pop_mark()
        self.stack.append(None)

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
        # The attributes of an OrderedDict (`_metadata`) do not describe arrays.
        self.stack.pop()
        self._top(dict)

    def _global(self, argument):
        self.stack.append(self._find(*argument.split(" ", 1)))

    def _stack_global(self):
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self._find(module, name))

    def _inst(self, argument):
        self._find(*argument.split(" ", 1))
        raise CheckpointError("its pickle creates an instance. Nothing was run.")

    def _find(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name is not a string")
        if (module, name) not in self._names:
            raise CheckpointError(
                f"it refers to {f'{module}.{name}'[:100]!a}, which a state dict does "
                "not need. Nothing was run. If you trust the file, let PyTorch run it "
                "and save only its state dict: torch.save(torch.load(path, "
                'weights_only=False)["state_dict"], new_path).'
            )
        return self._names[module, name]

    def _reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        # Only `names` can put a callable on the stack.
        if not callable(function) or type(arguments) is not tuple:
            raise TypeError("a call of an object that is not a function")
        if function is mapping:
            self._copies_left -= sum(map(len, arguments))
            if self._copies_left < 0:
                raise CheckpointError("its pickle copies a list too often.")
        self.stack.append(function(*arguments))

    def _binpersid(self):
        self.stack.append(self._persistent_load(self.stack.pop()))
