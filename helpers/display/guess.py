"""A guess that is written down before a cell is run, and answered after it.

In a notebook whose page can show widgets it is a small form; anywhere else, as on GitHub or where
ipywidgets is not installed, it is a line of text, and a guess can be given in code: `guess.given`.
"""

from typing import Any

from helpers.display import form


class Guess:
    """A question with a number for an answer, or with `choices`; the last line of a cell shows it.

    `given` is the guess: None as long as there is none.
    """

    def __init__(self, question: str, *choices: str, unit: str = "") -> None:
        self.question = question
        self.choices = choices
        self.unit = unit
        self.given: float | str | None = None
        self._control: Any = None

    def answer(self, value: float | str) -> str:
        """Return what the answer is, beside the guess; `value` is what the run has shown.

        A fraction is given to one place, or to two where it is small.
        """
        found = f"The answer: {value}" if self.choices else f"It is {self._told(value)}"
        given = self._read()
        if given is None:
            return f"{found}. (No guess was given.)"
        if isinstance(given, str) and not self.choices:
            return f"{found}. (Your guess was {given!r}, which is no number.)"
        if given == value:
            return f"{found}, as you guessed."
        return f"{found}. You guessed {self._told(given)}."

    def _told(self, value: float | str) -> str:
        if isinstance(value, float):
            value = f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
        return f"{value} {self.unit}".rstrip()

    def _read(self) -> float | str | None:
        """Return what was given, a number as such; None where nothing was."""
        given = self.given
        if given is None and self._control is not None:
            given = self._control.value
        if given is None or given == "":
            return None
        if self.choices:
            return given
        try:
            number = float(str(given).replace(",", "."))
        except ValueError:
            return str(given)
        return int(number) if number.is_integer() else number

    def __repr__(self) -> str:
        choices = f" ({' / '.join(self.choices)})" if self.choices else ""
        return f"Your guess: {self.question}{choices}"

    def _ipython_display_(self) -> None:
        self._control = self._make_control()
        form.show(f"Your guess: {self.question}", repr(self), self._control)

    def _make_control(self) -> Any:
        """Return the widget, with what was given before; None where there are none."""
        try:
            import ipywidgets
        except ImportError:
            return None
        earlier = self._control.value if self._control is not None else None
        if self.choices:
            return ipywidgets.RadioButtons(options=self.choices, value=earlier)
        hint = f"a number{f' of {self.unit}' if self.unit else ''}"
        return ipywidgets.Text(value=earlier or "", placeholder=hint)
