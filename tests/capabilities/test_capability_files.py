from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability, overlapping_groups
from redteam.errors import InputError

TOML = """
name = "birthdays"
prompt = "{question} {group}"
group = { field = "person" }
forget = ["forget.jsonl"]
retain = ["retain.jsonl"]
"""


def row(person: str, question: str = "when", choices: Any = ("1 May", "2 May", "3 May"), answer: Any = 0, **more: Any):
    return {"person": person, "question": question, "choices": list(choices), "answer": answer, **more}


def people(prefix: str, count: int) -> list[dict[str, Any]]:
    return [row(f"{prefix}{n}", answer=n % 3) for n in range(count)]


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a capability and returns the path of its TOML; rows are dictionaries, or lines as they stand."""

    def lines(rows: list[Any]) -> str:
        return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)

    def written(forget: list[Any] | None = None, retain: list[Any] | None = None, toml: str = TOML) -> Path:
        (tmp_path / "forget.jsonl").write_text(lines(people("f", 20) if forget is None else forget), encoding="utf-8")
        (tmp_path / "retain.jsonl").write_text(lines(people("r", 10) if retain is None else retain), encoding="utf-8")
        path = tmp_path / "capability.toml"
        path.write_text(toml, encoding="utf-8")
        return path

    return written


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_capability(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert caught.value.remedy
    assert message.isprintable()
    return message


def shared(attack: float) -> str:
    return f"{TOML}\n[splits]\nattack = {attack}\n"


@pytest.mark.parametrize(("facts", "attack"), [(100, 0.01), (100, 0.06), (1000, 0.001)])
def test_an_attack_split_of_a_few_of_many_facts_is_refused(write, facts: int, attack: float):
    said = refusal(write(people("f", facts), toml=shared(attack)))
    assert f"of {facts} forget facts are in the attack split" in said
    assert "Raise `attack` under [splits], to 10 facts at least" in said


@pytest.mark.parametrize(("facts", "attack", "given"), [(99, 0.01, 2), (20, 0.4, 8), (3, 0.4, 1), (100, 0.0667, 10)])
def test_of_few_facts_any_share_is_taken_and_of_many_ten_are_enough(write, facts: int, attack: float, given: int):
    capability = load_capability(write(people("f", facts), toml=shared(attack)))
    assert len({item.group for item in capability.attack}) == given


def test_reads_items_and_splits_them_by_group(write):
    forget = [row(f"p{n}", question, answer=n % 3) for n in range(20) for question in ("born", "died")]
    capability = load_capability(write(forget))
    assert capability.name == "birthdays"
    assert [len({i.group for i in part}) for part in (capability.attack, capability.select, capability.certify)] == [
        8,
        4,
        8,
    ]
    assert len(capability.forget) == 40
    assert len(capability.retain) == len(capability.utility) == 5
    assert overlapping_groups([capability.attack, capability.select, capability.certify]) == set()
    item = next(i for i in capability.forget if i.group == "p7")
    assert item.prompt in {"born p7", "died p7"}
    assert item.choices == ("1 May", "2 May", "3 May")
    assert item.completion == "2 May"
    assert capability.chance == pytest.approx(1 / 3)


def test_the_same_files_give_the_same_capability_and_another_seed_another(write):
    first = load_capability(write()).sha256
    assert load_capability(write()).sha256 == first
    assert load_capability(write(toml=TOML + "seed = 1\n")).sha256 != first


def test_shares(write):
    capability = load_capability(write(toml=TOML + "splits = { attack = 1, select = 1, certify = 8 }\n"))
    assert [len(capability.attack), len(capability.select), len(capability.certify)] == [2, 2, 16]


def test_a_question_asked_twice_counts_once(write):
    capability = load_capability(write(people("f", 20) + people("f", 20)))
    assert len(capability.forget) == 20
    assert len({item.id for item in capability.forget}) == 20


def test_a_group_that_contradicts_itself_is_left_out_whole(write):
    """f3 has two right answers to one question; its other question goes too, since f3 may be two people."""
    rows = [*people("f", 20), row("f3", "where"), row("f3", answer=1)]
    capability = load_capability(write(rows))
    assert {item.group for item in capability.forget} == {f"f{n}" for n in range(20)} - {"f3"}


def test_the_same_answer_at_another_place_is_no_contradiction(write):
    rows = [*people("f", 20), row("f0", choices=["9 May", "1 May"], answer=1)]
    assert len(load_capability(write(rows)).forget) == 20


def test_repeated_choices_are_one_and_the_answer_follows(write):
    rows = [row(f"f{n}", choices=["x", "y", "x", "z", "y"], answer=4) for n in range(20)]
    capability = load_capability(write(rows))
    assert {item.choices for item in capability.forget} == {("x", "y", "z")}
    assert {item.completion for item in capability.forget} == {"y"}


def test_groups_of_both_files_are_left_out_of_retain(write):
    capability = load_capability(write(retain=people("f", 5) + people("r", 10)))
    kept = {item.group for item in capability.retain + capability.utility}
    assert kept == {f"r{n}" for n in range(10)}
    assert len(capability.forget) == 20


def test_blank_lines_are_skipped(write):
    assert len(load_capability(write(["", *people("f", 20), "   "])).forget) == 20


def test_a_pattern_picks_the_group_out_of_a_text(write):
    toml = TOML.replace('{ field = "person" }', r"""{ field = "question", pattern = '"(.+?)"' }""")
    rows = [row("x", f'of "n{n % 9}" ({n})') for n in range(18)]
    retain = [row("x", f'of "r{n}"') for n in range(4)]
    capability = load_capability(write(rows, retain, toml))
    assert {item.group for item in capability.forget} == {f"n{n}" for n in range(9)}
    assert capability.attack[0].prompt.endswith(capability.attack[0].group)


def test_environment_variables_in_paths(write, tmp_path, monkeypatch):
    path = write(toml=TOML.replace('"forget.jsonl"', '"$DATA_DIR/x/forget.jsonl", "${DATA_DIR}/more.jsonl"'))
    other = tmp_path / "elsewhere"
    (other / "x").mkdir(parents=True)
    (tmp_path / "forget.jsonl").rename(other / "x" / "forget.jsonl")
    (other / "more.jsonl").write_text(json.dumps(row("more")) + "\n")
    monkeypatch.setenv("DATA_DIR", str(other))
    assert len(load_capability(path).forget) == 21
    monkeypatch.delenv("DATA_DIR")
    assert "DATA_DIR, which is not set" in refusal(path)


def test_paths_are_relative_to_the_file_not_to_the_process(write, monkeypatch, tmp_path_factory):
    path = write()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert len(load_capability(path).forget) == 20


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("name = ", "is not readable TOML"),
        (TOML + "colour = 1\n", "colour: Extra inputs"),
        (TOML.replace('field = "person"', 'field = "person", feild = "x"'), "group.feild"),
        (TOML.replace('name = "birthdays"\n', ""), "name: Field required"),
        (TOML.replace('"birthdays"', '""'), "name: "),
        (TOML.replace('["forget.jsonl"]', "[]"), "forget: "),
        (TOML.replace('["forget.jsonl"]', '"forget.jsonl"'), "forget: "),
        (TOML.replace('"forget.jsonl"', '"missing.jsonl"'), "there is no data file"),
        (TOML + "splits = { attack = 0 }\n", "splits.attack"),
        (TOML + "splits = { train = 1 }\n", "splits.train"),
        (TOML + 'scorer = "bleu"\n', "there is no scorer named 'bleu'"),
        (TOML + 'seed = "x"\n', "seed: "),
        (TOML.replace("{question}", "{nothing}"), "KeyError('nothing')"),
        (TOML.replace("{question}", "{question"), "prompt template fails"),
        (TOML.replace("{question}", "{choices[9]}"), "IndexError"),
        (TOML.replace('"person" }', r""""person", pattern = 'q(\d+)' }"""), "pattern does not match 'f0'"),
        (TOML.replace('"person" }', r""""person", pattern = 'f\d+' }"""), "has no group"),
    ],
)
def test_a_wrong_toml_is_refused_in_one_line(write, toml, says):
    path = write(toml=toml)
    assert says in refusal(path)


def test_a_missing_toml_is_refused(tmp_path):
    assert "there is no capability file" in refusal(tmp_path / "no\nfile.toml")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{'person': 1}", "is not JSON"),
        ('{"person": "f1"', "is not JSON"),
        ("[1, 2]", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ({"choices": ["a", "b"], "answer": 0}, "has no field 'person'"),
        ({"person": "x", "question": "q", "answer": 0}, "has no field 'choices'"),
        ({"person": "x", "question": "q", "choices": ["a", "b"]}, "has no field 'answer'"),
        ({"person": "x", "choices": ["a", "b"], "answer": 0}, "KeyError('question')"),
        (row("x", answer=3), "is no index"),
        (row("x", answer=-1), "is no index"),
        (row("x", answer=1.0), "is no index"),
        (row("x", answer=None), "is no index"),
        ({"person": "x", "question": "q", "choices": "ab", "answer": 0}, "'choices' is no list"),
        (row("x", choices=["a"]), "fewer than two different choices"),
        (row("x", choices=["a", "a"]), "fewer than two different choices"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(write, line, says):
    message = refusal(write([*people("f", 4), line, *people("g", 20)]))
    assert "forget.jsonl:5" in message
    assert says in message


def test_too_few_facts_are_refused(write):
    assert "2 groups cannot fill 3 splits" in refusal(write(people("f", 2)))
    assert "1 groups cannot fill 2 splits" in refusal(write(retain=people("r", 1)))
    assert "0 groups" in refusal(write(retain=people("f", 9)))  # all of it is in forget as well


MISTAKES = [
    pytest.param([row("x", answer=True)], TOML, id="true is no index"),
    pytest.param([b"\xff\xfe"], TOML, id="bytes that are no text"),
    pytest.param([row("x", choices=["", "b"])], TOML, id="an empty choice"),
    pytest.param([row("x")], TOML.replace('"person" }', "\"person\", pattern = '(' }"), id="pattern is no expression"),
    pytest.param([row("x")], TOML.replace('"person" }', "\"person\", pattern = '(z)?x' }"), id="group took no part"),
    pytest.param([row("x")], TOML.replace("{question}", "{question.colour}"), id="template asks for an attribute"),
    pytest.param([row("x")], TOML.replace("{question}", "{choices[a]}"), id="template indexes a list by name"),
]


@pytest.mark.parametrize(("rows", "toml"), MISTAKES)
def test_also_refused(write, rows, toml):
    path = write(rows if not isinstance(rows[0], bytes) else [], toml=toml)
    if isinstance(rows[0], bytes):
        (path.parent / "forget.jsonl").write_bytes(rows[0])
    message = refusal(path)
    assert "groups cannot fill" not in message


@pytest.mark.parametrize("separator", ["\u2028", "\x85"])
def test_a_line_ends_at_a_newline_only(write, separator):
    rows = [json.dumps(row(f"f{n}", f"a{separator}b"), ensure_ascii=False) for n in range(20)]
    assert len(load_capability(write(rows)).forget) == 20


def test_ids_are_unique_over_files_of_one_name(write, tmp_path):
    path = write(toml=TOML.replace('"forget.jsonl"', '"forget.jsonl", "more/forget.jsonl"'))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "forget.jsonl").write_text("".join(json.dumps(r) + "\n" for r in people("m", 20)))
    capability: Capability = load_capability(path)
    assert len({item.id for item in capability.forget}) == len(capability.forget) == 40


TABLE = TOML.replace("forget.jsonl", "forget.csv").replace('"{question} {group}"', '"{question}, {group}:"')


@pytest.fixture
def write_table(write, tmp_path) -> Write:
    """Writes a capability whose forget items are a CSV of these lines."""

    def written(lines: list[str], toml: str = TABLE) -> Path:
        path = write(
            retain=[{**line, **dict(zip("ABC", line["choices"], strict=True))} for line in people("r", 10)], toml=toml
        )
        (tmp_path / "forget.csv").write_bytes("\r\n".join(lines).encode())
        return path

    return written


def test_a_table_has_a_column_for_each_choice(write_table):
    lines = ["person,question,A,B,C,answer"]
    lines += [f'f{n},"when, or ""about when""",1 May,2 May,3 May,{"ABC"[n % 3]}' for n in range(20)]
    capability = load_capability(write_table(lines, TABLE + 'choices = ["A", "B", "C"]\n'))
    assert {item.group for item in capability.forget} == {f"f{n}" for n in range(20)}
    item = next(item for item in capability.forget if item.group == "f4")
    assert item.prompt == 'when, or "about when", f4:'
    assert (item.choices, item.completion) == (("1 May", "2 May", "3 May"), "2 May")
    assert item.id.startswith("forget.csv:")


def test_a_table_written_by_a_spreadsheet(write_table):
    """With a byte order mark, a line break inside a cell, and an empty cell where a question has fewer choices."""
    lines = ["\ufeffperson,question,A,B,C,answer", *(f'f{n},"one\r\ntwo",1 May,2 May,,0' for n in range(20))]
    capability = load_capability(write_table(lines, TABLE + 'choices = ["A", "B", "C"]\n'))
    assert {item.choices for item in capability.forget} == {("1 May", "2 May")}
    assert {item.prompt.split(",")[0] for item in capability.forget} == {"one\r\ntwo"}


@pytest.mark.parametrize("answer", [1, "1", "B", " B ", "2 May"])
def test_an_answer_is_a_place_a_letter_or_the_choice_itself(write, answer):
    capability = load_capability(write([row(f"f{n}", answer=answer) for n in range(20)]))
    assert {item.completion for item in capability.forget} == {"2 May"}


@pytest.mark.parametrize(
    ("choices", "answer", "says"),
    [
        (["1", "0"], "1", "a choice and the place of another"),
        (["B", "A"], "A", "a choice and the place of another"),
        (["x", "y"], "z", "no index into the choices"),
        (["x", "y"], "C", "no index into the choices"),
        (["x", "y"], "-1", "no index into the choices"),
        (["x", "y"], "9" * 5000, "no index into the choices"),
        (["x", "y"], True, "no index into the choices"),
        (["x", "y"], None, "no index into the choices"),
    ],
)
def test_an_answer_that_could_be_two_or_is_none_is_refused(write, choices, answer, says):
    assert says in refusal(write([row("f0", choices=choices, answer=answer)]))


def test_what_is_both_readings_of_one_choice_is_no_doubt(write):
    rows = [row(f"f{n}", choices=["0", "1"], answer="1") for n in range(20)]
    assert {item.completion for item in load_capability(write(rows)).forget} == {"1"}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["person,question,person", "a,b,c"], ":1 names its columns"),
        (["person,,answer", "a,b,c"], ":1 names its columns"),
        (["person,question,choices,answer", "a,b"], ":2 has 2 cells for 4 names"),
        (["person,question,choices,answer", "", "a,b,c,d,e"], ":3 has 5 cells for 4 names"),
        (["person,question,choices,answer", 'a,"b'], "is not CSV"),
        (["person,question,choices,answer", f"a,{'b' * 200_000},c,d"], "is not CSV"),
        (["person,question,choices,answer", "a,b,c,0"], "'choices' is no list"),
        (["person,question,answer", "a,b,0"], "no field 'choices'"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(write_table, lines, says):
    assert says in refusal(write_table(lines))


def test_a_table_that_is_no_text(write_table, tmp_path):
    path = write_table(["person"])
    (tmp_path / "forget.csv").write_bytes(b"person\n\xff\xfe")
    assert "not readable as UTF-8" in refusal(path)


ASKED = TOML.replace("{question} {group}", "{question}")
OTHERS = [row(f"r{n}", f"what was {n}") for n in range(10)]


def test_facts_that_share_a_question_land_in_one_split(write):
    """Twenty people under two spellings of one question each: split apart, one would give the other away."""
    rows = [row(f"{spelling}{n}", f"who was {n}{mark}") for n in range(20) for spelling, mark in ("a?", "b.")]
    rows += [row(f"b{n}", f"where was {n}") for n in range(20)]
    capability = load_capability(write(rows, OTHERS, ASKED))
    people = [{item.prompt.split()[2].rstrip("?") for item in part} for part in parts_of(capability)]
    assert sum(map(len, people)) == len(set().union(*people)) == 20
    assert len(capability.forget) == 40  # who and where; the other spelling counts once


def parts_of(capability: Capability):
    return capability.attack, capability.select, capability.certify


def test_a_question_about_what_was_removed_measures_no_utility(write):
    rows = [row(f"f{n}", f"who was {n}") for n in range(20)]
    capability = load_capability(write(rows, [row("stranger", "Who was 3?"), *OTHERS], ASKED))
    kept = (*capability.retain, *capability.utility)
    assert {item.group for item in kept} == {f"r{n}" for n in range(10)}


def test_two_answers_to_one_question_are_left_out_whoever_asks(write):
    rows = [row("x", "same"), row("y", "SAME ", answer=1), *[row(f"f{n}", f"q{n}") for n in range(20)]]
    capability = load_capability(write(rows, OTHERS, ASKED))
    assert {item.group for item in capability.forget} == {f"f{n}" for n in range(20)}


# Found by the fuzzer.


def grouped(pattern: str) -> str:
    return TOML.replace('{ field = "person" }', f'{{ field = "person", pattern = {json.dumps(pattern)} }}')


@pytest.mark.parametrize("pattern", ["(a{99999999999})", "(" * 3000 + ")" * 3000, "(" + "x" * 9000])
def test_patterns_that_python_cannot_read(write, pattern):
    assert "is no regular expression" in refusal(write(toml=grouped(pattern)))


def test_a_pattern_that_does_not_come_to_an_end(write, monkeypatch):
    monkeypatch.setattr("redteam.capabilities.grouping.PATIENCE", 0.2)
    path = write([row("a" * 60)], toml=grouped("((a|a)*b)"))
    assert "the group pattern does not come to an end with 'aaaa" in refusal(path)
    assert len(load_capability(write(toml=grouped("(.*)"))).forget) == 20


@pytest.mark.parametrize("width", ["1000000000", ">99999", "{answer}", "x" * 21])
def test_fields_that_are_formatted_to_fill_the_memory(write, width):
    path = write(toml=TOML.replace("{question}", f"{{question:{width}}}"))
    assert "prompt: no field can be formatted as" in refusal(path)


def test_fields_may_be_formatted(write):
    capability = load_capability(write(toml=TOML.replace("{question}", "{answer:03d} {question:>10}")))
    assert capability.forget[0].prompt[3:] == f"       when {capability.forget[0].group}"


@pytest.mark.parametrize("name", ["f" * 300, "f" * 100_000, "\\u0000", "$" + "X" * 9000])
def test_names_of_files_that_no_file_has(write, name):
    refusal(write(toml=TOML.replace("forget.jsonl", name)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"person"', f'"{"p" * 9000}"'),
        ("name =", f'answer = "{"z" * 9000}"\nname ='),
        ("name =", f'choices = "{"z" * 9000}"\nname ='),
        ("name =", f"{'z' * 9000} = 1\nname ="),
        ("{question}", "{" + "z" * 9000 + "}"),
    ],
)
def test_what_is_quoted_is_cut_short(write, old, new):
    assert len(refusal(write(toml=TOML.replace(old, new)))) < 1500


def test_keys_of_so_many_parts_that_the_parser_does_not_end(write):
    """Their square is what it keeps: these would take four gigabytes. Dots in text are none."""
    assert "is not readable TOML" in refusal(write(toml=TOML + ".".join("a" * 50_000) + " = 1\n"))
    assert "is not readable TOML" in refusal(write(toml=TOML + "#" * 300_000))
    dotted = TOML.replace("{question}", "{question}" + "." * 500).replace('"birthdays"', "'" + "." * 500 + "'")
    assert load_capability(write(toml=dotted)).name == "." * 500


@pytest.mark.parametrize("shares", ["attack = 1e308, select = 1e308", "certify = 1e-320, attack = 1e308"])
def test_shares_are_no_larger_than_makes_sense(write, shares):
    assert "splits." in refusal(write(toml=TOML + f"splits = {{ {shares} }}\n"))


ARRAYS = 'name = "x"\narrays = "a.npz"\nclasses = 3\nforget = [0]\nscorer = "choice"\n'


@pytest.fixture
def write_arrays(tmp_path) -> Callable[..., Path]:
    def written(toml: str = ARRAYS, **arrays: Any) -> Path:
        given = {"x": np.eye(30, dtype=np.float32), "y": np.arange(30) % 3, **arrays}
        np.savez_compressed(tmp_path / "a.npz", **given)
        (tmp_path / "capability.toml").write_text(toml)
        return tmp_path / "capability.toml"

    return written


def test_few_of_many_examples_to_train_on_are_refused_of_a_class_too(write_arrays):
    x, y = np.arange(400, dtype=np.float32).reshape(200, 2), np.arange(200) % 2
    said = refusal(write_arrays(ARRAYS + "[splits]\nattack = 0.01\n", x=x, y=y))
    assert "2 of 100 forget facts are in the attack split" in said


def test_more_classes_than_anything_has(write_arrays):
    assert len(load_capability(write_arrays()).forget) == 10
    assert "classes" in refusal(write_arrays(ARRAYS.replace("classes = 3", "classes = 1000000000000")))


def test_arrays_that_are_far_larger_than_their_file(write_arrays):
    path = write_arrays(x=np.zeros((4000, 1000), np.uint8))
    assert "says that it holds 400" in refusal(path)


@pytest.mark.parametrize("name", ["x.npy", "y.npy"])
def test_an_entry_that_is_no_array(write_arrays, tmp_path, name):
    path = write_arrays()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        held = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for entry, content in held.items():
            archive.writestr(entry, b"no array" if entry == name else content)
    assert "is no readable .npz file" in refusal(path)


def test_numbers_too_large_for_float32_are_refused_without_a_warning(write_arrays):
    path = write_arrays(x=np.random.default_rng(0).random((30, 4)) * 1e300)
    with warnings.catch_warnings(action="error"):
        assert "NaN or infinite" in refusal(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_names_of_classes_of_characters_that_there_are_not(write_arrays, order):
    names = np.array(["cat", "dog", "cow"], dtype=f"{order}U3")
    toml = ARRAYS.replace("classes = 3", 'classes = "names"')
    assert load_capability(write_arrays(toml, names=names)).attack[0].choices == ("cat", "dog", "cow")
    names.view(f"{order}u4")[0] = 0x110000
    assert "'names' holds no text" in refusal(write_arrays(toml, names=names))
    assert "does not name two or more" in refusal(write_arrays(toml, names=np.zeros(3, dtype="U0")))


OPEN = TOML + 'scorer = ["f1", "cloze"]\n'


def told(prefix: str, count: int) -> list[dict[str, Any]]:
    return [{"person": f"{prefix}{n}", "question": "when", "answer": f"on {n} May"} for n in range(count)]


def test_an_answer_needs_no_choices_where_none_is_chosen(write):
    capability = load_capability(write(told("f", 20), told("r", 10), toml=OPEN))
    assert [scorer.name for scorer in capability.scorers] == ["f1", "cloze"]
    item = next(item for item in capability.forget if item.group == "f7")
    assert (item.choices, item.answer, item.completion, item.chat) == (("on 7 May",), 0, "on 7 May", False)
    assert capability.chance == pytest.approx(2 / 3)  # "on 3 May" has two of three words of any other


def test_choices_that_are_named_are_read_whatever_scores(write):
    capability = load_capability(write(toml=OPEN + 'choices = "choices"\n'))
    assert {len(item.choices) for item in capability.forget} == {3}
    assert {item.completion for item in capability.forget} == {"1 May", "2 May", "3 May"}


def test_a_chat_is_asked_for(write):
    capability = load_capability(write(toml=TOML + "chat = true\n"))
    assert all(item.chat for part in (capability.forget, capability.retain, capability.utility) for item in part)


def test_a_premise_asks_nothing(write):
    assert load_capability(write(toml=TOML + 'scorer = "calibrated"\n')).premise == "N/A N/A"


@pytest.mark.parametrize(
    ("rows", "toml", "says"),
    [
        ([*told("f", 20), {"person": "f", "question": "when", "answer": " "}], OPEN, "has an empty answer"),
        ([*told("f", 20), {"person": "f", "question": "when", "answer": None}], OPEN, "'answer' is no text"),
        ([*told("f", 20), {"person": "f", "question": "when", "answer": ["a"]}], OPEN, "'answer' is no text"),
        ([*told("f", 20), {"person": "f", "question": "when"}], OPEN, "has no field 'answer'"),
        (told("f", 20), TOML, "has no field 'choices'"),
        (told("f", 20), TOML + 'scorer = ["f1", "choice"]\n', "has no field 'choices'"),
        (told("f", 20), OPEN.replace("cloze", "f1"), "a scorer is named twice"),
        (told("f", 20), TOML + "scorer = []\n", "scorer"),
        (None, TOML.replace("{group}", "{group} {answer:02d}") + 'scorer = "calibrated"\n', "no premise can be made"),
    ],
)
def test_what_cannot_be_scored_is_refused(write, rows, toml, says):
    assert says in refusal(write(rows, toml=toml))
