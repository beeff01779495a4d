"""The browser is found, told what it cannot know, and closed; where there is none, that is said."""

import stat
import sys
import time
from pathlib import Path

import pytest

from helpers import browser
from helpers.errors import UsageError
from helpers.server import Server

AS_BROWSER = """#!{python}
import sys, time
open({path!r}, "w").write("\\n".join(sys.argv[1:]))
time.sleep(60)
"""


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.delenv("JUPYTERHUB_USER", raising=False)
    monkeypatch.setattr(browser, "has_screen", lambda: True)
    monkeypatch.setattr(browser, "PLACES", ())


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a #! line")
def test_it_is_told_the_port_the_key_and_the_page(
    server, credentials, screen, monkeypatch, tmp_path
):
    program, told = tmp_path / "chromium", tmp_path / "told"
    program.write_text(AS_BROWSER.format(python=sys.executable, path=str(told)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    at_the_end = []
    monkeypatch.setattr(browser.atexit, "register", lambda *call: at_the_end.append(call))
    said = browser.open_page(server, credentials, "/progress")
    (close, process, profile) = at_the_end[0]
    deadline = time.monotonic() + 30
    while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    close(process, profile)
    assert said == f"chromium opens {server.url('/page')}"
    assert f"--origin-to-force-quic-on=localhost:{server.port}" in told.read_text()
    assert f"--app={server.url('/page')}" in told.read_text()
    assert "--ignore-certificate-errors-spki-list=" in told.read_text()
    assert process.poll() is not None
    assert not Path(profile).exists()


def test_without_a_browser_it_says_so(server, credentials, screen, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser.open_page(server, credentials, "/progress") == (
        "No Chrome, Chromium or Edge was found on this machine. The picture below shows what would "
        "open."
    )


def test_on_a_hub_and_without_a_screen_it_says_so(server, credentials, monkeypatch):
    monkeypatch.setattr(browser, "has_screen", lambda: False)
    assert "no screen" in browser.open_page(server, credentials, "/progress")
    monkeypatch.setenv("JUPYTERHUB_USER", "ada")
    assert "on a hub" in browser.open_page(server, credentials, "/progress")


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="they always have one")
def test_a_screen_is_told_by_the_environment(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not browser.has_screen()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert browser.has_screen()


def test_the_page_names_the_stream(server, client):
    response = client.get(browser.add_page(server, "/progress"))
    assert 'path = "/progress"' in response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"


def test_what_is_no_path_and_a_server_that_was_stopped(server, credentials):
    with pytest.raises(UsageError, match="such as '/progress'"):
        browser.add_page(server, '/"</script>')
    stopped = Server(cert_file=credentials.cert_file, key_file=credentials.key_file)
    with pytest.raises(UsageError, match="call start"):
        browser.open_page(stopped, credentials, "/progress")
