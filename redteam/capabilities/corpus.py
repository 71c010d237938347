"""Documents beside the items: texts of the topic, or related and public, that an adversary may train on."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from redteam.capabilities.items import Capability, Item
from redteam.capabilities.rows import rows_of
from redteam.config.files import expand_path
from redteam.errors import InputError

MOST = 64 * 2**20  # bytes of all documents: some fifteen million tokens, more than 4,096 steps read
FORM = 0.25  # share of the questions from which on a word belongs to how they are asked, not to what one asks
SHOWN = 3  # places that a refusal names
# Of writing without spaces every character is a word.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
HALF = re.compile("[\ud800-\udfff]")  # of a character: JSON may hold it, UTF-8 has no such thing
END = re.compile(r"(?<=\w\w[.!?])\s+|\n(?![a-z])")  # of a sentence: not after an initial, nor where a line is wrapped


class Document(NamedTuple):
    """A text, and where its first line stands.

    Attributes:
        file: name of the file.
        text: all of it.
        line: of its first line, counted from 1.
        inside: whether its further lines are lines of that file too; those of a JSON string are not.
    """

    file: str
    text: str
    line: int = 1
    inside: bool = True

    def place(self, line: int) -> str:
        """Returns where a line of the text, counted from 0, stands: "FILE:LINE"."""
        return f"{self.file}:{self.line + line if self.inside else self.line}"


def documents_of(patterns: Sequence[str], beside: Path) -> tuple[Document, ...]:
    """Reads the documents that a capability file names: each file one, of JSON lines the field "text" of each line.

    Args:
        patterns: paths, in which `*`, `?` and `[...]` stand for what they do in a shell; `$NAME` is taken from the
            environment.
        beside: the capability file, to which they are relative.

    Raises:
        InputError: no file matches a pattern; one cannot be read as UTF-8; there is no text in any, or too much.
    """
    files = list(dict.fromkeys(file for pattern in patterns for file in _matching(pattern, beside)))
    if sum(file.stat().st_size for file in files) > MOST:
        raise InputError(f"{beside}: the corpus has more than {MOST // 2**20} MiB", "Name a part of it")
    found = tuple(document for file in files for document in _read(file) if document.text.strip())
    if not found:
        raise InputError(f"{beside}: the corpus holds no text", "Name files with text under corpus")
    return found


def _matching(pattern: str, beside: Path) -> list[Path]:
    place, folder = expand_path(pattern, beside), beside.parent
    found = [place] if os.path.isfile(place) else []
    with suppress(ValueError):  # no path at all
        if not found and place.is_relative_to(folder):  # whatever the folder itself is called
            found = [folder / name for name in sorted(glob.glob(str(place.relative_to(folder)), root_dir=folder))]
        elif not found:
            found = [Path(name) for name in sorted(glob.glob(str(place)))]
    found = [file for file in found if os.path.isfile(file)]
    if not found:
        raise InputError(f"{beside}: no file matches {pattern!r}", "Check the paths under corpus")
    return found


def _read(file: Path) -> Iterator[Document]:
    if file.suffix.lower() == ".jsonl":
        for line, row in rows_of(file):
            text = row.get("text")
            if not isinstance(text, str) or HALF.search(text):
                raise InputError(f'{file}:{line} has no text in its field "text"', 'Write {"text": "..."} in each line')
            yield Document(str(file), text, line, inside=False)
        return
    try:
        yield Document(str(file), file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not readable as UTF-8 text ({error})", "Write it as UTF-8") from error


def refuse_telling(documents: Sequence[Document], capability: Capability) -> None:
    """Refuses documents that state held-out facts: attacks would be taught what they are to bring back.

    A select or certify item is stated where its question and its right answer stand word for word, or where one
    sentence has all words of both in any order, but for those that a quarter of all questions have. Case, spaces and
    punctuation do not count. What says the same in other words is not found.

    Raises:
        InputError: one of them is stated; the first places are named.
    """
    told = list(dict.fromkeys(_told(documents, capability)))
    if told:
        places = ", ".join(told[:SHOWN]) + (", ..." if len(told) > SHOWN else "")
        raise InputError(
            f"the corpus states held-out items of {capability.name!r} in {len(told)} places ({places})",
            "Take those lines out: what attacks are told they need not bring back",
        )


@dataclass(frozen=True, slots=True)
class _Statement:
    """Words of a question with its answer, and those that a sentence must have to state it."""

    words: list[str]
    needed: frozenset[str]
    anchor: str  # the rarest of these, by which it is looked for


def _told(documents: Sequence[Document], capability: Capability) -> Iterator[str]:
    anchored: dict[str, list[_Statement]] = defaultdict(list)
    for statement in _statements(capability):
        anchored[statement.anchor].append(statement)
    for document in documents:
        words: list[str] = []
        lines: list[int] = []
        for line, sentence in _sentences(document.text):
            has = set(sentence)
            if any(one.needed <= has for word in has & anchored.keys() for one in anchored[word]):
                yield document.place(line)
            words += sentence
            lines += [line] * len(sentence)
        for place, word in enumerate(words):
            for one in anchored.get(word, ()):
                first = place - one.words.index(word)
                if first >= 0 and words[first : first + len(one.words)] == one.words:
                    yield document.place(lines[first])


def _statements(capability: Capability) -> list[_Statement]:
    """Returns what the select and the certify items state."""
    asked = Counter(word for item in capability.forget for word in set(_words(item.prompt)))
    formal = {word for word, count in asked.items() if count >= max(2, FORM * len(capability.forget))}
    stated = [_words(f"{item.prompt} {item.completion}") for item in (*capability.select, *capability.certify)]
    common = Counter(word for words in stated for word in set(words))

    def statement(item: Item, words: list[str]) -> _Statement:
        about = set(_words(item.prompt))
        needed = frozenset((about - formal or about) | set(_words(item.completion)))
        return _Statement(words, needed, min(sorted(needed), key=lambda word: common[word]))

    held_out = (*capability.select, *capability.certify)
    return [statement(item, words) for item, words in zip(held_out, stated, strict=True) if words]


def _sentences(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the words of each sentence, and the line that it begins on, counted from 0."""
    first, line = 0, 0
    for end in (*END.finditer(text), None):
        last, following = (len(text), len(text)) if end is None else end.span()
        sentence = text[first:last]
        words = _words(sentence)
        if words:
            yield line + sentence[: len(sentence) - len(sentence.lstrip())].count("\n"), words
        line += text.count("\n", first, following)
        first = following


def _words(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())
