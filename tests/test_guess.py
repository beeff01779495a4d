"""Guesses and numbers to turn are forms where there are widgets, texts where there are none."""

import sys

import pytest

from helpers.display import Guess, Turn, form


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (None, "It is 10. (No guess was given.)"),
        ("", "It is 10. (No guess was given.)"),
        (10, "It is 10, as you guessed."),
        ("10", "It is 10, as you guessed."),
        ("10,0", "It is 10, as you guessed."),
        ("1.5", "It is 10. You guessed 1.50."),
        ("1e400", "It is 10. You guessed inf."),
        ("nan", "It is 10. You guessed nan."),
        ("many", "It is 10. (Your guess was 'many', which is no number.)"),
    ],
)
def test_a_number(given, answer):
    chunks = Guess("In how many chunks?")
    chunks.given = given
    assert chunks.answer(10) == answer


def test_a_unit_and_fractions():
    waits = Guess("How long?", unit="s")
    waits.given = 3
    assert waits.answer(0.8212) == "It is 0.82 s. You guessed 3 s."


def test_a_choice():
    ends = Guess("What comes?", "a short body", "an error")
    assert repr(ends) == "Your guess: What comes? (a short body / an error)"
    assert ends.answer("an error") == "The answer: an error. (No guess was given.)"
    ends.given = "an error"
    assert ends.answer("an error") == "The answer: an error, as you guessed."


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    return shown


def test_it_shows_a_form_and_the_text_in_its_place(displayed):
    chunks = Guess("<How> many?", unit="MiB")
    chunks._ipython_display_()
    assert displayed[0]["text/plain"] == "Your guess: <How> many?"
    assert displayed[0]["text/html"] == "<p><b>Your guess:</b> &lt;How&gt; many?</p>"
    assert displayed[0][form.WIDGET]["model_id"]
    chunks._control.value = "4"
    assert chunks.answer(5) == "It is 5 MiB. You guessed 4 MiB."
    chunks._ipython_display_()  # the cell is run again: the guess stays
    assert chunks.answer(5) == "It is 5 MiB. You guessed 4 MiB."


def test_a_choice_is_taken_from_its_form(displayed):
    ends = Guess("What comes?", "a short body", "an error")
    ends._ipython_display_()
    assert ends.answer("an error").endswith("(No guess was given.)")
    ends._control.value = "a short body"
    assert ends.answer("an error") == "The answer: an error. You guessed a short body."


def test_without_widgets_it_is_a_text(displayed, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    chunks = Guess("How many?")
    chunks._ipython_display_()
    assert set(displayed[0]) == {"text/plain", "text/html"}
    assert chunks.answer(5) == "It is 5. (No guess was given.)"


def test_a_number_is_turned(displayed):
    size = Turn("bytes of each write", 100, 3000, 1000)
    assert repr(size) == "To turn: bytes of each write, from 100 to 3000; it is 1000"
    size._ipython_display_()
    assert displayed[0]["text/plain"] == repr(size)
    assert displayed[0][form.WIDGET]["model_id"]
    size._slider.value = 2500
    assert size.value == 2500
    assert isinstance(size.value, int)
    size.value = 10
    assert size._slider.value == 100  # the slider keeps its ends
    size._ipython_display_()
    assert size.value == 100


def test_a_fraction_is_turned_in_steps(displayed):
    walk = Turn("seconds of the walk", 0.0, 1.0, 0.5)
    walk._ipython_display_()
    walk._slider.value = 0.25
    assert walk.value == 0.25


def test_without_widgets_a_number_is_set_in_code(displayed, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    size = Turn("bytes of each write", 100, 3000, 1000)
    size._ipython_display_()
    assert set(displayed[0]) == {"text/plain", "text/html"}
    size.value = 200
    assert size.value == 200
