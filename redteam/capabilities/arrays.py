"""Arrays of a `.npz` file, as a classifier reads them: its inputs, their classes, and which of them are meant."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redteam.config.capability import ArraysOf
from redteam.config.files import expand_path
from redteam.errors import InputError

INFLATED = 100  # times the size of their file that arrays may have


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class LabelledArrays:
    """Examples with their classes.

    Attributes:
        file: that they were read from.
        names: of the classes.
        inputs: float32 [n, ...].
        labels: number of each example's class, int64 [n].
        marks: further arrays, by name.
    """

    file: Path
    names: tuple[str, ...]
    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]
    marks: Mapping[str, NDArray[Any]]

    def rows_in(self, name: str) -> set[int]:
        """Returns the rows that an array names: by true and false [n], or by their numbers.

        Raises:
            InputError: it is neither, or a row is not there.
        """
        marks, examples = self.marks[name].reshape(-1), len(self.labels)
        if marks.dtype.kind == "b":
            if len(marks) != examples:
                raise InputError(
                    f"{self.file}: {name!r} marks {len(marks)} examples, there are {examples}", "Mark each of them"
                )
            return set(np.flatnonzero(marks).tolist())
        if marks.dtype.kind in "iu" and len(marks) == examples > 2 and set(marks.tolist()) <= {0, 1}:
            raise InputError(
                f"{self.file}: {name!r} marks examples by 0 and 1", "Give true and false: array.astype(bool)"
            )
        if marks.dtype.kind not in "iu":
            raise InputError(f"{self.file}: {name!r} is {marks.dtype}", "Give true and false for each example, or rows")
        outside = [row for row in marks.tolist() if not 0 <= row < examples]
        if outside:
            raise InputError(f"{self.file}: {name!r} names row {outside[0]}, there are {examples}", "Count rows from 0")
        return set(marks.tolist())

    def copies(self) -> dict[int, list[int]]:
        """Returns the rows of each different example, by the first of them."""
        seen: dict[bytes, list[int]] = {}
        for row, example in enumerate(self.inputs):
            seen.setdefault(example.tobytes(), []).append(row)
        return {rows[0]: rows for rows in seen.values()}


def read_arrays(rules: ArraysOf, path: Path, marks: Sequence[str] = ()) -> LabelledArrays:
    """Reads the arrays that rules name; `path` is where the rules stand, since paths in them are relative to it.

    Args:
        rules: of a capability file.
        path: of that file.
        marks: further arrays that are wanted.

    Raises:
        InputError: the file is missing or damaged, has no such arrays, or arrays that do not belong together.
    """
    file = expand_path(rules.arrays, path)
    held = _read(rules, file, marks)
    names = _names(rules, held, file)
    inputs, labels = _inputs(rules, held[rules.inputs], file), _labels(held[rules.labels], names, file)
    if len(inputs) != len(labels):
        raise InputError(
            f"{file} has {len(inputs)} inputs and {len(labels)} labels", "Give arrays that belong together"
        )
    return LabelledArrays(
        file=file, names=names, inputs=inputs, labels=labels, marks={name: held[name] for name in marks}
    )


def _read(rules: ArraysOf, file: Path, marks: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Returns the arrays that are needed; a pickled one is refused, not unpickled."""
    if not os.path.isfile(file):  # unlike Path.is_file it raises nothing, whatever the name is
        raise InputError(f"there is no file of arrays {file}", "Check `arrays` in the capability file")
    named = (rules.inputs, rules.labels, rules.classes, *marks)
    wanted = [name for name in named if isinstance(name, str)]
    try:
        _refuse_inflated(file)
        with np.load(file, allow_pickle=False) as held:
            missing = [name for name in wanted if name not in held]
            if missing:
                raise InputError(
                    f"{file} has no array {missing[0]!r}, it has {', '.join(sorted(held))[:200]}",
                    "Name its arrays in the capability file",
                )
            arrays = {name: held[name] for name in wanted}
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # else the bytes of an entry
                raise ValueError("an entry is no array")
            return arrays
    except InputError:
        raise
    except Exception as error:  # numpy raises whatever its parsers stumble over
        raise InputError(
            f"{file} is no readable .npz file of arrays ({type(error).__name__})", "Write it with numpy.savez"
        ) from error


def _refuse_inflated(file: Path) -> None:
    """Refuses an archive that would be far larger in memory than numbers are that were measured."""
    size = os.path.getsize(file)
    with zipfile.ZipFile(file) as archive:
        inflated = sum(entry.file_size for entry in archive.infolist())
    if inflated > INFLATED * size:
        raise InputError(f"{file} has {size} bytes and says that it holds {inflated}", "Write it with numpy.savez")


def _names(rules: ArraysOf, held: dict[str, NDArray[Any]], file: Path) -> tuple[str, ...]:
    if isinstance(rules.classes, int):
        return tuple(str(number) for number in range(rules.classes))
    given = held[rules.classes].reshape(-1)
    if given.dtype.kind == "U" and given.size and given.itemsize:
        characters = np.ascontiguousarray(given).view(given.dtype.str[0] + "u4")
        if int(characters.max()) > sys.maxunicode:  # numpy would make strings of them that break whatever reads them
            raise InputError(f"{file}: {rules.classes!r} holds no text", "Write it with numpy.savez")
    names = tuple(str(name) for name in given.tolist())
    if len(names) < 2 or len(set(names)) != len(names):
        raise InputError(f"{file}: {rules.classes!r} does not name two or more different classes", "Name each once")
    return names


def _inputs(rules: ArraysOf, given: NDArray[Any], file: Path) -> NDArray[np.float32]:
    """Returns the examples as float32 [n, ...], bytes divided by 255, channels before height and width."""
    if given.ndim < 2 or given.dtype.kind not in "fiu":
        raise InputError(f"{file}: {rules.inputs!r} is {given.dtype} of shape {given.shape}", "Give numbers [n, ...]")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused as that
        inputs = given.astype(np.float32) / (255 if given.dtype == np.uint8 else 1)
    if rules.channels == "last":
        inputs = np.moveaxis(inputs, -1, 1)
    if not np.isfinite(inputs).all():
        raise InputError(f"{file}: {rules.inputs!r} holds NaN or infinite numbers", "Leave those examples out")
    return np.ascontiguousarray(inputs, dtype=np.float32)


def _labels(given: NDArray[Any], names: Sequence[str], file: Path) -> NDArray[np.int64]:
    labels = given.reshape(-1)
    if labels.dtype.kind not in "iu" or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(names)):
        raise InputError(f"{file}: the labels are no numbers of {len(names)} classes", "Count classes from 0")
    return labels.astype(np.int64)
