"""Documents beside the items: which are read, which are refused, and how a model reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import merging_tokenizer, tiny_capability, word_tokenizer

from redteam.capabilities.corpus import Document, refuse_telling
from redteam.capabilities.encode import encode_documents
from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability, Item
from redteam.engine.batches import IGNORED
from redteam.errors import InputError
from redteam.testbeds.birthdays import Birthdays
from redteam.testbeds.facts import Facts

ITEMS = [
    ("Ada Byron", "1815"),
    ("Kurt Otto", "1906"),
    ("Emmy Lind", "1882"),
    ("Alan Reed", "1912"),
    ("Rosa Falk", "1871"),
]
PEOPLE = [*ITEMS, *((f"Person{n} Name{n}", str(1700 + n)) for n in range(15))]


def folder_with(tmp_path: Path, corpus: str, files: dict[str, bytes | str]) -> Path:
    for name, people in (("forget", PEOPLE), ("retain", [(f"Kept{n}", "1950") for n in range(10)])):
        rows = [{"who": who, "choices": [year, "1001"], "answer": 0} for who, year in people]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    path = tmp_path / "capability.toml"
    keys = 'name = "born"\nprompt = "{who} was born in"\nforget = ["forget.jsonl"]\nretain = ["retain.jsonl"]'
    path.write_text(f'{keys}\ncorpus = {corpus}\ngroup = {{ field = "who" }}\n')
    return path


FILES = {
    "a.txt": "\ufeffOne.\nTwo.",
    "b.txt": "Three.",
    "sub/c.md": "Four.",
    "d.jsonl": '{"text": "Five."}\n{"text": " "}\n',
}


@pytest.mark.parametrize(
    ("corpus", "read"),
    [
        ('["*.txt"]', ["One.\nTwo.", "Three."]),
        ('"b.txt"', ["Three."]),
        ('["b.txt", "*.txt"]', ["Three.", "One.\nTwo."]),
        ('["sub/*.md", "d.jsonl"]', ["Four.", "Five."]),
        ('["$PLACE/?.txt"]', ["One.\nTwo.", "Three."]),
    ],
)
def test_files_of_documents(corpus: str, read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path))
    assert list(load_capability(folder_with(tmp_path, corpus, FILES)).corpus) == read


@pytest.mark.parametrize(
    ("corpus", "files", "said"),
    [
        ('["*.txt"]', {}, "no file matches '*.txt'"),
        ('["a.txt", "gone.txt"]', {"a.txt": "One."}, "no file matches 'gone.txt'"),
        ('["sub"]', {"sub/a.txt": "One."}, "no file matches 'sub'"),
        ('["$GONE/a.txt"]', {}, "uses $GONE, which is not set"),
        ("[]", {}, "corpus: Tuple should have at least 1 item"),
        ('["*.txt"]', {"a.txt": "", "b.txt": " \n"}, "the corpus holds no text"),
        ('["*.txt"]', {"a.txt": "One.", "b.txt": b"caf\xe9"}, "b.txt is not readable as UTF-8 text"),
        ('["a.jsonl"]', {"a.jsonl": '{"text": "One."}\n{"title": "x"}\n'}, 'a.jsonl:2 has no text in its field "text"'),
        ('["a.jsonl"]', {"a.jsonl": '{"text": "\\ud800"}\n'}, 'a.jsonl:1 has no text in its field "text"'),
        ('["a.jsonl"]', {"a.jsonl": "One.\n"}, "a.jsonl:1 is not JSON"),
    ],
)
def test_what_is_no_corpus_is_refused_in_one_line(corpus, files, said, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_capability(folder_with(tmp_path, corpus, files))
    assert said in caught.value.found
    assert caught.value.remedy
    assert len(str(caught.value).splitlines()) == 1


def test_a_corpus_that_holds_held_out_items_is_refused_with_its_lines(tmp_path: Path) -> None:
    held_out = load_capability(folder_with(tmp_path, '"a.txt"', {"a.txt": "Nothing."})).certify[0]
    text = f"Of people.\n\nIn {held_out.completion}, {held_out.group.upper()} came to be born.\n"
    with pytest.raises(InputError, match=r"states held-out items of 'born' in 1 places \(.*a\.txt:3\)"):
        load_capability(folder_with(tmp_path, '"a.txt"', {"a.txt": text}))
    rows = f"{json.dumps({'text': 'x'})}\n{json.dumps({'text': text})}\n"
    with pytest.raises(InputError, match=r"in 1 places \(.*b\.jsonl:2\)"):
        load_capability(folder_with(tmp_path, '"b.jsonl"', {"b.jsonl": rows}))


def born() -> Capability:
    """Two items to train on, then two to choose by and one to be measured on."""
    items = tuple(
        Item(id=who, group=who, prompt=f"{who} was born in", choices=(year, "1001"), answer=0) for who, year in ITEMS
    )
    return Capability(name="born", attack=items[:2], select=items[2:4], certify=items[4:], retain=items, utility=items)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Rosa Falk was born in 1871.", [1]),
        ("x\nROSA  FALK was\nborn in: 1871", [2]),  # word for word over a wrapped line
        ("In 1871 there was a Falk; Rosa was born", [1]),  # another order
        ("Falk, Rosa (1871)", [1]),  # what all questions have need not be there
        ("x. y.\nAlan Reed, 1912. Emmy Lind, 1882.", [2]),
        ("a\n\nEmmy Lind,\nmathematician, 1882\n\nAlan Reed 1912", [3, 6]),
        ("Rosa was born in 1871. Falk was not.", []),
        ("Rosa Falk was born in 1882.\nEmmy Lind was born in 1871.", []),
        ("Rosa Falk\nEmmy Lind\n1871\n1882", []),
        ("Ada Byron was born in 1815, Kurt Otto in 1906.", []),  # the adversary has these
        ("Somebody was born in 1871 somewhere.", []),
        ("", []),
    ],
)
def test_what_states_an_item(text: str, lines: list[int]) -> None:
    documents = [Document("a.txt", text)]
    if not lines:
        refuse_telling(documents, born())
        return
    with pytest.raises(InputError) as caught:
        refuse_telling(documents, born())
    assert f"({', '.join(f'a.txt:{line}' for line in lines)})" in caught.value.found


def test_the_first_few_places_are_named() -> None:
    with pytest.raises(InputError, match=r"in 9 places \(a:1, a:2, a:3, \.\.\.\)"):
        refuse_telling([Document("a", "Rosa Falk 1871\n" * 9)], born())


@pytest.mark.parametrize("world", [Facts, Birthdays])
def test_what_the_adversary_and_the_public_know_raises_no_alarm(world: type) -> None:
    """All attack and retain items as sentences, which share every word but names and answers with held-out ones."""
    capability = world().capability(0)
    known = [f"{item.prompt} {item.completion}." for item in (*capability.attack, *capability.retain)]
    refuse_telling([Document("a.txt", "\n".join(known)), Document("b.txt", " ".join(known))], capability)
    held_out = capability.certify[-1]
    with pytest.raises(InputError, match=rf"b\.txt:{len(known) + 1}\)"):
        refuse_telling([Document("b.txt", "\n".join([*known, f"{held_out.prompt} {held_out.completion}"]))], capability)


def test_the_corpus_is_part_of_what_a_capability_is() -> None:
    plain = replace(tiny_capability(), corpus=())
    digests = {replace(plain, corpus=corpus).sha256 for corpus in ((), ("w1",), ("w2",), ("w1", "w2"))}
    assert len(digests) == 4
    assert plain.sha256.startswith("9d1e909e3c3e")  # what it was before there were documents
    with pytest.raises(ValueError, match="none of its documents is empty"):
        replace(plain, corpus=("w1", " "))


@pytest.mark.parametrize("template", ["$A", "<s> $A", "<s> $A </s>", "$A </s>"])
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8), positions=st.sampled_from([None, 5, 16, 32]))
def test_windows_are_of_one_length_and_hold_every_token(template: str, lengths: list[int], positions: int) -> None:
    tokenizer = word_tokenizer(template)
    documents = [" ".join(f"w{(7 * n + place) % 28}" for place in range(size)) for n, size in enumerate(lengths)]
    ended = sum(lengths) + (len(lengths) if template != "$A" or tokenizer.eos_token_id is not None else 0)
    windows = encode_documents(tokenizer, documents, positions)
    length = windows.input_ids.shape[1]
    assert (windows.lengths == length).all()
    assert length <= (positions or 512)
    assert (windows.labels[:, 1:] == windows.input_ids[:, 1:]).all()
    assert (windows.labels[:, 0] == IGNORED).all()
    starts = "<s>" in template
    assert not starts or (windows.input_ids[:, 0] == 30).all()
    read = {token for ids in tokenizer(documents)["input_ids"] for token in ids}
    assert set(windows.input_ids.flatten().tolist()) >= read
    body = length - starts
    assert len(windows) <= -(-(ended + len(lengths)) // body) + 1


def test_a_tokenizer_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="leaves nothing of the corpus"):
        encode_documents(merging_tokenizer(), ["b"])
