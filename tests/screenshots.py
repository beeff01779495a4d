"""Takes the screenshots that the notebooks show: `python -m tests.screenshots`.

Needs Chromium and tshark, and the right to capture on loopback. What a browser's window and
Wireshark look like on another machine differs; what is in them does not.
"""

import asyncio
import subprocess
import tempfile
import time
from html import escape
from pathlib import Path

import httpx2
from playwright.sync_api import sync_playwright

from helpers.browser import add_page, flags
from helpers.certificates import load_or_create
from helpers.client import HTTP3Transport
from helpers.server import Server
from helpers.wire import WireLog

IMAGES = Path(__file__).parent.parent / "notebooks" / "images"
CHROMIUM = "/usr/bin/chromium"
STYLE = "font: 14px ui-monospace, monospace; margin: 14px; white-space: pre"
COLUMNS = ["_ws.col.Time", "_ws.col.Protocol", "_ws.col.Info"]


def serve(credentials):
    """A running server with a progress feed that stays at 60 per cent, and with ten lines."""
    server = Server(cert_file=credentials.cert_file, key_file=credentials.key_file)

    @server.route("/progress")
    async def progress(request, response):
        response.write_header(200, {"content-type": "text/event-stream"})
        for percent in (20, 40, 60):
            await response.write(f"event: progress\ndata: {percent}\n\n")
            await response.flush()
        await asyncio.sleep(30)

    @server.route("/flush")
    async def flush(request, response):
        for number in range(10):
            await response.write(f"data chunk #{number}\n")
            await response.flush()
            await asyncio.sleep(0.1)

    return server.start()


def decrypted(server, credentials, folder):
    """What tshark prints of a request for the ten lines, with the keys of its run."""
    capture, wire = folder / "run.pcapng", WireLog()
    command = ["tshark", "-i", "lo", "-f", f"udp port {server.port}", "-w", capture, "-q"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tshark:
        while "Capturing" not in tshark.stderr.readline():
            pass
        time.sleep(1)  # it says so before it does
        transport = HTTP3Transport(ca_file=credentials.ca_file, wire=wire)
        with httpx2.Client(transport=transport) as client:
            client.get(server.url("/flush"))
        tshark.terminate()
    keys = wire.save_keys(folder / "run.keys")
    fields = [part for column in COLUMNS for part in ("-e", column)]
    command = ["tshark", "-r", capture, "-o", f"tls.keylog_file:{keys}", "-T", "fields", *fields]
    command += ["-Y", "http3 or tls"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = (line.split("\t") for line in printed.splitlines())
    return "\n".join(f"{float(t):8.4f}  {p:8}{info[:96]}" for t, p, info in rows)


def main():
    """Take both screenshots."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        credentials = load_or_create(Path(name) / "certs")
        with serve(credentials) as server:
            context = playwright.chromium.launch_persistent_context(
                Path(name) / "profile",
                executable_path=CHROMIUM,
                args=flags(server, credentials, "")[1:],  # the profile is named above
                viewport={"width": 900, "height": 320},
            )
            page = context.new_page()
            page.goto(add_page(server, "/progress"))
            page.wait_for_function("bar.value === 60 && protocol.textContent === 'h3'")
            page.screenshot(path=IMAGES / "browser.png")
            text = decrypted(server, credentials, Path(name))
            page.set_viewport_size({"width": 960, "height": 100})  # it grows with the text
            page.set_content(f'<body style="{STYLE}">{escape(text)}')
            page.screenshot(path=IMAGES / "wireshark.png", full_page=True)
            context.close()


if __name__ == "__main__":
    main()
