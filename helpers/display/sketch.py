"""Pictures of what no run can show: what stands on what, and who gives what to whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.display import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE = style.SERIES
BOX_HEIGHT = 46


@dataclass(frozen=True)
class Box:
    """A box with a title, and a smaller line below it; lengths are CSS pixels."""

    left: float
    top: float
    width: float
    title: str
    note: str = ""
    colour: str = style.TEXT
    height: float = BOX_HEIGHT


@dataclass(frozen=True)
class Arrow:
    """An arrow from one point to another, with its words above the middle."""

    start: tuple[float, float]
    end: tuple[float, float]
    words: str = ""
    colour: str = style.MUTED


def draw(height: float, parts: Sequence[Box | Arrow], alt: str, text: str) -> style.Picture:
    """Return a picture of boxes and arrows."""
    with style.applied():
        figure, axes = style.canvas(style.WIDTH, height)
        for part in parts:
            if isinstance(part, Box):
                _draw_box(axes, part)
            else:
                _draw_arrow(axes, part)
    return style.Picture(figure, alt, f"<{text}>")


def _draw_box(axes: "Axes", box: Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (box.left, box.top)
    shape = FancyBboxPatch(corner, box.width, box.height, boxstyle="round,pad=0,rounding_size=6")
    shape.set(facecolor=style.CARD, edgecolor=box.colour, linewidth=1.6)
    axes.add_patch(shape)
    middle, y = box.left + box.width / 2, box.top + box.height / 2
    title_y = y - 9 * bool(box.note)
    axes.text(middle, title_y, box.title, ha="center", va="center", color=box.colour, weight="bold")
    axes.text(middle, y + 11, box.note, ha="center", va="center", size="small", color=style.MUTED)


def _draw_arrow(axes: "Axes", arrow: Arrow) -> None:
    look = {"arrowstyle": "-|>", "color": arrow.colour, "linewidth": 1.6, "shrinkA": 0}
    axes.annotate("", xy=arrow.end, xytext=arrow.start, arrowprops={**look, "shrinkB": 0})
    x, y = ((a + b) / 2 for a, b in zip(arrow.start, arrow.end, strict=True))
    axes.text(x, y - 10, arrow.words, ha="center", va="center", size="small", color=style.TEXT)


def stack() -> style.Picture:
    """Return HTTP/3 and what it stands on, beside HTTP/2 and what that stands on."""
    left, right, width, step = 60, 480, 360, BOX_HEIGHT + 8
    parts: list[Box | Arrow] = [
        Box(left, 14, width, "HTTP/2", "requests and answers, many at once", BLUE),
        Box(left, 14 + step, width, "TLS", "encrypts, and says who the server is", GREEN),
        Box(left, 14 + 2 * step, width, "TCP", "one row of bytes, none lost, in order", ORANGE),
        Box(left, 14 + 3 * step, width, "IP", "datagrams to an address", style.MUTED),
        Box(right, 14, width, "HTTP/3", "requests and answers, each on a stream", BLUE),
        Box(
            right, 14 + step, width, "QUIC", "TLS 1.3 inside; streams, each in its own order", GREEN
        ),
        Box(right, 14 + 2 * step, width, "UDP", "datagrams to a port", ORANGE),
        Box(right, 14 + 3 * step, width, "IP", "datagrams to an address", style.MUTED),
    ]
    alt = (
        "Two stacks side by side. HTTP/2 stands on TLS, TLS on TCP, which carries one row of bytes "
        "in order, TCP on IP. HTTP/3 stands on QUIC, which has TLS 1.3 inside and carries many "
        "streams, each in an order of its own; QUIC stands on UDP, UDP on IP."
    )
    return draw(14 + 4 * step + 6, parts, alt, "HTTP/2 on TLS, TCP, IP; HTTP/3 on QUIC, UDP, IP")


def files() -> style.Picture:
    """Return which file of a certificate goes to whom."""
    parts: list[Box | Arrow] = [
        Box(20, 92, 190, "your CA", "signs with its own key", PURPLE),
        Box(330, 30, 240, "cert.pem + key.pem", "certificate and private key", ORANGE),
        Box(330, 154, 240, "ca.pem", "the CA's certificate", GREEN),
        Box(676, 30, 212, "server", "shows cert.pem, keeps key.pem"),
        Box(676, 154, 212, "client", "has ca.pem, and believes it"),
        Arrow((210, 105), (330, 56), "signs"),
        Arrow((210, 125), (330, 174)),
        Arrow((570, 53), (676, 53)),
        Arrow((570, 177), (676, 177)),
        Arrow((782, 76), (782, 154)),
    ]
    alt = (
        "Your CA signs cert.pem, which goes to the server together with its private key, key.pem. "
        "The CA's own certificate, ca.pem, goes to the client. The server shows cert.pem to the "
        "client and proves that it holds the key; the client believes it since ca.pem vouches."
    )
    return draw(214, parts, alt, "A CA signs cert.pem for the server; ca.pem goes to the client")


def ways() -> style.Picture:
    """Return the two ways from a handler to its client: through the response, and past it."""
    parts: list[Box | Arrow] = []
    for top, colour in ((14, BLUE), (110, ORANGE)):
        parts.append(Box(20, top, 150, "handler", "your code", colour))
        parts.append(Box(530, top, 150, "stream", "DATA frames", colour))
        parts.append(Box(760, top, 120, "client", "", colour))
        parts.append(Arrow((680, top + 23), (760, top + 23), "", colour))
    parts.append(Box(270, 14, 170, "response", "header, buffer, end", BLUE))
    parts.append(Arrow((170, 37), (270, 37), "write, flush", BLUE))
    parts.append(Arrow((440, 37), (530, 37), "", BLUE))
    parts.append(Arrow((170, 133), (530, 133), "take_over, then write and close", ORANGE))
    alt = (
        "Two ways from a handler to its client. In the first the handler writes to the response, "
        "which has header, buffer and end, and the response writes to the stream. In the second "
        "the handler has taken over the stream, writes to it itself, and closes it."
    )
    return draw(170, parts, alt, "A handler writes to its response, or to the stream itself")


def both_ways() -> style.Picture:
    """Return one request's stream: the client writes upwards while the handler answers."""
    parts: list[Box | Arrow] = [
        Box(20, 20, 170, "your program", "a generator, a file", BLUE, height=90),
        Box(710, 20, 170, "handler", "async for ... request", ORANGE, height=90),
        Arrow((190, 47), (710, 47), "the request's body: each piece as soon as it exists", BLUE),
        Arrow((710, 90), (190, 90), "the answer, meanwhile if you like", ORANGE),
    ]
    alt = (
        "A client and a handler with one stream between them. The pieces of the request's body go "
        "up, each as soon as it exists; the answer comes down, meanwhile if you like."
    )
    return draw(130, parts, alt, "A body goes up while the answer comes down")


def signature() -> style.Picture:
    """Return how a key pair signs: the private key makes a signature, the public one checks it."""
    parts: list[Box | Arrow] = [
        Box(20, 20, 200, "private key", "never leaves its owner", ORANGE),
        Box(340, 20, 220, "text + signature", "everybody may have both", PURPLE),
        Box(680, 20, 200, "public key", "everybody may have it", GREEN),
        Arrow((220, 43), (340, 43), "signs"),
        Arrow((680, 43), (560, 43), "checks"),
    ]
    alt = (
        "The private key, which never leaves its owner, makes a signature under a text. The public "
        "key, which everybody may have, checks that this text was signed with that private key."
    )
    return draw(86, parts, alt, "A private key signs, its public key checks")


def streams(names: Sequence[str]) -> style.Picture:
    """Return one connection with a stream for each of these requests, numbered as QUIC does."""
    step = 40
    height = 70 + step * len(names)
    parts: list[Box | Arrow] = [
        Box(20, 20, 120, "client", "", height=height - 40),
        Box(760, 20, 120, "server", "", height=height - 40),
    ]
    for number, name in enumerate(names):
        y, colour = 52 + step * number, style.SERIES[number % len(style.SERIES)]
        parts.append(Arrow((140, y), (760, y), f"stream {4 * number}: {name}", colour))
        parts.append(Arrow((760, y + 9), (140, y + 9), "", colour))
    listed = "; ".join(f"stream {4 * number}: {name}" for number, name in enumerate(names))
    alt = (
        f"One connection between client and server with {len(names)} streams side by side, each "
        f"with two directions. {listed}."
    )
    return draw(height, parts, alt, f"One connection, {listed}")
