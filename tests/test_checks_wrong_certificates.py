"""Wrong answers to the exercises on certificates, as learners give them: the cause is named."""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from helpers.certificates import Credentials, load_or_create
from helpers.checks import certificates as checks_certificates
from helpers.checks import check_accepts, check_bundle, check_second_name
from helpers.checks.verdict import State
from tests.test_checks_certificates import begun, load, names_of, not_over, right, signed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("wrong")


@pytest.fixture(scope="module")
def first(folder):
    return load_or_create(folder / "first")


@pytest.fixture(scope="module")
def second(folder):
    return load_or_create(folder / "second")


@pytest.fixture(scope="module")
def both(folder):
    return load_or_create(folder / "both", ("localhost", "stream.test"))


def said(verdict, state=State.WRONG):
    text = " ".join(str(verdict).split())
    assert verdict.state is state, text
    assert len(text) < 900
    return text


# ---- 01.1, check_second_name


def issued(folder, *names, **validity):
    """Credentials for these names, of a CA of their own."""
    folder.mkdir(exist_ok=True)
    ca = trustme.CA()
    leaf = ca.issue_cert(*names, **validity)
    files = Credentials(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    ca.cert_pem.write_to_path(files.ca_file)
    leaf.cert_chain_pems[0].write_to_path(files.cert_file)
    leaf.private_key_pem.write_to_path(files.key_file)
    return files


def swapped(both, **files):
    return Credentials(**{"ca_file": both.ca_file, "cert_file": both.cert_file} | files)


SECOND_NAMES = {
    "the name only": (lambda d, _: issued(d, "stream.test"), "'localhost' now refuses"),
    "a wildcard": (lambda d, _: issued(d, "localhost", "*.test"), "It is for localhost, *.test"),
    "a misspelt name": (lambda d, _: issued(d, "localhost", "steam.test"), "'stream.test' refuses"),
    "expired": (
        lambda d, _: issued(
            d, "localhost", "stream.test", not_after=datetime(2020, 1, 1, tzinfo=UTC)
        ),
        "certificate has expired",
    ),
    "not yet": (
        lambda d, _: issued(
            d, "localhost", "stream.test", not_before=datetime(2990, 1, 1, tzinfo=UTC)
        ),
        "not yet valid",
    ),
    "key for certificate": (
        lambda d, b: Credentials(b.ca_file, b.key_file, b.cert_file),
        "holds no certificate but",
    ),
    "the certificate as its CA": (
        lambda d, b: Credentials(b.cert_file, b.cert_file, b.key_file),
        "holds no root CA",
    ),
    "a file that is not there": (
        lambda d, b: Credentials(b.ca_file, d / "nowhere.pem", b.key_file),
        "nowhere.pem does not exist",
    ),
    "texts for paths": (
        lambda d, b: Credentials("ca.pem", "cert.pem", "key.pem"),
        "Assign what `load_or_create` returns",
    ),
    "a dict": (lambda d, b: {"names": ["localhost"]}, "This is {'names': ['localhost']}"),
    "the class": (lambda d, b: Credentials, "This is <class"),
    "the function": (lambda d, b: load_or_create, "This is <function load_or_create"),
}


@pytest.mark.parametrize("name", SECOND_NAMES)
def test_second_name(name, tmp_path, both, first):
    make, cause = SECOND_NAMES[name]
    assert cause in said(check_second_name(make(tmp_path / "own", both), first))


def test_files_of_the_notebook_that_have_gone_are_named(tmp_path, both, first, second):
    gone = load_or_create(tmp_path / "gone")
    gone.ca_file.unlink()
    told = said(check_second_name(both, gone))
    assert "ca.pem is gone" in told
    assert "Run the notebook's cells again" in told
    assert "ca.pem is gone" in said(check_bundle(first.ca_file, first, gone))


# ---- 01.2, check_bundle


def text_of(*files, between=""):
    return between.join(file.read_text() for file in files)


BUNDLES = {
    "the text": (lambda a, b: text_of(a.ca_file, b.ca_file), "the text of the certificates"),
    "its bytes": (lambda a, b: text_of(a.ca_file).encode(), "the text of the certificates"),
    "two paths": (lambda a, b: [a.ca_file, b.ca_file], "Assign the path of the file"),
    "two paths in one text": (lambda a, b: f"{a.ca_file}\n{b.ca_file}", "no path"),
    "a folder": (lambda a, b: a.ca_file.parent, "is a directory"),
    "nothing": (lambda a, b: Path("nowhere.pem"), "nowhere.pem does not exist"),
    "credentials": (lambda a, b: a, "This is Credentials("),
    "None": (lambda a, b: None, "This is None"),
    "a zero in the path": (lambda a, b: "a\0b", "no result"),
}
TEXTS = {
    "no newline": (
        lambda a, b: text_of(a.ca_file).strip() + text_of(b.ca_file),
        "put a newline in between",
    ),
    "both keys": (
        lambda a, b: text_of(a.ca_file, a.key_file, b.ca_file, b.key_file),
        "holds a private key",
    ),
    "one key": (lambda a, b: text_of(a.ca_file, b.ca_file, b.key_file), "holds a private key"),
    "the paths": (lambda a, b: f"{a.ca_file}\n{b.ca_file}\n", "it has no -----BEGIN line"),
    "one server for its CA": (lambda a, b: text_of(a.ca_file, b.cert_file), "the second server"),
    "a CA twice": (lambda a, b: text_of(a.ca_file, a.ca_file), "the second server"),
    "cut short": (lambda a, b: text_of(a.ca_file, b.ca_file)[:-200], "damaged"),
    "empty": (lambda a, b: "", "is empty"),
    "a repr": (lambda a, b: repr(text_of(a.ca_file, b.ca_file)), "before a -----BEGIN on its line"),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_bundle(name, first, second):
    make, cause = BUNDLES[name]
    assert cause in said(check_bundle(make(first, second), first, second))


@pytest.mark.parametrize("name", TEXTS)
def test_bundle_of_a_wrong_text(name, first, second, tmp_path):
    make, cause = TEXTS[name]
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(make(first, second))
    assert cause in said(check_bundle(bundle, first, second))


# ---- 01.3, check_accepts


def alternatives_of(cert_file):
    extensions = load(cert_file).extensions
    return extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def in_time(cert_file):
    return begun(cert_file) and not_over(cert_file)


def name_in_objects(cert_file, ca_file, name):
    return signed(cert_file, ca_file) and name in alternatives_of(cert_file) and in_time(cert_file)


def takes_none_for_false(cert_file, ca_file, name):
    if not load(cert_file).verify_directly_issued_by(load(ca_file)):
        return False
    return name in names_of(cert_file) and in_time(cert_file)


def takes_none_for_false_and_catches(cert_file, ca_file, name):
    try:
        good = bool(load(cert_file).verify_directly_issued_by(load(ca_file)))
    except InvalidSignature:
        return False
    return good and name in names_of(cert_file) and in_time(cert_file)


def compares_common_names(cert_file, ca_file, name):
    found = load(cert_file).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    named = bool(found) and found[0].value == name
    return signed(cert_file, ca_file) and named and in_time(cert_file)


def swallows_a_mistake(cert_file, ca_file, name):
    try:
        load(cert_file).verify_directly_issued(load(ca_file))
    except Exception:
        return False
    return True


def compares_without_time_zone(cert_file, ca_file, name):
    return load(cert_file).not_valid_after_utc >= datetime.now()


def compares_without_time_zone_and_catches(cert_file, ca_file, name):
    try:
        return load(cert_file).not_valid_after_utc >= datetime.now() and right(
            cert_file, ca_file, name
        )
    except TypeError:
        return False


def reversed_times(cert_file, ca_file, name):
    named = signed(cert_file, ca_file) and name in names_of(cert_file)
    return named and load(cert_file).not_valid_before_utc >= datetime.now(UTC)


def returns_a_list(cert_file, ca_file, name):
    return [right(cert_file, ca_file, name)]


def exits(cert_file, ca_file, name):
    sys.exit(1)


def says_yes(cert_file, ca_file, name):
    return True


def compares_the_issuer_alone(cert_file, ca_file, name):
    return load(cert_file).issuer == load(ca_file).subject and in_time(cert_file)


@pytest.mark.parametrize(
    ("accepts", "causes"),
    [
        (name_in_objects, ["without fault", "one for the name", "<DNSName(value='localhost')>"]),
        (takes_none_for_false, ["without fault", "returns None, which `if` takes for False"]),
        (takes_none_for_false_and_catches, ["returns None, which `if` takes for False"]),
        (compares_common_names, ["without fault", "one for the name", "common name (CN)"]),
        (swallows_a_mistake, ["An exception was caught", "AttributeError", "line"]),
        (compares_without_time_zone, ["raised TypeError: can't compare offset-naive"]),
        (compares_without_time_zone_and_catches, ["An exception was caught", "offset-naive"]),
        (reversed_times, ["without fault", "In time? From"]),
        (returns_a_list, ["returned [True]"]),
        (exits, ["raised SystemExit: 1"]),
        (says_yes, ["another name", "returned True"]),
        (compares_the_issuer_alone, ["another name", "returned True"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_accepts(accepts, causes):
    told = said(check_accepts(accepts))
    for cause in causes:
        assert cause in told


@pytest.mark.parametrize("answer", [..., None])
def test_accepts_not_begun(answer):
    assert "Hint: there are three questions" in said(check_accepts(answer), State.UNSOLVED)


def test_accepts_that_has_no_end_is_ended(monkeypatch):
    monkeypatch.setattr(checks_certificates, "ANSWER_TIMEOUT_S", 0.3)

    def spins(cert_file, ca_file, name):
        while True:
            time.sleep(0)

    assert "a loop in it has no end" in said(check_accepts(spins))
