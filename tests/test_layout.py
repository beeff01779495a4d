"""The house's rules, as far as a test can see them: who imports whom, and who touches what."""

import ast
import importlib
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Protocol

import pytest

from tests import shipped

ROOT = Path(__file__).parent.parent
HELPERS = ROOT / "helpers"
MODULES = sorted(path for path in HELPERS.rglob("*.py") if path.name != "__init__.py")
DOORS = sorted(path for path in HELPERS.glob("*/__init__.py"))
# The one room that relies on what aioquic does not promise.
INSIDE = HELPERS / "connection" / "aioquic_inside"

# From the ground up; the rooms of one floor do not import each other.
FLOORS = [
    {"clock", "display", "errors"},
    {"background"},
    {"certificates", "desk", "http2", "link", "stream", "timeline", "wire"},
    {"connection", "exchange"},
    {"client", "server"},
    {"__main__", "browser", "checks", "preflight"},
]
# What watches a run, or stands in its way, is the program's: those who run know nothing of it.
UNKNOWN_TO = {room: {"desk", "http2", "link", "timeline", "wire"} for room in ("client", "server")}
SHOWN = {"Makefile", "README.md", "helpers", "notebooks", "requirements.txt", "tests"}
# What Windows does not have, or not in the same sense: its os.kill ends the process.
NOT_ON_WINDOWS = {
    "asyncio": {"DefaultChildWatcher", "create_unix_server", "open_unix_connection"},
    "os": {"fork", "getuid", "geteuid", "kill", "killpg", "mkfifo", "setsid", "uname"},
    "signal": {"SIGHUP", "SIGKILL", "SIGSTOP", "SIGUSR1", "alarm", "pthread_kill", "setitimer"},
    "socket": {"AF_UNIX", "SO_REUSEPORT"},
    "time": {"clock_gettime", "tzset"},
}
MODULES_NOT_ON_WINDOWS = {"fcntl", "grp", "pty", "pwd", "resource", "termios"}
METHODS_NOT_ON_WINDOWS = {"add_signal_handler", "send_signal"}
# Python's library reference documents it: for special purposes, hence the underscore.
DOCUMENTED = {"sys._current_frames"}
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def name_of(path):
    """How a module of the helpers is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(path):
    """The folder, or the module that stands alone, right below helpers/."""
    return path.relative_to(HELPERS).with_suffix("").parts[0]


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def imports_of_the_helpers(tree):
    """What a module imports of helpers/, as dotted names, in whichever way it writes that."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the whole path says which file to open"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "helpers" and "." in name)


def test_the_top_level_shows_six_entries():
    shown = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert shown >= SHOWN
    others = sorted(shown - SHOWN - {"certs", "__pycache__"})  # those two are made by running it
    shipped.none_but_a_learners(others)


def test_the_package_holds_a_docstring_alone():
    body = parse(ROOT / "helpers" / "__init__.py").body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)


def test_the_docstring_of_the_package_names_each_module():
    """It is the table of contents, in the order for reading."""
    named = re.findall(r"\w+", ast.get_docstring(parse(HELPERS / "__init__.py")))
    assert {path.stem for path in MODULES if path.stem != "__main__"} <= set(named)
    assert {room for room in FLOOR_OF if room != "__main__"} <= set(named)


def test_each_room_has_its_floor():
    rooms = {room_of(path) for path in MODULES}
    assert rooms == set(FLOOR_OF)
    assert {path.parent.name for path in DOORS} == {room for room in rooms if is_folder(room)}


def is_folder(room):
    return (HELPERS / room).is_dir()


@pytest.mark.parametrize("path", MODULES + DOORS, ids=name_of)
def test_a_room_imports_only_rooms_below_it(path):
    room = room_of(path)
    below = {other for rooms in FLOORS[: FLOOR_OF[room]] for other in rooms}
    allowed = (below | {room}) - UNKNOWN_TO.get(room, set())
    assert {name.split(".")[1] for name in imports_of_the_helpers(parse(path))} <= allowed


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_is_entered_through_its_door(path):
    """What others need of a folder is in its `__init__`, and may move about inside."""
    past_the_door = []
    for name in imports_of_the_helpers(parse(path)):
        _, room, *rest = name.split(".")
        if room != room_of(path) and is_folder(room) and len(rest) != 1:
            past_the_door.append(name)
    assert not past_the_door


@pytest.mark.parametrize("path", DOORS, ids=name_of)
def test_a_door_only_opens(path):
    """Three lines that say what is behind it; names that are behind it, or what it raises."""
    docstring, *body = parse(path).body
    assert isinstance(docstring, ast.Expr)
    named = []
    for statement in body:
        if isinstance(statement, ast.ImportFrom):
            inside = statement.module.startswith(name_of(path) + ".")
            assert inside or statement.module == "helpers.errors"
            named += [alias.name for alias in statement.names]
        else:
            assert ast.unparse(statement.targets[0]) == "__all__"
            assert ast.literal_eval(statement.value) == sorted(named, key=ruff_order)


@pytest.mark.parametrize("path", [*DOORS, INSIDE / "__init__.py"], ids=name_of)
def test_a_door_names_the_failure_that_its_room_is_there_for(path):
    assert re.search(r"^Without it: \w.+\.$", ast.get_docstring(parse(path)), re.M | re.S)


def ruff_order(name):
    """Constants, then classes, then functions: as ruff sorts `__all__`."""
    return (not name.isupper(), not name[0].isupper(), name)


def test_the_inside_of_aioquic_is_known_to_its_neighbours_alone():
    inside = name_of(INSIDE / "__init__.py")
    for path in MODULES:
        if path.parent not in (INSIDE, INSIDE.parent):
            assert not [n for n in imports_of_the_helpers(parse(path)) if n.startswith(inside)]
    for path in INSIDE.glob("*.py"):
        names = [
            n for n in imports_of_the_helpers(parse(path)) if n.startswith("helpers.connection")
        ]
        assert all(name.startswith(inside) for name in names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_private_names_of_others_are_touched_inside_of_aioquic_alone(path):
    if path.parent == INSIDE:
        return
    tree = parse(path)
    touched = [*private_attributes(tree), *private_imports(tree), *private_strings(tree)]
    assert not touched


def private_attributes(tree):
    """Private attributes that no class of the same module has given itself."""
    attributes = [
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_private(node.attr)
    ]
    methods = {node.name for node in ast.walk(tree) if isinstance(node, FUNCTIONS)}
    own = methods | {node.attr for node in attributes if is_on_self(node)}
    for node in attributes:
        is_own = node.attr in own and node.attr != "_quic"  # aioquic's H3Connection has it
        if not is_own and ast.unparse(node) not in DOCUMENTED:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def is_on_self(node):
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def private_imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            path = getattr(node, "module", None) or ""
            for alias in node.names:
                if any(is_private(part) for part in [*path.split("."), *alias.name.split(".")]):
                    yield f"line {node.lineno}: import of {path} {alias.name}"


def private_strings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("getattr", "setattr", "delattr", "hasattr"):
                name = node.args[1]
                if not isinstance(name, ast.Constant) or is_private(name.value):
                    yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_is_inherited_from_aioquic_stays_untouched_elsewhere(path):
    if path.parent == INSIDE or path.stem == "__main__":
        return
    module = importlib.import_module(name_of(path))
    for cls in vars(module).values():
        if inspect.isclass(cls) and cls.__module__ == module.__name__:
            inherited = set()
            for base in cls.__mro__:
                if base.__module__.startswith("aioquic."):
                    inherited |= private_names_of(base)
            assert not private_names_of(cls) & inherited, cls


def private_names_of(cls):
    """The private attributes and methods that a class names on itself in its source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    methods = {name for name, value in vars(cls).items() if callable(value)}
    return {name for name in attributes | methods if is_private(name)}


@pytest.mark.parametrize("path", MODULES + DOORS, ids=name_of)
def test_what_is_public_has_a_docstring(path):
    module = importlib.import_module(name_of(path))
    assert module.__doc__
    assert not [name for name, thing in public_things(module) if not inspect.getdoc(thing)]


def public_things(module):
    """Functions and classes, and the methods of classes; a protocol speaks for its methods."""
    for name, thing in vars(module).items():
        if getattr(thing, "__module__", "") != module.__name__ or name.startswith("_"):
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield name, thing
        if inspect.isclass(thing) and Protocol not in thing.__bases__:
            for member, value in vars(thing).items():
                if not member.startswith("_") and is_method(value):
                    yield f"{name}.{member}", getattr(thing, member)


def is_method(value):
    return inspect.isroutine(value) or isinstance(value, property)


def notebook_code(path):
    """A notebook's cells as one program; lines for IPython alone become empty."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code").split("\n")
    return "\n".join(
        "" if line.startswith(("%", "!")) or line.endswith("?") else line for line in lines
    )


@pytest.mark.parametrize(
    "path",
    [
        *MODULES,
        *sorted((ROOT / "tests").rglob("*.py")),
        *(shipped.FOLDER / name for name in shipped.names() if shipped.is_as_shipped(name)),
    ],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_what_windows_lacks_is_used_behind_a_question_for_the_system(path):
    source = notebook_code(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    assert not list(unguarded(ast.parse(source)))


def unguarded(tree):
    """What Windows lacks, outside of an `if` and of a test or module that is skipped there."""
    marks = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)]
    if any(mark.startswith("pytestmark") and "win32" in mark for mark in marks):
        return
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and asks_for_the_system(node.test):
            continue
        if isinstance(node, FUNCTIONS) and any(map(asks_for_the_system, node.decorator_list)):
            continue
        if is_not_on_windows(node):
            yield f"line {node.lineno}: {ast.unparse(node)}"
        waiting += ast.iter_child_nodes(node)


def asks_for_the_system(node):
    said = ast.unparse(node)
    return "sys.platform" in said or "os.name" in said or "hasattr(" in said


def is_not_on_windows(node):
    if isinstance(node, ast.Attribute):
        module = node.value.id if isinstance(node.value, ast.Name) else ""
        absent = NOT_ON_WINDOWS.get(module, set())
        return node.attr in absent or node.attr in METHODS_NOT_ON_WINDOWS
    if isinstance(node, ast.ImportFrom):
        absent = NOT_ON_WINDOWS.get(node.module, set())
        return any(alias.name in absent for alias in node.names)
    if isinstance(node, ast.Import):
        return any(alias.name in MODULES_NOT_ON_WINDOWS for alias in node.names)
    return False
