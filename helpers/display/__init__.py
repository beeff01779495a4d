"""How things look in a notebook: `style` has the colours and draws, `table` lays out rows.

`track` draws a moving thing as its watchers see it, `sketch` what no run can show.
`guess` asks for a number or a choice before a cell is run, `turn` lets one be changed.

Without it: a picture is read in one theme only, and by nobody who cannot see it.
"""

from helpers.display.guess import Guess
from helpers.display.style import Picture
from helpers.display.table import Row, Table
from helpers.display.track import track
from helpers.display.turn import Turn

__all__ = ["Guess", "Picture", "Row", "Table", "Turn", "track"]
