"""How things look in a notebook: `style` has the colours and draws, `table` lays out rows."""

from helpers.display.style import Picture
from helpers.display.table import Row, Table

__all__ = ["Picture", "Row", "Table"]
