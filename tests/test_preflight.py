"""`make check`: a machine that is ready, and each fault with the remedy that its line gives."""

import ast
import asyncio
import contextlib
import errno
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from jupyter_client.channels import HBChannel

from helpers.certificates import credentials as certificates
from helpers.connection import means_unavailable
from helpers.exchange import Response
from helpers.preflight import __main__ as preflight
from helpers.preflight import environment as preflight_environment
from helpers.preflight import kernel as preflight_kernel
from helpers.server import Server
from tests import shipped

ROOT = Path(__file__).parent.parent
MODULES = [preflight, preflight_environment, preflight_kernel]
# Run before them, by Python itself.
DOORS = [sys.modules[name] for name in ("helpers", "helpers.preflight")]
NAMES = list(preflight.CHECKS)
MAGIC = re.compile("^%.*", re.MULTILINE)
RUN_TIMEOUT_S = 50.0  # five times the ten seconds that it may take
# What helpers import that comes with a package they need.
COMES_WITH = {
    "idna": "trustme",
    "ipywidgets": "jupyter",
    "IPython": "jupyter",
    "jupyter_client": "jupyter",
    "jupyter_core": "jupyter",
    "packaging": "jupyter",
    "pylsqpack": "aioquic",
}


def result_of(name):
    """What one check comes to."""
    return preflight._result(name, preflight.CHECKS[name])


def failure_of(name):
    """The line of a check that has to fail."""
    result = result_of(name)
    assert not result.ok, result
    assert result.remedy
    assert str(result).startswith(f"[FAIL] {name}: ")
    assert str(result).endswith(result.remedy)
    return str(result)


def run_as_program(*options, cwd, **variables):
    return subprocess.run(
        [sys.executable, "-W", "error", *options, "-m", "helpers.preflight"],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        encoding="utf-8",
        timeout=RUN_TIMEOUT_S,
    )


# ---- all is well


def test_a_machine_that_is_ready(tmp_path):
    folders = [tmp_path / name for name in ("anderswo über allem", "home", "tmp dir")]
    for folder in folders:
        folder.mkdir()
    elsewhere, home, temporary = map(str, folders)
    process = run_as_program(
        cwd=elsewhere, HOME=home, TMPDIR=temporary, TEMP=temporary, PYTHONIOENCODING="utf-8"
    )
    *lines, summary = process.stdout.splitlines()
    assert process.stderr == ""
    assert [line.split(":")[0] for line in lines] == [f"[ OK ] {name}" for name in NAMES]
    assert summary.startswith("This machine is ready")
    assert process.returncode == 0
    if sys.platform != "win32":  # which keeps files of a killed kernel for a moment
        assert [path for folder in folders for path in folder.rglob("*")] == []


def test_it_runs_in_a_cell_where_a_loop_runs(monkeypatch):
    # It runs no loop, and takes longest.
    monkeypatch.setattr(preflight_kernel, "_jupyterlab_version", lambda: "4")

    async def cell():
        return list(preflight.run())

    results = asyncio.run(cell())
    assert [result.name for result in results] == NAMES
    assert [str(result) for result in results if not result.ok] == []
    assert psutil.Process().children(recursive=True) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no make")
def test_make_check_runs_it():
    process = subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True)
    # Where make runs the tests, it also says which folder it enters and leaves.
    assert ".venv/bin/python -m helpers.preflight" in process.stdout.splitlines()


# ---- what is said, and the exit code


@pytest.fixture
def checks(monkeypatch):
    """The checks that a run makes, for a test to fill."""
    checks = {}
    monkeypatch.setattr(preflight, "CHECKS", checks)
    return checks


def test_one_that_fails_fails_all_and_is_named(checks, capsys):
    def fails():
        raise preflight.Fault("it is away.", "Bring it back.")

    checks.update(one=lambda: "there", two=fails, three=lambda: "there too")
    assert preflight.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "[ OK ] one: there",
        "[FAIL] two: it is away. Bring it back.",
        "[ OK ] three: there too",
        "1 of 3 checks failed: two. Begin with the first.",
    ]


def test_whatever_a_check_raises_becomes_its_line(checks, capsys):
    def breaks():
        raise ZeroDivisionError("a message\nin two lines")

    checks.update(one=breaks)
    assert preflight.main() == 1
    line, _ = capsys.readouterr().out.splitlines()
    assert line.startswith("[FAIL] one: ZeroDivisionError: a message in two lines ")
    assert "`make test`" in line


def test_a_check_that_hangs_holds_up_nobody(checks, monkeypatch):
    monkeypatch.setattr(preflight, "CHECK_TIMEOUT_S", 0.1)
    release = threading.Event()
    checks.update(one=release.wait, two=lambda: "there")
    hung, other = preflight.run()
    release.set()
    assert str(hung).startswith("[FAIL] one: no result within 0.1 s. ")
    assert str(other) == "[ OK ] two: there"


def test_an_interrupt_ends_it(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(preflight, "run", interrupted)
    assert preflight.main() == 130


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupt_while_a_kernel_runs_leaves_nothing(tmp_path):
    # A process that a script started in the background ignores SIGINT, and so would its children.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "helpers.preflight"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        while not (kernels := kernels_of(process)):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(RUN_TIMEOUT_S) == 130
        assert process.stderr.read() == b""
    signal.signal(signal.SIGINT, earlier)
    assert psutil.wait_procs(kernels, RUN_TIMEOUT_S)[1] == []
    assert list(tmp_path.iterdir()) == []


def kernels_of(process):
    found = []
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.Error):  # it has ended
            if "ipykernel_launcher" in child.cmdline():
                found.append(child)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports a closed pipe otherwise")
def test_a_reader_that_has_enough_ends_it_without_a_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.preflight"],
        cwd=ROOT,
        # With it, what could not be printed would not be tried again at the end.
        env={name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline().startswith(b"[ OK ] Python: ")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(RUN_TIMEOUT_S) == 1


# ---- Python


def pretend_python(monkeypatch, *version):
    fake = SimpleNamespace(version_info=version, executable="/usr/bin/python", prefix=sys.prefix)
    monkeypatch.setattr(preflight_environment, "sys", fake)


def test_a_python_that_is_too_old_ends_it(monkeypatch, capsys):
    pretend_python(monkeypatch, 3, 10, 14)
    assert preflight.main() == 1
    line, summary = capsys.readouterr().out.splitlines()
    assert line == (
        "[FAIL] Python: 3.10.14 is too old, so nothing else was tried. Install Python 3.11 to "
        "3.14, then `make lab PYTHON=/path/to/it`."
    )
    assert summary == "1 of 7 checks failed: Python. Begin with the first."


def test_a_python_that_is_newer_than_those_tested_is_told(monkeypatch):
    pretend_python(monkeypatch, 3, 15, 0)
    assert str(result_of("Python")) == (
        "[ OK ] Python: 3.15.0, tested up to 3.14, at /usr/bin/python"
    )


def test_the_pythons_are_those_of_the_readme():
    oldest, newest = preflight_environment.OLDEST, preflight_environment.NEWEST_TESTED
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "With Python {}.{} to {}.{} and".format(*oldest, *newest) in readme


@pytest.mark.parametrize("part", preflight_environment.OPTIONAL_PARTS)
def test_a_python_that_was_built_without_a_part_ends_it(monkeypatch, part):
    monkeypatch.setitem(sys.modules, part, None)
    (result,) = preflight.run()
    assert f"was built without {part} (" in result.seen
    assert "Take another Python" in result.remedy


@pytest.mark.parametrize("module", MODULES + DOORS, ids=lambda module: module.__name__)
def test_an_old_python_without_packages_can_read_it(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))
    names = {module.__name__ for module in MODULES}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported(node):
                assert name.split(".")[0] in sys.stdlib_module_names or name in names


# ---- packages


def imported(node):
    return [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]


def test_without_any_package_there_are_lines_and_no_traceback(tmp_path):
    process = run_as_program("-S", cwd=tmp_path)
    assert process.stderr == ""
    assert process.returncode == 1
    *lines, summary = process.stdout.splitlines()
    assert [line[:6] for line in lines] == [
        "[ OK ]",
        "[FAIL]",
        "[ OK ]",
        "[ OK ]",
        "[FAIL]",
        "[FAIL]",
        "[FAIL]",
    ]
    missing = ", ".join(preflight_environment.NEEDED)
    assert lines[1].startswith(f"[FAIL] Packages: {missing} missing. ")
    assert "httpx2 is missing. " in lines[5]
    assert summary.startswith("4 of 7 checks failed: Packages, Certificates, HTTP/3 stream, ")


def test_what_is_needed_is_what_is_imported():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "helpers").rglob("*.py")]
    for name in filter(shipped.is_as_shipped, shipped.names()):
        for cell in json.loads((shipped.FOLDER / name).read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                sources.append("".join(cell["source"]))
    found = set()
    for source in sources:
        for node in ast.walk(ast.parse(MAGIC.sub("", source))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                found.update(name.split(".")[0] for name in imported(node))
    found -= {"helpers", *sys.stdlib_module_names}
    assert {COMES_WITH.get(name, name) for name in found} == set(preflight_environment.NEEDED)


def test_each_package_that_is_needed_is_pinned():
    assert set(preflight_environment.NEEDED) <= set(preflight_environment._pinned())


def test_a_pin_of_another_system_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight_environment, "ROOT", tmp_path)
    (tmp_path / "requirements.txt").write_text(
        'one==1.0  # as\none==2.0; sys_platform == "elsewhere"\n#two==3\ntwo==4; python_version>"3"'
    )
    assert preflight_environment._pinned() == {"one": "1.0", "two": "4"}


def pretend_installed(monkeypatch, **versions):
    versions = preflight_environment._pinned() | versions
    monkeypatch.setattr(preflight_environment, "_version", versions.get)


def test_a_package_that_is_missing(monkeypatch):
    pretend_installed(monkeypatch, trustme=None)
    assert failure_of("Packages").startswith("[FAIL] Packages: trustme missing. ")


def test_another_aioquic_is_refused_with_the_version_that_is_needed(monkeypatch):
    pinned = preflight_environment._pinned()["aioquic"]
    pretend_installed(monkeypatch, aioquic="9.9")
    assert f"aioquic is 9.9, and has to be {pinned}: " in failure_of("Packages")


def test_another_version_of_another_package_is_told(monkeypatch):
    pinned = preflight_environment._pinned()["httpx2"]
    pretend_installed(monkeypatch, httpx2="9.9")
    result = result_of("Packages")
    assert result.ok
    assert result.seen.endswith(f"in requirements.txt, but httpx2 9.9 instead of {pinned}")


def test_a_package_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "trustme.py").write_text("raise ImportError('DLL load failed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    line = failure_of("Packages")
    assert "trustme cannot be imported: ImportError: DLL load failed. " in line


def test_an_import_that_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight_environment, "PROCESS_TIMEOUT_S", 1.0)
    (tmp_path / "aioquic.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "did not end within 1 s. The first time takes longest, " in failure_of("Packages")


def test_how_to_install_depends_on_whose_python_this_is(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight_environment, "ROOT", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    executable = str(tmp_path / "my python")
    fake = SimpleNamespace(prefix=str(tmp_path / "other"), executable=executable)
    monkeypatch.setattr(preflight_environment, "sys", fake)
    pip = f'Install: "{executable}" -m pip install -r "{tmp_path / "requirements.txt"}"'
    assert preflight_environment.how_to_install() == pip
    (tmp_path / ".venv").mkdir()
    assert preflight_environment.how_to_install() == (
        f"This is {executable}, and the workbook's Python is in {tmp_path / '.venv'}: use that one."
    )
    fake.prefix = str(tmp_path / ".venv")
    anew = "Make the environment anew: `make clean`, then `make lab`."
    assert preflight_environment.how_to_install() == (pip if os.name == "nt" else anew)


def test_where_uv_made_the_environment_it_is_uv_that_installs(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight_environment, "ROOT", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    assert preflight_environment.how_to_install() == (
        f'Install: uv pip install --python "{sys.executable}" -r "{tmp_path / "requirements.txt"}"'
    )


# ---- UDP


@pytest.fixture
def sockets(monkeypatch):
    """Sets how sockets of the checks differ from real ones: `sockets(send=..., bind=...)`."""
    monkeypatch.setattr(preflight, "UDP_TIMEOUT_S", 0.1)

    def differ(**methods):
        monkeypatch.setattr(socket, "socket", type("Socket", (socket.socket,), methods))

    return differ


def test_datagrams_that_do_not_arrive(sockets):
    sockets(send=lambda self, data: len(data))
    for family in ("IPv4", "IPv6"):
        line = failure_of(f"UDP over {family}")
        assert "a datagram of 1200 bytes had not arrived after 0.1 s. Something on this" in line
        assert "make an exception for Python." in line
    assert line.endswith("Notebooks work without: clients try IPv4 first.")


def test_a_firewall_that_refuses_to_send(sockets):
    def refuse(self, data):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    sockets(send=refuse)
    assert "Operation not permitted. Something on this machine" in failure_of("UDP over IPv4")


def test_datagrams_that_arrive_damaged(sockets):
    sockets(send=lambda self, data: socket.SocketType.send(self, data[1:]))
    assert "1198 other bytes than were sent. " in failure_of("UDP over IPv4")


def test_a_machine_without_ipv6_is_ready(sockets, monkeypatch):
    def bind(self, address):
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    sockets(bind=bind)
    result = result_of("UDP over IPv6")
    assert (result.ok, result.seen) == (True, "none on this machine; the helpers do without")
    assert "Cannot assign requested address. " in failure_of("UDP over IPv4")
    monkeypatch.setattr(socket, "has_ipv6", False)
    result = result_of("UDP over IPv6")
    assert (result.ok, result.seen) == (True, "none in this Python; the helpers do without")


def test_what_it_takes_for_no_ipv6_the_server_takes_for_that_too():
    taken = {number for number in errno.errorcode if means_unavailable(OSError(number, ""))}
    assert taken == set(preflight.UNAVAILABLE)


# ---- certificates


def test_a_clock_that_was_never_set(monkeypatch):
    monkeypatch.setattr(preflight.time, "time", lambda: 0.0)
    line = failure_of("Certificates")
    assert "clock says 1970-01-01 00:00 UTC, and this checkout is of 20" in line
    assert "Set the clock" in line


def test_a_certificate_that_is_not_valid_now(monkeypatch):
    monkeypatch.setattr(certificates, "CLOCK_SKEW", timedelta(days=3))
    monkeypatch.setattr(certificates, "VALIDITY", timedelta(days=-1))
    line = failure_of("Certificates")
    assert "one made now is valid from 20" in line
    assert line.endswith("Set this machine's clock.")


def test_without_a_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.tempfile, "tempdir", str(tmp_path / "away"))
    line = failure_of("Certificates")
    assert f"See to {tmp_path / 'away'}, or name another folder in TMPDIR" in line


def test_certificates_that_cannot_be_written(monkeypatch):
    def full(files, names):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(certificates, "create", full)
    line = failure_of("Certificates")
    assert "No space left on device" in line
    assert "or name another folder in TMPDIR" in line


# ---- one stream


def test_lines_that_are_held_up_until_the_end(monkeypatch):
    async def keep(response):
        pass

    monkeypatch.setattr(preflight, "LINE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(Response, "flush", keep)
    line = failure_of("HTTP/3 stream")
    assert "'data chunk #0' was flushed, and had not arrived 0.1 s later. " in line


def test_a_busy_machine_is_no_fault(monkeypatch):
    flush = Response.flush

    async def flush_late(response):
        # The line comes when several others were due.
        asyncio.get_running_loop().call_later(0.05, asyncio.ensure_future, flush(response))

    monkeypatch.setattr(preflight, "LINE_EVERY_S", 0.01)
    monkeypatch.setattr(Response, "flush", flush_late)
    assert result_of("HTTP/3 stream").ok


def test_other_lines_than_were_written(monkeypatch):
    write = Response.write

    async def write_twice(response, text):
        await write(response, text + text)

    monkeypatch.setattr(Response, "write", write_twice)
    line = failure_of("HTTP/3 stream")
    assert "['data chunk #0', 'data chunk #0', " in line
    assert "`git diff helpers`" in line


def test_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(Server, "url", lambda self, path: "https://127.0.0.1:9/stream")
    line = failure_of("HTTP/3 stream")
    assert "No HTTP/3 server answered at 127.0.0.1:9 (UDP)" in line
    assert "See to UDP and the certificates first" in line


# ---- JupyterLab and its kernel


@pytest.fixture
def kernel_spec(tmp_path, monkeypatch):
    """Puts a kernel before all others: `kernel_spec(argv, env)`, returns its folder."""
    monkeypatch.setattr(preflight_kernel, "_jupyterlab_version", lambda: "4.0")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    folder = tmp_path / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)

    def write(argv, env=None):
        spec = {"argv": argv, "display_name": "Mine", "language": "python", "env": env or {}}
        (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        return folder

    yield write
    assert psutil.Process().children(recursive=True) == []


LAUNCH = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]


@pytest.fixture
def other_python(tmp_path):
    """The interpreter of another environment, which has no packages."""
    venv.create(tmp_path / "other", symlinks=os.name != "nt")
    folder = "Scripts" if os.name == "nt" else "bin"
    return str(tmp_path / "other" / folder / "python")


def test_a_kernel_of_ones_own_that_is_this_python_is_fine(kernel_spec):
    kernel_spec(["python", *LAUNCH])
    assert result_of("JupyterLab").seen.startswith("4.0, and its kernel is this Python")


def test_a_kernel_that_is_another_python(kernel_spec, other_python, tmp_path):
    ours = sysconfig.get_paths()["purelib"]
    folder = kernel_spec([other_python, *LAUNCH], env={"PYTHONPATH": ours})
    line = failure_of("JupyterLab")
    assert f"the kernel in {folder} is Python " in line
    assert f" in {tmp_path / 'other'}, and this is " in line
    assert f"Move {folder} away, which hides this environment's own kernel" in line


def test_a_kernel_that_is_a_python_without_ipykernel(kernel_spec, other_python):
    folder = kernel_spec([other_python, *LAUNCH])
    line = failure_of("JupyterLab")
    assert f"the kernel in {folder} runs {other_python} and does not answer: " in line
    assert "No module named ipykernel_launcher). Move " in line


def test_a_kernel_whose_python_was_removed(kernel_spec, tmp_path):
    folder = kernel_spec([str(tmp_path / "removed"), *LAUNCH])
    line = failure_of("JupyterLab")
    assert f"the kernel in {folder} runs {tmp_path / 'removed'} and does not answer: " in line
    assert f"Move {folder} away" in line


def test_a_kernel_that_never_answers(kernel_spec, monkeypatch):
    monkeypatch.setattr(preflight_kernel, "KERNEL_TIMEOUT_S", 1.0)
    folder = kernel_spec([sys.executable, "-c", "import time; time.sleep(120)"])
    line = failure_of("JupyterLab")
    assert f"does not answer: Kernel didn't respond in 1 seconds. Move {folder} away" in line


def test_a_kernel_of_the_environment_that_breaks_is_installed_anew(kernel_spec, monkeypatch):
    folder = kernel_spec([sys.executable, "-c", "raise SystemExit('broken')"])
    monkeypatch.setattr(preflight_kernel.sys, "prefix", str(folder.parent))
    monkeypatch.setattr(preflight_kernel, "how_to_install", lambda: "Install it.")
    assert failure_of("JupyterLab").endswith(" (it says: broken). Install it.")


def test_no_kernel_at_all(kernel_spec, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def none(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    assert "Jupyter knows no kernel python3. " in failure_of("JupyterLab")


def test_a_jupyterlab_that_does_not_start(tmp_path, monkeypatch):
    (tmp_path / "jupyterlab.py").write_text("raise ImportError('tornado is too old')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # A heartbeat would outlive the check that ends early; here it fails the test if it begins.
    monkeypatch.setattr(HBChannel, "run", lambda channel: 1 / 0)
    line = failure_of("JupyterLab")
    assert "it does not start: ImportError: tornado is too old. " in line


def test_a_home_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "home" / "runtime"))
    (tmp_path / "home").mkdir()
    can_write = os.access

    def access(path, mode):  # root may write anywhere
        return Path(path) != tmp_path / "home" and can_write(path, mode)

    monkeypatch.setattr(os, "access", access)
    line = failure_of("JupyterLab")
    assert f"it keeps files in {tmp_path / 'home' / 'runtime'}, and {tmp_path / 'home'} " in line
    assert "Give it a home that can: " in line
