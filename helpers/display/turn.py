"""A number to turn before a cell is run again: a slider where a page shows widgets."""

from typing import Any

from helpers.display import form


class Turn:
    """A number between two others; the last line of a cell shows its slider.

    `value` is what it stands at. Where there are no widgets, it is set in code.
    """

    def __init__(self, what: str, lowest: float, highest: float, value: float) -> None:
        self.what = what
        self.lowest = lowest
        self.highest = highest
        self._value = value
        self._slider: Any = None

    @property
    def value(self) -> float:
        """What the slider stands at, a whole number where it began with one."""
        return self._value if self._slider is None else type(self._value)(self._slider.value)

    @value.setter
    def value(self, value: float) -> None:
        self._value = value
        if self._slider is not None:
            self._slider.value = value

    def __repr__(self) -> str:
        return f"To turn: {self.what}, from {self.lowest} to {self.highest}; it is {self.value}"

    def _ipython_display_(self) -> None:
        self._slider = self._make_slider()
        form.show(f"To turn: {self.what}", repr(self), self._slider)

    def _make_slider(self) -> Any:
        try:
            import ipywidgets
        except ImportError:
            return None
        kind = ipywidgets.IntSlider if isinstance(self._value, int) else ipywidgets.FloatSlider
        step = 1 if isinstance(self._value, int) else (self.highest - self.lowest) / 20
        return kind(value=self.value, min=self.lowest, max=self.highest, step=step)
