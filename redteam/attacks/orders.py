"""Orders in which the words of a prompt may stand: functions of the prompt alone, so that any item can be asked so."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from redteam.capabilities.wording import Rewrite, as_it_is

Words = list[str]

AS_IT_IS = "as it is"
MOST = 8  # words that are moved or left out: prompts of twice as many are turned at every place
OPTION = re.compile(r"\s*[A-Z0-9]{1,2}[.)]\s")  # a line that lists a choice
MARKS = ".?!:;\u2026"  # at the end of a question they stay there
# Before or after one of these a part of a sentence mostly ends.
SMALL = frozenset(
    {
        "a",
        "about",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "before",
        "by",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "in",
        "into",
        "is",
        "near",
        "of",
        "on",
        "or",
        "the",
        "to",
        "under",
        "was",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "whose",
        "why",
        "with",
    }
)


def order_names() -> tuple[str, ...]:
    """Returns the names of all orders: "as it is", "reversed", "first to the end 2", ..."""
    counted = [f"{name} {count}" for name in COUNTED for count in range(1, MOST + 1)]
    return (AS_IT_IS, *WHOLE, *counted)


def reordered(order: str) -> Rewrite:
    """Returns what puts the words of a prompt into the order of that name.

    Of a prompt of several lines only the longest is changed that lists no choice: instructions, options and a cue for
    the answer stay where they are. So do a label before the question ("Question:") and a mark at its end. A question of
    one word stays as it is.

    Raises:
        KeyError: there is no such order.
    """
    if order == AS_IT_IS:
        return as_it_is
    name, _, number = order.rpartition(" ")
    if order in WHOLE:
        return lambda prompt: _in_question(prompt, WHOLE[order])
    change, count = COUNTED[name], int(number)
    return lambda prompt: _in_question(prompt, lambda words: change(words, count))


def _in_question(prompt: str, change: Callable[[Words], Words]) -> str:
    """Returns a prompt whose question was changed."""
    lines = prompt.split("\n")
    asking = [number for number, line in enumerate(lines) if not OPTION.match(line)] or list(range(len(lines)))
    longest = max(asking, key=lambda number: len(lines[number]))
    line = lines[longest]
    text = line.strip()
    start = line.index(text)
    body = text.rstrip(f"{MARKS} ") or text
    words = body.split()
    label = next((n for n, word in enumerate(words) if not word.endswith(":")), 0)
    if len(words) - label > 1:
        moved = " ".join([*words[:label], *change(words[label:])])
        lines[longest] = line[:start] + moved + text[len(body) :] + line[start + len(text) :]
    return "\n".join(lines)


def subject_of(words: Sequence[str]) -> slice:
    """Returns which words name what a question is about: the longest run of capitals or digits, of equals the last.

    Where there is none, or where all are, the first half.
    """
    best = slice(0, 0)
    start = 0
    for end in range(len(words) + 1):
        if end < len(words) and _is_name(words[end]):
            continue
        if end > start and end - start >= best.stop - best.start:
            best = slice(start, end)
        start = end + 1
    return best if 0 < best.stop - best.start < len(words) else slice(0, max(1, len(words) // 2))


def _is_name(word: str) -> bool:
    first = next((sign for sign in word if sign.isalnum()), "")
    return first.isupper() or first.isdigit()


def _apart(words: Words) -> tuple[Words, Words]:
    """Returns the subject and the rest."""
    subject = subject_of(words)
    return words[subject], words[: subject.start] + words[subject.stop :]


def _first_to_end(words: Words, count: int) -> Words:
    turn = count % len(words)
    return words[turn:] + words[:turn]


def _last_to_front(words: Words, count: int) -> Words:
    return _first_to_end(words, -count)


def _without_first(words: Words, count: int) -> Words:
    return words[min(count, len(words) - 1) :]


def _without_last(words: Words, count: int) -> Words:
    return words[: max(1, len(words) - count)]


def _subject_after(words: Words, count: int) -> Words:
    subject, rest = _apart(words)
    return rest[:count] + subject + rest[count:]


def _reversed(words: Words) -> Words:
    return words[::-1]


def _halves_swapped(words: Words) -> Words:
    return _first_to_end(words, len(words) // 2)


def _halves_reversed(words: Words) -> Words:
    half = len(words) // 2
    return words[:half][::-1] + words[half:][::-1]


def _ends_swapped(words: Words) -> Words:
    return [words[-1], *words[1:-1], words[0]]


def _pairs_swapped(words: Words) -> Words:
    return [word for start in range(0, len(words), 2) for word in words[start : start + 2][::-1]]


def _sorted(words: Words) -> Words:
    return sorted(words, key=str.casefold)


def _every_second(words: Words) -> Words:
    return words[::2] + words[1::2]


def _each_twice(words: Words) -> Words:
    return [word for word in words for _ in range(2)]


def _subject_last(words: Words) -> Words:
    subject, rest = _apart(words)
    return rest + subject


def _subject_first(words: Words) -> Words:
    subject, rest = _apart(words)
    return subject + rest


def _subject_turned(words: Words) -> Words:
    subject = subject_of(words)
    return words[: subject.start] + words[subject][::-1] + words[subject.stop :]


def _subject_turned_last(words: Words) -> Words:
    subject, rest = _apart(words)
    return rest + subject[::-1]


def _subject_twice(words: Words) -> Words:
    subject, _ = _apart(words)
    return words + subject


def _subject_alone(words: Words) -> Words:
    return _apart(words)[0]


def _at_first_small(words: Words) -> Words:
    return _first_to_end(words, next((n for n, word in enumerate(words) if n and word.lower() in SMALL), 0))


def _at_last_small(words: Words) -> Words:
    return _first_to_end(words, max((n for n, word in enumerate(words) if word.lower() in SMALL), default=0))


def _after_first_small(words: Words) -> Words:
    return _first_to_end(words, next((n + 1 for n, word in enumerate(words) if n and word.lower() in SMALL), 0))


def _after_first_comma(words: Words) -> Words:
    return _first_to_end(words, next((n + 1 for n, word in enumerate(words) if word.endswith((",", ";"))), 0))


def _commas_between(words: Words) -> Words:
    return " , ".join(words).split(" ")


def _dots_between(words: Words) -> Words:
    return " ... ".join(words).split(" ")


def _lines_between(words: Words) -> Words:
    return ["\n".join(words)]


def _line_after_subject(words: Words) -> Words:
    end = subject_of(words).stop
    return ["\n".join(part for part in (" ".join(words[:end]), " ".join(words[end:])) if part)]


WHOLE: Mapping[str, Callable[[Words], Words]] = {
    "reversed": _reversed,
    "halves swapped": _halves_swapped,
    "halves reversed": _halves_reversed,
    "ends swapped": _ends_swapped,
    "pairs swapped": _pairs_swapped,
    "sorted": _sorted,
    "every second": _every_second,
    "each twice": _each_twice,
    "subject last": _subject_last,
    "subject first": _subject_first,
    "subject turned": _subject_turned,
    "subject turned and last": _subject_turned_last,
    "subject twice": _subject_twice,
    "subject alone": _subject_alone,
    "at the first small word": _at_first_small,
    "at the last small word": _at_last_small,
    "after the first small word": _after_first_small,
    "after the first comma": _after_first_comma,
    "commas between": _commas_between,
    "dots between": _dots_between,
    "lines between": _lines_between,
    "line after the subject": _line_after_subject,
}
COUNTED: Mapping[str, Callable[[Words, int], Words]] = {
    "first to the end": _first_to_end,
    "last to the front": _last_to_front,
    "without the first": _without_first,
    "without the last": _without_last,
    "subject after": _subject_after,
}
