"""Draws the first picture of notebook 07: `python -m tests.stack_picture`.

Two ends of a connection, each a stack of four. What goes down and what comes up are the calls that
the notebook makes; only the sockets are joined.
"""

from pathlib import Path

from helpers.display import Picture, style

PICTURE = Path(__file__).parent.parent / "notebooks" / "images" / "by_hand.png"

LAYERS = [
    ("your code", "{who}: requests, responses, tasks", style.SERIES[0]),
    ("H3Connection", "HTTP/3: HEADERS, DATA", style.SERIES[1]),
    ("QuicConnection", "QUIC: streams, packets, TLS", style.SERIES[2]),
    ("UDP socket, timer, clock", "the only I/O", style.MUTED),
]
BETWEEN = [
    ("send_headers, send_data", "handle_event"),
    ("send_stream_data", "next_event"),
    ("datagrams_to_send(now)", "receive_datagram(..., now)"),
]

# All lengths are in CSS pixels.
LEFT = {"client": 30, "server": 490}
WIDTH, HEIGHT, GAP, TOP = 380, 52, 44, 40


def draw():
    """Return the picture."""
    bottom = TOP + len(LAYERS) * HEIGHT + len(BETWEEN) * GAP
    with style.applied():
        figure, axes = style.canvas(style.WIDTH, bottom + 46)
        for who, x in LEFT.items():
            axes.text(x + WIDTH / 2, TOP - 18, who, ha="center", va="center", weight="bold")
            for number, (name, what, colour) in enumerate(LAYERS):
                draw_layer(
                    axes, x, TOP + number * (HEIGHT + GAP), name, what.format(who=who), colour
                )
            for number, (down, up) in enumerate(BETWEEN):
                draw_calls(axes, x, TOP + HEIGHT + number * (HEIGHT + GAP), down, up)
        draw_network(axes, bottom)
    return Picture(figure, "", "<Two stacks>")


def draw_layer(axes, x, y, name, what, colour):
    from matplotlib.patches import FancyBboxPatch

    look = {"boxstyle": "round,pad=0,rounding_size=6", "edgecolor": colour, "linewidth": 1.6}
    axes.add_patch(FancyBboxPatch((x, y), WIDTH, HEIGHT, facecolor=style.CARD, **look))
    text = {"x": x + WIDTH / 2, "ha": "center", "va": "center"}
    axes.text(y=y + 18, s=name, color=colour, weight="bold", **text)
    axes.text(y=y + 37, s=what, color=style.TEXT, size="small", **text)


def draw_calls(axes, x, y, down, up):
    for side, (start, end), words in ((44, (y, y + GAP), down), (214, (y + GAP, y), up)):
        arrow = {"arrowstyle": "-|>", "color": style.MUTED, "shrinkA": 3, "shrinkB": 3}
        axes.annotate("", xy=(x + side, end), xytext=(x + side, start), arrowprops=arrow)
        axes.text(x + side + 10, y + GAP / 2, words, va="center", size="small")


def draw_network(axes, y):
    left, right = (x + WIDTH / 2 for x in LEFT.values())
    axes.plot([left, left, right, right], [y, y + 18, y + 18, y], color=style.MUTED, linewidth=1.6)
    label = {"facecolor": style.CARD, "edgecolor": "none", "pad": 4}
    words = "UDP datagrams, encrypted"
    axes.text(style.WIDTH / 2, y + 18, words, ha="center", va="center", bbox=label)


if __name__ == "__main__":
    draw().save(PICTURE)
