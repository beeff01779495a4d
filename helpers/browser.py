"""A page in your own browser, over HTTP/3: its bar shows what an event stream reports.

A browser asks over TCP first and learns from the answer that a server speaks HTTP/3; and it does
not know a throwaway certificate. So it is started with a profile of its own and told both: which
address speaks HTTP/3, and which public key is meant. Only browsers made from Chromium can be told.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.certificates import Credentials, spki_sha256
from helpers.errors import UsageError
from helpers.exchange import Request, Response
from helpers.server import Server

PAGE_PATH = "/page"
NAMES = (
    "google-chrome",
    "google-chrome-stable",
    "chromium",
    "chromium-browser",
    "chrome",
    "microsoft-edge",
    "microsoft-edge-stable",
    "msedge",
)
# Where they are without being on PATH, on macOS and on Windows.
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
SEE_PICTURE = "The picture below shows what would open."
CLOSE_TIMEOUT_S = 5.0

PAGE = """<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<title>Progress over HTTP/3</title>
<style>
body {font: 20px system-ui, sans-serif; margin: 2em; color-scheme: light dark}
progress {width: 100%; height: 2em}
</style>
<h1>Progress over HTTP/3</h1>
<progress id="bar" max="100" value="0"></progress>
<p id="text" role="status">waiting for the first event</p>
<p>Protocol, as this browser tells: <b id="protocol">not known yet</b></p>
<button onclick="location.reload()">Again</button>
<script>
const path = "PATH", source = new EventSource(path);
const show = (id, text) => { document.getElementById(id).textContent = text; };
show("protocol", performance.getEntriesByType("navigation")[0].nextHopProtocol);
source.addEventListener("progress", event => {
  document.getElementById("bar").value = event.data;
  show("text", event.data + " %");
});
source.addEventListener("done", event => { source.close(); show("text", "done: " + event.data); });
source.onerror = () => {
  source.close();
  show("text", "The stream broke off, or is no event stream.");
};
</script>
"""


def add_page(server: Server, path: str) -> str:
    """Let the server also serve a page with a bar that shows the events at `path`; return its URL.

    Raises UsageError where the server does not run.
    """
    if '"' in path or "<" in path:
        raise UsageError(f"A path of an event stream, such as '/progress', not {path!r}.")

    @server.route(PAGE_PATH)
    async def page(request: Request, response: Response) -> None:
        response.write_header(200, {"content-type": "text/html; charset=utf-8"})
        await response.write(PAGE.replace("PATH", path))

    return server.url(PAGE_PATH)


def find_browser() -> str | None:
    """Return the path of a Chrome, Chromium or Edge on this machine, or None."""
    found = (shutil.which(name) for name in NAMES)
    places = (place for place in PLACES if Path(place).exists())
    return next(filter(None, (*found, *places)), None)


def open_page(server: Server, credentials: Credentials, path: str) -> str:
    """Open the page for the events at `path` in a browser of this machine; return what was done.

    Where there is no such browser, or no screen, the text says so. The browser's profile is of its
    own, and goes when the kernel ends, with the browser. Raises UsageError where the server does
    not run.
    """
    url = add_page(server, path)
    if os.environ.get("JUPYTERHUB_USER"):
        return f"This kernel runs on a hub, and its browser would not be yours. {SEE_PICTURE}"
    if not has_screen():
        return f"This machine has no screen. {SEE_PICTURE}"
    browser = find_browser()
    if browser is None:
        return f"No Chrome, Chromium or Edge was found on this machine. {SEE_PICTURE}"
    profile = tempfile.mkdtemp(prefix="http3-browser-")
    process = subprocess.Popen(
        [browser, *flags(server, credentials, profile), f"--app={url}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(_close, process, profile)
    return f"{Path(browser).stem} opens {url}"


def has_screen() -> bool:
    """Return whether a window can be opened here, as far as this program can know."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def flags(server: Server, credentials: Credentials, profile: str) -> list[str]:
    """Return with which options a browser speaks HTTP/3 to this server at once."""
    told = [
        f"--user-data-dir={profile}",
        f"--origin-to-force-quic-on=localhost:{server.port}",
        f"--ignore-certificate-errors-spki-list={spki_sha256(credentials.cert_file)}",
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-background-networking",
    ]
    if hasattr(os, "getuid") and os.getuid() == 0:
        told.append("--no-sandbox")  # it refuses to run as root with one
    return told


def _close(process: "subprocess.Popen[bytes]", profile: str) -> None:
    process.terminate()
    try:
        process.wait(CLOSE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
    shutil.rmtree(profile, ignore_errors=True)
