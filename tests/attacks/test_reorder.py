"""Orders of words, and the search among ways to ask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_text import ATTACK, arena, chat_arena, run
from tiny_models import same_bits, tiny_llama, weights_of

from redteam.attacks import likeliest
from redteam.attacks.likeliest import SEARCHED, distinct_rewrites, rewrite_losses, search_rewrites
from redteam.attacks.orders import COUNTED, WHOLE, order_names, reordered, subject_of
from redteam.attacks.phrases import row_losses
from redteam.attacks.reorder import PADDINGS, Reorder, placed
from redteam.attacks.rephrase import Rephrase
from redteam.capabilities.wording import as_it_is
from redteam.engine.loop import Diverged

ADDING = {"each twice", "subject twice", "commas between", "dots between"}
LEAVING_OUT = {"subject alone", *(order for order in order_names() if order.startswith("without"))}
MOVING = [order for order in order_names() if order not in ADDING | LEAVING_OUT]
WORDS = st.lists(st.sampled_from(["Anna", "Lee", "sails", "from", "the", "port", "of,", "1984", "ümlaut"]), min_size=1)


@pytest.mark.parametrize(
    ("order", "asked"),
    [
        ("as it is", "Alra Ardby sails from"),
        ("first to the end 2", "sails from Alra Ardby"),
        ("first to the end 6", "sails from Alra Ardby"),
        ("last to the front 1", "from Alra Ardby sails"),
        ("without the first 3", "from"),
        ("without the first 8", "from"),
        ("without the last 1", "Alra Ardby sails"),
        ("subject after 1", "sails Alra Ardby from"),
        ("subject last", "sails from Alra Ardby"),
        ("subject first", "Alra Ardby sails from"),
        ("subject turned", "Ardby Alra sails from"),
        ("subject turned and last", "sails from Ardby Alra"),
        ("subject alone", "Alra Ardby"),
        ("subject twice", "Alra Ardby sails from Alra Ardby"),
        ("reversed", "from sails Ardby Alra"),
        ("halves swapped", "sails from Alra Ardby"),
        ("halves reversed", "Ardby Alra from sails"),
        ("ends swapped", "from Ardby sails Alra"),
        ("pairs swapped", "Ardby Alra from sails"),
        ("sorted", "Alra Ardby from sails"),
        ("every second", "Alra sails Ardby from"),
        ("each twice", "Alra Alra Ardby Ardby sails sails from from"),
        ("at the first small word", "from Alra Ardby sails"),
        ("commas between", "Alra , Ardby , sails , from"),
        ("lines between", "Alra\nArdby\nsails\nfrom"),
        ("line after the subject", "Alra Ardby\nsails from"),
    ],
)
def test_an_order_is_what_it_is_called(order: str, asked: str) -> None:
    assert reordered(order)("Alra Ardby sails from") == asked


@pytest.mark.parametrize(
    ("prompt", "order", "asked"),
    [
        ("Where does Anna Lee sail from?", "subject last", "Where does sail from Anna Lee?"),
        (
            "Question: Where does Anna sail from?\nAnswer:",
            "subject first",
            "Question: Anna Where does sail from?\nAnswer:",
        ),
        ("Who?\n", "reversed", "Who?\n"),
        ("What is it called\nA. a very long red wine\nB. ale\nAnswer:", "first to the end 1", None),
        ("  Anna sails from ", "first to the end 1", "  sails from Anna "),
        ("Of ports, the largest is", "after the first comma", "the largest is Of ports,"),
        ("the capital of France is", "after the first small word", "France is the capital of"),
        ("the capital of France is", "at the last small word", "is the capital of France"),
        ("Anna", "reversed", "Anna"),
        ("?", "reversed", "?"),
        ("", "reversed", ""),
        ("Name: Anna Lee Port:", "reversed", "Name: Port Lee Anna:"),
    ],
)
def test_labels_marks_options_and_other_lines_stay(prompt: str, order: str, asked: str | None) -> None:
    expected = "is it called What\nA. a very long red wine\nB. ale\nAnswer:" if asked is None else asked
    assert reordered(order)(prompt) == expected


@settings(deadline=None, max_examples=60)
@given(words=WORDS, order=st.sampled_from(MOVING), mark=st.sampled_from(["", "?", " ..."]))
def test_moving_keeps_every_word(words: list[str], order: str, mark: str) -> None:
    prompt = " ".join(words) + mark
    asked = reordered(order)(prompt)
    assert asked.endswith(mark)
    assert sorted(asked.removesuffix(mark).split()) == sorted(words)


@settings(deadline=None, max_examples=60)
@given(words=WORDS, order=st.sampled_from(order_names()))
def test_something_is_left_of_every_question_and_other_lines_are_left_alone(words: list[str], order: str) -> None:
    lines = ["Read:", " ".join(words), "A. x", "Cue:"]
    asked = reordered(order)("\n".join(lines)).split("\n")
    assert (asked[0], *asked[-2:]) == ("Read:", "A. x", "Cue:")
    assert "".join(asked[1:-2]).strip()


def test_turning_by_all_words_is_the_same_prompt() -> None:
    for count in range(1, 5):
        there = reordered(f"first to the end {count}")("a b c d e")
        assert reordered(f"last to the front {count}")(there) == "a b c d e"


def test_every_order_has_a_name_of_its_own() -> None:
    assert len(set(order_names())) == len(order_names()) == 1 + len(WHOLE) + 8 * len(COUNTED)
    with pytest.raises(KeyError):
        reordered("upside down")


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("Alra Ardby sails from", "Alra Ardby"),
        ("Where does Anna Lee sail from", "Anna Lee"),
        ("When was Anna born", "Anna"),
        ("born in 1984 was", "1984"),
        ("Alra Ardby", "Alra"),  # nothing but a name: the first half
        ("the port of call is", "the port"),
        ("of", "of"),
    ],
)
def test_the_subject_is_the_longest_run_of_names(text: str, subject: str) -> None:
    words = text.split()
    assert " ".join(words[subject_of(words)]) == subject


# Words before the question.


def test_words_of_what_must_stay_stand_before_the_question() -> None:
    ground = arena()
    words = [word for item in ground.text.retain for word in item.prompt.split()]
    run(Reorder(), ground, {"order": "reversed", "padding": 4})
    assert ground.text.rewrite("w1 w2 w3") == " ".join([*words[:4], "w3 w2 w1"])
    assert placed(ground.text, "as it is", 32)("w1").split()[:-1] == (words * 2)[:32]


def test_as_many_words_as_the_model_can_read() -> None:
    ground = arena(positions=16)
    run(Reorder(), ground, {"order": "as it is", "padding": 32})
    assert len(ground.text.rewrite("w1").split()) == 1 + 8
    with pytest.raises(ValueError, match="reads 3 tokens, too few for the question in this order"):
        run(Reorder(), arena(positions=3), {"order": "as it is", "padding": 32})


# The search.


@pytest.mark.parametrize(("attack", "params"), [(Reorder(), {"order": SEARCHED}), (Rephrase(), {"template": SEARCHED})])
@pytest.mark.parametrize("made", [arena, chat_arena])
def test_a_search_asks_in_the_likeliest_way_and_moves_no_weight(attack, params, made) -> None:
    ground = made()
    spent = run(attack, ground, params)
    assert [one.steps for one in spent] == list(range(1, len(spent) + 1))
    assert spent[0].samples > 4 * 50  # many ways, on four items each
    data = ground.text.encoded(ATTACK if made is arena else ground.text.attack, ground.text.rewrite)
    plain = ground.text.encoded(ATTACK if made is arena else ground.text.attack, as_it_is)
    found, before = (float(row_losses(ground.module, rows).mean()) for rows in (data, plain))
    assert ground.ledger.losses[-1] == pytest.approx(found, abs=1e-5)
    assert found < before
    assert same_bits(weights_of(ground.module), weights_of(tiny_llama()))


def test_losses_of_ways_are_those_of_items_asked_so() -> None:
    ground = arena()
    ways = [as_it_is, reordered("reversed")]
    losses, data = rewrite_losses(ground, ways, ATTACK[:5])
    assert len(data) == 10
    for way, loss in zip(ways, losses, strict=True):
        alone = ground.text.encoded(ATTACK[:5], way)
        assert loss == pytest.approx(float(row_losses(ground.module, alone).mean()), abs=1e-5)


def test_what_there_is_no_room_for_is_never_chosen() -> None:
    ground = arena(positions=7)
    ways = [placed(ground.text, "as it is", padding) for padding in PADDINGS]
    losses, _ = rewrite_losses(ground, ways, ATTACK[:4])
    assert losses[-1] == float("inf")
    list(search_rewrites(ground, ways))
    assert ground.text.longest([*ground.text.attack, *ground.text.retain], ground.text.rewrite) <= 7
    with pytest.raises(ValueError, match="reads 3 tokens, too few for any of these ways to ask"):
        list(search_rewrites(arena(positions=3), ways))


def test_a_way_whose_loss_is_not_finite_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ground, kept = arena(), likeliest.row_losses
    ways = [as_it_is, reordered("reversed"), reordered("sorted")]

    def broken(module, data):
        losses = kept(module, data).view(-1, 4)
        losses[0] = torch.nan
        return losses.flatten()

    monkeypatch.setattr(likeliest, "row_losses", broken)
    losses, _ = rewrite_losses(ground, ways, ATTACK[:4])
    assert losses[0] == float("inf")
    module = tiny_llama()
    with torch.no_grad():
        module.lm_head.weight.fill_(torch.nan)
    with pytest.raises(Diverged):
        list(search_rewrites(arena(module), ways))


def test_ways_that_ask_alike_are_one() -> None:
    ways = [as_it_is, reordered("as it is"), reordered("reversed"), lambda prompt: prompt]
    assert distinct_rewrites(ways, ATTACK) == [ways[0], ways[2]]
