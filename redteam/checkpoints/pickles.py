"""Pickles, taken apart without being run.

What a pickle would build is followed as numbers: how much each object holds, and how deep. Tuples can hold each other
twice and twice again in a few bytes, and whoever takes the hash of one walks through all of it, in C, where nothing
stops him; one that nests a hundred thousand times ends the process. Weights need none of this.
"""

from __future__ import annotations

import functools
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from redteam.checkpoints.identify import SAVE_WEIGHTS
from redteam.errors import InputError

MAX_PICKLE = 64 * 2**20  # bytes; unpickled objects take many times the room of their pickle
MAX_INSTRUCTIONS = 1_000_000  # twenty thousand tensors; to take more apart would take long
MAX_DEPTH = 100  # of objects in objects
MAX_LONG = 1_000  # integers of more than 64 bits: as keys they can all be made to have one hash
# Tuples, lists and dicts: a tensor takes six, and at least three hundred bytes of its file. Each may take four hundred.
MIN_OBJECTS, BYTES_PER_OBJECT = 50_000, 16
PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
GETS = {"GET", "BINGET", "LONG_BINGET", "DUP"}
EMPTY = {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}
CHANGES = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
ATOM = (1, 0)
REBUILDS = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"}
CRAFTED = "torch.save does not write such a file: do not trust it"


def instructions(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Yields the instructions of the pickle at a file's position, each as name and argument, and leaves it behind them.

    Raises:
        InputError: there are more than a checkpoint needs.
        ValueError: the bytes are no pickle.
    """
    begin, built = file.tell(), _Built(path)
    for number, (instruction, argument, position) in enumerate(pickletools.genops(file)):
        if number >= MAX_INSTRUCTIONS or (position or 0) - begin > MAX_PICKLE:
            raise InputError(f"{path} has a pickle of more than {MAX_INSTRUCTIONS} instructions", SAVE_WEIGHTS)
        built.follow(instruction, argument)
        yield instruction.name, argument


class _Built:
    """The stack and the memo of an unpickler: of each object how many it holds, shared ones again, and how deep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[tuple[int, int] | None] = []  # None is a mark
        self.memo: dict[Any, tuple[int, int]] = {}
        self.objects = self.again = self.long = self.marks = self.depth = 0
        self.most = MIN_OBJECTS + path.stat().st_size // BYTES_PER_OBJECT

    def follow(self, instruction: pickletools.OpcodeInfo, argument: Any) -> None:
        """Follows an instruction.

        Raises:
            InputError: what is built grows out of proportion to its bytes.
            ValueError: the instruction takes what is not there.
        """
        name = instruction.name
        if name in PUTS:
            self.memo[len(self.memo) if argument is None else argument] = self._top()
        elif name in GETS:
            got = self._top() if name == "DUP" else self.memo.get(argument, ATOM)
            self.again += got[0] - 1
            self.stack.append(got)
        elif name == "MARK":
            self.marks += 1
            self.stack.append(None)
        elif instruction.stack_before:
            self._make(*_effect(name))
        elif instruction.stack_after:
            self.objects += name in EMPTY
            self.long += isinstance(argument, int) and argument.bit_length() > 64
            self.stack.append(ATOM)
        if self.again > MAX_INSTRUCTIONS or self.long > MAX_LONG or self.objects > self.most:
            raise InputError(f"{self.path} has a pickle that grows when it is loaded", CRAFTED)
        if self.depth > MAX_DEPTH or self.marks > MAX_DEPTH:
            raise InputError(f"{self.path} has a pickle that nests more than {MAX_DEPTH} times", CRAFTED)

    def _top(self) -> tuple[int, int]:
        top = self.stack[-1] if self.stack else None
        if top is None:
            raise ValueError("nothing is on the stack")
        return top

    def _make(self, taken: int, marked: bool, changes: bool, left: int) -> None:
        """Takes what an instruction takes, down to the last mark if `marked`, and leaves objects that hold it."""
        parts: list[tuple[int, int]] = []
        while marked and (part := self._pop()) is not None:
            parts.append(part)
        parts += [self._pop() or ATOM for _ in range(taken)]
        size, depth = parts.pop() if changes else ATOM  # the deepest is what others are put into
        for more, deep in parts:
            size, depth = size + more, max(depth, deep + 1)
        self.depth = max(self.depth, depth)
        self.stack.extend([(size, depth)] * left)
        self.objects += left and not changes

    def _pop(self) -> tuple[int, int] | None:
        if not self.stack:
            raise ValueError("nothing is on the stack")
        top = self.stack.pop()
        self.marks -= top is None
        return top


@functools.cache
def _effect(name: str) -> tuple[int, bool, bool, int]:
    """Returns what an instruction takes, if all down to a mark too, if it changes the first, and what it leaves."""
    before, after = next((op.stack_before, op.stack_after) for op in pickletools.opcodes if op.name == name)
    marked = pickletools.markobject in before
    taken = before.index(pickletools.markobject) if marked else len(before)
    return taken, marked, name in CHANGES, len(after)


def refuse_rebuild(path: Path, name: str) -> None:
    """Refuses a global of `torch._utils` that rebuilds another than a dense tensor.

    Sparse, nested, quantised and wrapped tensors run far more of torch's C++ than weights ever need.
    """
    if "_rebuild_" in name and name not in REBUILDS:
        kind = name.removeprefix("_rebuild_").replace("_", " ")
        raise InputError(f"{path} holds tensors that are not dense ({kind})", "Save dense tensors: tensor.to_dense()")


def refuse_globals(path: Path, names: list[str]) -> None:
    """Refuses a pickle that needs these: they are what makes it an object and not weights."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise InputError(
            f"{path} is a pickled Python object (needs {', '.join(names[:3])[:600]}{more}), not a state dict",
            SAVE_WEIGHTS,
        )
