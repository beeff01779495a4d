"""How a form shows itself: as widgets where a page has them, as a line of text anywhere else."""

from html import escape
from typing import Any

WIDGET = "application/vnd.jupyter.widget-view+json"


def show(label: str, text: str, control: Any) -> None:
    """Show a control below its label, or the text where there are no widgets.

    `control` is a widget, or None where ipywidgets is not installed.
    """
    from IPython.display import display

    title, _, rest = text.partition(": ")
    html = f"<p><b>{escape(title)}:</b> {escape(rest)}</p>"
    data: dict[str, Any] = {"text/plain": text, "text/html": html}
    if control is not None:
        import ipywidgets

        title, _, rest = label.partition(": ")
        above = ipywidgets.HTML(f"<b>{escape(title)}:</b> {escape(rest)}")
        form = ipywidgets.VBox([above, control])
        data[WIDGET] = {"version_major": 2, "version_minor": 0, "model_id": form.model_id}
    display(data, raw=True)
