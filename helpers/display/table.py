"""Rows that show themselves: as a table in a notebook, as aligned text anywhere else."""

from collections.abc import Iterable
from html import escape
from typing import Any

CELL_WIDTH = 76
"""Where a text in the plain form is cut; the row itself keeps all of it."""

Row = dict[str, Any]
"""What stands in each column."""


class Table(list[Row]):
    """A list of rows (dicts with the same keys) that prints as a table.

    `note` stands below the table, or alone where there are no rows, to say why. `hidden` names
    columns that are not shown, though each row has them.
    """

    def __init__(
        self, rows: Iterable[Row] = (), note: str = "", hidden: Iterable[str] = ()
    ) -> None:
        super().__init__(rows)
        self.note = note
        self._hidden = frozenset(hidden)

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns that are shown."""
        return [name for name in (self[0] if self else ()) if name not in self._hidden]

    def __str__(self) -> str:
        cells = [[_text(row[name], CELL_WIDTH) for name in self.columns] for row in self]
        lines = [self.columns, *cells] if self else []
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        numeric = [self._is_numeric(name) for name in self.columns]
        text = []
        for line in lines:
            aligned = (
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, numeric, strict=True)
            )
            text.append("  ".join(aligned).rstrip())
        return "\n".join([*text, *([self.note] if self.note else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table for a notebook, with whole texts; colours are the notebook's own."""
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        if not self:
            return note
        align = {name: "right" if self._is_numeric(name) else "left" for name in self.columns}
        head = "".join(f'<th style="text-align: {align[c]}">{escape(c)}</th>' for c in align)
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align: {align[c]}">{escape(_text(row[c]))}</td>' for c in align
            )
            + "</tr>"
            for row in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"

    def _is_numeric(self, column: str) -> bool:
        return all(isinstance(row[column], int | float | None) for row in self)


def _text(value: object, width: int | None = None) -> str:
    """Return a cell's text; fractions are milliseconds to three places, as a clock gives them."""
    if value is None:
        return "-"
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if width is None or len(text) <= width else text[: width - 3] + "..."
