"""Each check knows a right answer, and names the cause of the wrong ones that learners give."""

import threading
import time
from datetime import UTC, datetime

import pytest
from aioquic import tls
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from helpers.certificates import Credentials, load_or_create
from helpers.checks import certificates as checks_certificates
from helpers.checks import check_accepts, check_bundle, check_second_name
from helpers.checks.certificates import refusal
from helpers.checks.verdict import State


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exercises")


@pytest.fixture(scope="module")
def first(folder):
    return load_or_create(folder / "first")


@pytest.fixture(scope="module")
def second(folder):
    return load_or_create(folder / "second")


def assert_wrong(verdict, *causes):
    text = " ".join(str(verdict).split())
    assert verdict.state is State.WRONG, text
    for cause in causes:
        assert cause in text


# the oracle


def test_the_oracle_accepts_what_is_right_and_says_why_it_refuses(first, second):
    assert refusal(first, first.ca_file, "localhost") is None
    assert refusal(first, first.ca_file, "127.0.0.1") is None
    assert "not valid for 'x.test'" in refusal(first, first.ca_file, "x.test")
    assert refusal(first, second.ca_file, "localhost") == "unable to get local issuer certificate"


# a second name


def test_a_second_name_is_accepted(folder, first):
    answer = load_or_create(folder / "both", ("localhost", "stream.test"))
    assert check_second_name(answer, first).state is State.SOLVED
    assert "localhost, stream.test" in str(check_second_name(answer, first))


def test_no_second_name_yet(first):
    assert check_second_name(..., first).state is State.UNSOLVED


def test_the_new_name_instead_of_the_old_one(folder, first):
    answer = load_or_create(folder / "instead", "stream.test")
    verdict = check_second_name(answer, first)
    assert_wrong(verdict, "'localhost' now refuses", "takes the place of the usual ones")


def test_a_url_or_another_name_instead_of_the_name(folder, first):
    answer = load_or_create(folder / "another", ("localhost", "www.stream.test"))
    verdict = check_second_name(answer, first)
    assert_wrong(verdict, "'stream.test' refuses", "It is for localhost, www.stream.test")


def test_the_folder_that_all_notebooks_share(folder, first):
    verdict = check_second_name(first, first)
    assert_wrong(verdict, "files that all notebooks share", "directory of its own")


def test_the_ca_of_another_folder(folder, first, second):
    answer = load_or_create(folder / "mixed", ("localhost", "stream.test"))
    mixed = Credentials(second.ca_file, answer.cert_file, answer.key_file)
    assert_wrong(check_second_name(mixed, first), "unable to get local issuer certificate")
    mixed = Credentials(answer.ca_file, answer.cert_file, second.key_file)
    assert_wrong(check_second_name(mixed, first), "does not match the certificate")


@pytest.mark.parametrize("answer", [None, "certs", ("localhost", "stream.test")])
def test_something_else_than_credentials(answer, first):
    assert_wrong(check_second_name(answer, first), repr(answer), "what `load_or_create` returns")


# two CAs, one client


def bundle_of(folder, *files):
    bundle = folder / "bundle.pem"
    bundle.write_bytes(b"".join(file.read_bytes() for file in files))
    return bundle


def test_a_file_with_both_cas(folder, first, second):
    bundle = bundle_of(folder, first.ca_file, second.ca_file)
    assert check_bundle(bundle, first, second).state is State.SOLVED
    assert check_bundle(str(bundle), first, second).state is State.SOLVED


def test_no_bundle_yet(first, second):
    assert check_bundle(..., first, second).state is State.UNSOLVED


def test_a_file_with_one_ca(folder, first, second):
    verdict = check_bundle(first.ca_file, first, second)
    assert_wrong(verdict, "refuses the second server", "holds 1 certificate(s)")
    verdict = check_bundle(bundle_of(folder, second.ca_file, second.ca_file), first, second)
    assert_wrong(verdict, "refuses the first server", "holds 2 certificate(s)")


def test_the_servers_certificates_in_the_place_of_their_cas(folder, first, second):
    bundle = bundle_of(folder, first.cert_file, second.cert_file)
    assert_wrong(check_bundle(bundle, first, second), "holds no root CA")


def test_a_missing_file_and_no_path_at_all(folder, first, second):
    assert_wrong(check_bundle(folder / "nowhere.pem", first, second), "does not exist")
    assert_wrong(check_bundle(1270, first, second), "This is 1270", "path of the file")


def test_a_bundle_that_trusts_everybody(folder, first, second, monkeypatch):
    """A third server's CA among them: what the check draws at random is made known here."""
    third = load_or_create(folder / "third")
    monkeypatch.setattr(checks_certificates, "load_or_create", lambda folder: third)
    bundle = bundle_of(folder, first.ca_file, second.ca_file, third.ca_file)
    assert_wrong(check_bundle(bundle, first, second), "neither CA vouches for")


# be the client


def load(file):
    return x509.load_pem_x509_certificate(file.read_bytes())


def signed(cert_file, ca_file):
    try:
        load(cert_file).verify_directly_issued_by(load(ca_file))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def names_of(cert_file):
    extensions = load(cert_file).extensions
    alternatives = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(alternative.value) for alternative in alternatives]


def begun(cert_file):
    return load(cert_file).not_valid_before_utc <= datetime.now(UTC)


def not_over(cert_file):
    return datetime.now(UTC) <= load(cert_file).not_valid_after_utc


def right(cert_file, ca_file, name):
    in_time = begun(cert_file) and not_over(cert_file)
    return signed(cert_file, ca_file) and name in names_of(cert_file) and in_time


def never_signed(cert_file, ca_file, name):
    issuer_fits = load(cert_file).issuer == load(ca_file).subject
    return issuer_fits and name in names_of(cert_file) and begun(cert_file) and not_over(cert_file)


def any_name(cert_file, ca_file, name):
    return signed(cert_file, ca_file) and begun(cert_file) and not_over(cert_file)


def part_of_a_name(cert_file, ca_file, name):
    in_time = begun(cert_file) and not_over(cert_file)
    return signed(cert_file, ca_file) and name in str(names_of(cert_file)) and in_time


def first_name_only(cert_file, ca_file, name):
    return right(cert_file, ca_file, name) and name == names_of(cert_file)[0]


def host_names_only(cert_file, ca_file, name):
    extensions = load(cert_file).extensions
    alternatives = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return right(cert_file, ca_file, name) and name in alternatives.get_values_for_type(
        x509.DNSName
    )


def for_ever(cert_file, ca_file, name):
    return signed(cert_file, ca_file) and name in names_of(cert_file) and begun(cert_file)


def from_ever(cert_file, ca_file, name):
    return signed(cert_file, ca_file) and name in names_of(cert_file) and not_over(cert_file)


def lets_it_raise(cert_file, ca_file, name):
    load(cert_file).verify_directly_issued_by(load(ca_file))
    return right(cert_file, ca_file, name)


def forgets_to_return(cert_file, ca_file, name):
    right(cert_file, ca_file, name)


def says_no(cert_file, ca_file, name):
    return False


async def is_async(cert_file, ca_file, name):
    return right(cert_file, ca_file, name)


def takes_too_little(cert_file):
    return True


def test_the_three_questions_are_enough():
    verdict = check_accepts(right)
    assert verdict.state is State.SOLVED
    assert "All 8 certificates" in str(verdict)


def test_no_questions_yet():
    assert check_accepts(lambda cert_file, ca_file, name: ...).state is State.UNSOLVED


@pytest.mark.parametrize(
    ("accepts", "causes"),
    [
        (never_signed, ["another CA", "returned True", "`verify_directly_issued_by`"]),
        (any_name, ["another name", "returned True"]),
        (part_of_a_name, ["half of a name", "has to be equal"]),
        (first_name_only, ["a name that it holds", "returned False"]),
        (host_names_only, ["an address that it holds", "not as text"]),
        (for_ever, ["expired", "`not_valid_after_utc`"]),
        (from_ever, ["begins tomorrow", "`not_valid_before_utc`"]),
        (lets_it_raise, ["another CA", "raised InvalidSignature", "raises where it does not fit"]),
        (forgets_to_return, ["returned None", "return True or False"]),
        (says_no, ["without fault", "returned False"]),
        (is_async, ["`async def`", "Write `def`"]),
        (takes_too_little, ["raised TypeError"]),
        (True, ["This is True, no function"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_wrong_answer_overlooks_is_named(accepts, causes):
    assert_wrong(check_accepts(accepts), *causes)


def test_an_answer_that_never_comes(monkeypatch):
    monkeypatch.setattr(checks_certificates, "ANSWER_TIMEOUT_S", 0.2)
    stuck = threading.Event()
    started = time.monotonic()
    verdict = check_accepts(lambda *_: stuck.wait(30))
    took_s = time.monotonic() - started
    stuck.set()
    assert_wrong(verdict, "did not return within 0.2 s")
    assert took_s < 30 / 2


def test_the_cases_are_judged_by_aioquic_as_the_check_expects(tmp_path):
    for case in checks_certificates._cases(tmp_path):
        try:
            tls.verify_certificate(load(case.cert_file), [], case.name, cafile=str(case.ca_file))
            accepted = True
        except tls.Alert:
            accepted = False
        assert accepted == case.expected, case.title
