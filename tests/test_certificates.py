"""The three files as one set, whatever happens to them; and what is said about wrong files."""

import base64
import codecs
import contextlib
import errno
import hashlib
import os
import sqlite3
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
import trustme
from aioquic import tls
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from helpers.certificates import credentials as certificates
from helpers.certificates import describe, extensions, load_or_create, pem
from helpers.certificates.credentials import (
    Distrust,
    Trust,
    check_ca_file,
    check_key_pair,
    explain_distrust,
    spki_sha256,
)
from helpers.errors import CertificateFileError, UsageError

ROOT = Path(__file__).parent.parent


def contents(credentials):
    files = (credentials.ca_file, credentials.cert_file, credentials.key_file)
    return [file.read_bytes() for file in files]


def assert_belong_together(credentials):
    (leaf,), _ = check_key_pair(credentials.cert_file, credentials.key_file)
    tls.verify_certificate(leaf, server_name="localhost", cafile=str(credentials.ca_file))


def write_leaf(directory, ca, *names, **validity):
    leaf = ca.issue_cert(*names, **validity)
    ca.cert_pem.write_to_path(directory / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    leaf.private_key_pem.write_to_path(directory / "key.pem")


def self_signed(key, name="localhost"):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1)
    now = datetime.now(UTC)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=3))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest)


def certificate_pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key, password=None):
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, encryption)


# load_or_create


def test_a_new_set_is_valid_for_each_of_its_names(tmp_path):
    credentials = load_or_create(tmp_path / "deep" / "certs")
    assert credentials.ca_file == tmp_path / "deep" / "certs" / "ca.pem"
    assert credentials.cert_file.name == "cert.pem"
    assert credentials.key_file.name == "key.pem"
    (leaf,), _ = check_key_pair(credentials.cert_file, credentials.key_file)
    for name in ("localhost", "127.0.0.1", "::1"):
        tls.verify_certificate(leaf, server_name=name, cafile=str(credentials.ca_file))
    assert timedelta(days=89) < leaf.not_valid_after_utc - datetime.now(UTC) < timedelta(days=91)
    assert leaf.not_valid_before_utc < datetime.now(UTC)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such mode")
def test_only_the_owner_may_read_the_key(tmp_path):
    umask = os.umask(0)
    try:
        credentials = load_or_create(tmp_path)
    finally:
        os.umask(umask)
    assert credentials.key_file.stat().st_mode & 0o777 == 0o600


def test_the_default_is_certs_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_or_create().cert_file == tmp_path / "certs" / "cert.pem"
    assert (tmp_path / "certs" / "cert.pem").exists()


def test_a_set_that_serves_is_kept(tmp_path):
    before = contents(load_or_create(tmp_path))
    assert contents(load_or_create(tmp_path)) == before
    assert contents(load_or_create(tmp_path, ["LOCALHOST", "0:0:0:0:0:0:0:1"])) == before


def test_a_set_without_a_name_that_is_asked_for_is_replaced(tmp_path):
    before = contents(load_or_create(tmp_path))
    credentials = load_or_create(tmp_path, ["localhost", "bücher.test"])
    after = contents(credentials)
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert describe(credentials.cert_file).names == ("localhost", "xn--bcher-kva.test")
    assert contents(load_or_create(tmp_path, "bücher.test")) == after


ODD_NAMES = (
    "faß.test",
    "Bücher.test.",
    "localhost.",
    "*.Faß.test",
    "0:0:0:0:0:0:0:1",
    "fe80::1%eth0",
    "\uff11\uff12\uff17.0.0.1",  # digits of full width
    "XN--BCHER-KVA.test",
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_set_is_kept_however_its_name_is_written(tmp_path, name):
    before = contents(load_or_create(tmp_path, [name]))
    assert contents(load_or_create(tmp_path, [name])) == before


def test_a_dot_at_the_end_is_not_in_the_certificate(tmp_path):
    """Clients ask for the name without it."""
    assert describe(load_or_create(tmp_path, "localhost.").cert_file).names == ("localhost",)


NO_NAMES = {
    "under_score.test": "Codepoint",
    "a" * 64 + ".test": "Label too long",
    "a." * 200 + "test": "Domain too long",
    "": "Empty domain",
    "☃.test": "Codepoint",
    "10.0.0.0/8": "Codepoint",
    "a@localhost": "Codepoint",
    "localhost:443": "Codepoint",
    "a..test": "Empty Label",
    "*": "Codepoint",
    "x*.test": "Codepoint",
    "*.test": "clients take it for no host",
    "*.": "clients take it for no host",
}


@pytest.mark.parametrize(("name", "reason"), NO_NAMES.items())
def test_what_cannot_be_in_a_certificate_is_said_and_changes_nothing(tmp_path, name, reason):
    before = contents(load_or_create(tmp_path))
    with pytest.raises(CertificateFileError) as caught:
        load_or_create(tmp_path, ["localhost", name])
    assert str(caught.value).startswith(f"{name!r} cannot be in a certificate: {reason}")
    assert contents(files_in(tmp_path)) == before


def test_a_certificate_needs_a_name(tmp_path):
    with pytest.raises(CertificateFileError, match="needs a name"):
        load_or_create(tmp_path, [])


@pytest.mark.parametrize("remaining", [timedelta(hours=-1), timedelta(hours=23)])
def test_a_certificate_without_a_day_left_is_replaced(tmp_path, remaining):
    validity = {"not_before": datetime(2020, 1, 1), "not_after": datetime.now(UTC) + remaining}
    write_leaf(tmp_path, trustme.CA(), "localhost", **validity)
    before = contents(files_in(tmp_path))
    assert contents(load_or_create(tmp_path, ["localhost"])) != before
    assert describe(tmp_path / "cert.pem").not_after > datetime.now(UTC) + timedelta(days=1)


def test_a_certificate_that_is_not_valid_yet_is_replaced(tmp_path):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    write_leaf(tmp_path, trustme.CA(), "localhost", not_before=tomorrow)
    load_or_create(tmp_path, ["localhost"])
    assert describe(tmp_path / "cert.pem").not_before < datetime.now(UTC)


def files_in(directory):
    names = ("ca.pem", "cert.pem", "key.pem")
    return certificates.Credentials(*(directory / name for name in names))


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "of another set"])
def test_one_file_that_is_wrong_replaces_all_three(tmp_path, name, damage):
    load_or_create(tmp_path / "other")
    before = contents(load_or_create(tmp_path / "certs"))
    file = tmp_path / "certs" / name
    if damage == "missing":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:150])
    else:
        file.write_bytes((tmp_path / "other" / name).read_bytes())
    credentials = load_or_create(tmp_path / "certs")
    assert_belong_together(credentials)
    assert all(old != new for old, new in zip(before, contents(credentials), strict=True))


@pytest.mark.parametrize("done", [0, 1, 2])
@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_writer_that_dies_on_the_way_leaves_no_mixed_set(tmp_path, monkeypatch, step, done):
    load_or_create(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, step, failing_after(done, getattr(Path, step), KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            load_or_create(tmp_path, ["localhost", "example.test"])
    credentials = load_or_create(tmp_path, ["localhost", "example.test"])
    assert_belong_together(credentials)
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "ca.pem", "cert.pem", "key.pem"}


def failing_after(count, function, error):
    calls = iter(range(count))

    def do_or_fail(path, *arguments, **_):
        if next(calls, None) is None:
            raise error
        return function(path, *arguments)

    return do_or_fail


def test_while_one_makes_the_set_another_waits_for_it(tmp_path, monkeypatch):
    makers = []
    second = threading.Event()

    def create(files, names, create=certificates.create):
        makers.append(threading.current_thread())
        second.set() if len(makers) > 1 else second.wait(0.5)
        create(files, names)

    monkeypatch.setattr(certificates, "create", create)
    with ThreadPoolExecutor(2) as pool:
        first, other = pool.map(lambda _: contents(load_or_create(tmp_path)), range(2))
    assert len(makers) == 1
    assert first == other


def test_processes_at_once_get_one_set(tmp_path):
    program = (
        "import sys; from helpers.certificates import load_or_create\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "files = load_or_create(sys.argv[1])\n"
        "print(files.ca_file.read_text(), files.cert_file.read_text(), files.key_file.read_text())"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    command = [sys.executable, "-c", program, str(tmp_path / "certs")]
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    assert [process.stdout.readline() for process in processes] == 4 * ["ready\n"]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = {process.communicate(timeout=30)[0] for process in processes}
    assert len(outputs) == 1
    assert_belong_together(load_or_create(tmp_path / "certs"))


def test_a_lock_that_nobody_lets_go_of_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(certificates, "LOCK_TIMEOUT_S", 0.1)
    with contextlib.closing(sqlite3.connect(tmp_path / ".lock")) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CertificateFileError, match="locked"):
            load_or_create(tmp_path)
    assert_belong_together(load_or_create(tmp_path))


def test_a_disk_that_takes_nothing_refuses_no_set_that_serves(tmp_path, monkeypatch):
    before = contents(load_or_create(tmp_path))

    full = failing_after(0, None, OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(Path, "mkdir", full)
    monkeypatch.setattr(sqlite3, "connect", full)
    assert contents(load_or_create(tmp_path)) == before
    with pytest.raises(CertificateFileError, match="No space left on device"):
        load_or_create(tmp_path, ["example.test"])


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_disk_that_fills_up_leaves_the_set_as_it_was(tmp_path, monkeypatch, done):
    before = contents(load_or_create(tmp_path))
    full = failing_after(done, Path.write_bytes, OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CertificateFileError, match="No space left on device"):
        load_or_create(tmp_path, ["example.test"])
    assert contents(files_in(tmp_path)) == before


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A checkout that its user cannot write to, and the user's home beside it."""
    monkeypatch.setattr(certificates, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    # Root may write anywhere, so the answer is made up.
    can_write = os.access

    def access(path, mode):
        return not Path(path).is_relative_to(tmp_path / "checkout") and can_write(path, mode)

    monkeypatch.setattr(os, "access", access)
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


def test_in_a_checkout_that_is_shared_each_user_has_their_own(shared, tmp_path):
    made = load_or_create(shared / "certs")
    assert made.ca_file == tmp_path / "home" / ".http3-streaming" / "certs" / "ca.pem"
    assert_belong_together(made)
    assert load_or_create(shared / "certs") == made
    assert list(shared.iterdir()) == []


def test_what_somebody_else_left_in_it_is_not_used(shared, tmp_path):
    (shared / "certs").mkdir()
    (shared / "certs" / "cert.pem").write_text("whatever")
    assert load_or_create(shared / "certs").ca_file.is_relative_to(tmp_path / "home")


def test_elsewhere_a_directory_is_what_it_was_asked_to_be(shared, tmp_path):
    assert load_or_create(tmp_path / "mine").ca_file == tmp_path / "mine" / "ca.pem"


def test_in_a_checkout_of_ones_own_they_are_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(certificates, "CHECKOUT", tmp_path)
    assert load_or_create(tmp_path / "certs").ca_file == tmp_path / "certs" / "ca.pem"


def test_a_file_in_the_directorys_place_is_named(tmp_path):
    (tmp_path / "certs").write_text("mine")
    with pytest.raises(CertificateFileError, match=r"certs: .* Pass a directory"):
        load_or_create(tmp_path / "certs")


def test_the_certificate_and_key_of_someone_else_are_never_overwritten(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "cert.pem").write_bytes(certificate_pem(self_signed(key, "my-site.test")))
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    with pytest.raises(CertificateFileError, match=r"by CN=my-site\.test.*another directory"):
        load_or_create(tmp_path)
    assert (tmp_path / "key.pem").read_bytes() == key_pem(key)


# describe


def test_a_description_says_what_is_in_the_certificate(tmp_path):
    credentials = load_or_create(tmp_path)
    leaf, ca = describe(credentials.cert_file), describe(credentials.ca_file)
    assert leaf.names == ("localhost", "127.0.0.1", "::1")
    assert leaf.issuer == ca.subject == ca.issuer
    assert (leaf.is_ca, ca.is_ca) == (False, True)
    assert leaf.key_type == "EC secp256r1"
    assert leaf.not_before < datetime.now(UTC) < leaf.not_after
    der = ssl.PEM_cert_to_DER_cert(credentials.cert_file.read_text())
    assert leaf.sha256.replace(":", "").lower() == hashlib.sha256(der).hexdigest()


def test_a_description_is_text_where_it_is_printed(tmp_path):
    write_leaf(
        tmp_path,
        trustme.CA(organization_name="Org", organization_unit_name="CA"),
        "localhost",
        not_before=datetime(2019, 1, 2, 3, 4),
        not_after=datetime(2020, 1, 1, 12),
        organization_name="Org",
        organization_unit_name="Leaf",
    )
    fingerprint = describe(tmp_path / "cert.pem").sha256
    assert (
        str(describe(tmp_path / "cert.pem"))
        == f"""\
cert.pem
  subject  OU=Leaf,O=Org
  issuer   OU=CA,O=Org
  names    localhost
  valid    2019-01-02 03:04 UTC to 2020-01-01 12:00 UTC
  key      EC secp256r1
  is a CA  no
  SHA-256  {fingerprint}"""
    )


def test_a_card_is_a_table_with_headers_and_holds_what_the_text_says(tmp_path):
    credentials = load_or_create(tmp_path)
    page = Page(describe(credentials.cert_file)._repr_html_())
    assert page.captions == ["cert.pem"]
    labels = ["subject", "issuer", "names", "valid", "key", "is a CA", "SHA-256"]
    assert page.headers == [(label, "row") for label in labels]
    assert "localhost, 127.0.0.1, ::1" in page.cells


def test_a_card_shows_a_hostile_name_as_text(tmp_path):
    certificate = self_signed(ec.generate_private_key(ec.SECP256R1()), "<b>x</b>&")
    (tmp_path / "<i>.pem").write_bytes(certificate_pem(certificate))
    page = Page(describe(tmp_path / "<i>.pem")._repr_html_())
    assert "<b>x</b>&" in page.cells
    assert page.captions == ["<i>.pem"]


def test_the_chain_is_described_in_the_files_order(tmp_path):
    intermediate = trustme.CA().create_child_ca()
    leaf = intermediate.issue_cert("localhost")
    (tmp_path / "chain.pem").write_bytes(b"\n\n".join(p.bytes() for p in leaf.cert_chain_pems))
    description = describe(tmp_path / "chain.pem")
    assert [certificate.is_ca for certificate in description.chain] == [True]
    assert description.issuer == description.chain[0].subject
    assert "chain.pem, certificate 2" in str(description)
    assert Page(description._repr_html_()).captions == ["chain.pem", "chain.pem, certificate 2"]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (rsa.generate_private_key(65537, 2048), "RSA 2048 bits"),
        (ec.generate_private_key(ec.SECP384R1()), "EC secp384r1"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
    ],
    ids=["rsa", "ec", "ed25519"],
)
def test_keys_of_each_kind_are_named_and_matched(tmp_path, key, name):
    (tmp_path / "cert.pem").write_bytes(certificate_pem(self_signed(key)))
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    assert describe(tmp_path / "cert.pem").key_type == name
    certificates_read, key_read = check_key_pair(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert len(certificates_read) == 1
    assert key_pem(key_read) == key_pem(key)
    check_ca_file(tmp_path / "cert.pem")
    other = load_or_create(tmp_path / "other")
    with pytest.raises(CertificateFileError, match="does not match"):
        check_key_pair(tmp_path / "cert.pem", other.key_file)
    with pytest.raises(CertificateFileError, match="does not match"):
        check_key_pair(other.cert_file, tmp_path / "key.pem")


class Page(HTMLParser):
    """The texts of a card, by the element that they stand in; an unknown element is an error."""

    def __init__(self, html):
        super().__init__()
        self.captions, self.headers, self.cells, self._open = [], [], [], []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        assert tag in ("table", "caption", "tr", "th", "td", "style")
        self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if not data.strip():
            return
        tag, attrs = self._open[-1]
        if tag == "caption":
            self.captions.append(data)
        elif tag == "th":
            self.headers.append((data, attrs["scope"]))
        elif tag != "style":
            self.cells.append(data)


# files that are wrong

DER = ssl.PEM_cert_to_DER_cert(trustme.CA().cert_pem.bytes().decode())
WRONG_FILES = {
    "empty": (b" \n", "is empty"),
    "der": (DER, r"is in binary form \(DER or PKCS #12\): it has no -----BEGIN line"),
    "text": (b"hello", "is not a PEM file"),
    "damaged certificate": (
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        "holds a damaged certificate",
    ),
    "cut off": (trustme.CA().cert_pem.bytes()[:200], "holds a damaged certificate"),
    "key": (trustme.CA().private_key_pem.bytes(), "holds no certificate but EC PRIVATE KEY"),
}


@pytest.mark.parametrize("use", [describe, check_ca_file, spki_sha256])
@pytest.mark.parametrize("case", WRONG_FILES)
def test_what_is_wrong_with_a_certificate_file_is_said(tmp_path, use, case):
    data, message = WRONG_FILES[case]
    file = tmp_path / "wrong.pem"
    file.write_bytes(data)
    with pytest.raises(CertificateFileError, match=rf"wrong\.pem {message}.*\.$"):
        use(str(file))


def test_a_missing_file_and_a_directory_are_said(tmp_path):
    for use in (describe, check_ca_file, pem.read_key):
        with pytest.raises(CertificateFileError, match=r"missing\.pem does not exist"):
            use(tmp_path / "missing.pem")
        with pytest.raises(CertificateFileError, match="is a directory"):
            use(tmp_path)


def test_a_file_that_may_not_be_read_is_said(tmp_path, monkeypatch):
    """Made up, since root may read everything."""
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(denied))
    with pytest.raises(CertificateFileError, match=r"ca\.pem cannot be read: Permission denied"):
        check_ca_file(tmp_path / "ca.pem")


def test_what_another_ca_issued_is_not_trusted_by_itself(tmp_path):
    credentials = load_or_create(tmp_path)
    check_ca_file(credentials.ca_file)
    with pytest.raises(CertificateFileError, match=r"cert\.pem holds no root CA.*OU=Throwaway CA"):
        check_ca_file(credentials.cert_file)
    trustme.CA().create_child_ca().cert_pem.write_to_path(tmp_path / "child.pem")
    with pytest.raises(CertificateFileError, match=r"child\.pem holds no root CA"):
        check_ca_file(tmp_path / "child.pem")


def test_swapped_files_are_said(tmp_path):
    credentials = load_or_create(tmp_path)
    with pytest.raises(CertificateFileError, match=r"key\.pem holds no certificate.* in key_file"):
        check_key_pair(credentials.key_file, credentials.cert_file)
    with pytest.raises(CertificateFileError, match=r"ca\.pem holds no private key"):
        check_key_pair(credentials.cert_file, credentials.ca_file)


def test_an_encrypted_and_a_damaged_key_are_said(tmp_path):
    credentials = load_or_create(tmp_path)
    _, key = check_key_pair(credentials.cert_file, credentials.key_file)
    credentials.key_file.write_bytes(key_pem(key, password=b"secret"))
    with pytest.raises(CertificateFileError, match=r"key\.pem is encrypted.*openssl pkey"):
        check_key_pair(credentials.cert_file, credentials.key_file)
    credentials.key_file.write_bytes(key_pem(key)[:80])
    with pytest.raises(CertificateFileError, match=r"key\.pem holds a damaged key"):
        check_key_pair(credentials.cert_file, credentials.key_file)


def test_files_with_windows_line_ends_and_blank_lines_are_read(tmp_path):
    credentials = load_or_create(tmp_path)
    chain = credentials.cert_file.read_bytes() + b"\n" + credentials.ca_file.read_bytes() + b"\n"
    credentials.cert_file.write_bytes(chain.replace(b"\n", b"\r\n"))
    certificates_read, _ = check_key_pair(credentials.cert_file, credentials.key_file)
    assert [extensions.is_ca(certificate) for certificate in certificates_read] == [False, True]


def test_a_key_of_an_unknown_kind_is_not_called_damaged(tmp_path):
    credentials = load_or_create(tmp_path)
    key = ec.generate_private_key(ec.SECP256R1())
    der = ssl.PEM_cert_to_DER_cert(
        key_pem(key).decode().replace("PRIVATE KEY", "CERTIFICATE")
    ).replace(bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d0263"))
    pem = ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", "PRIVATE KEY")
    credentials.key_file.write_text(pem)
    with pytest.raises(CertificateFileError, match=r"key\.pem holds a key of a kind .* Use P-256"):
        check_key_pair(credentials.cert_file, credentials.key_file)


FORMS = {
    "as written": lambda pem: pem,
    "CRLF": lambda pem: pem.replace(b"\n", b"\r\n"),
    "CR": lambda pem: pem.replace(b"\n", b"\r"),
    "BOM": lambda pem: codecs.BOM_UTF8 + pem,
    "BOM before each": lambda pem: pem.replace(b"-----BEGIN", codecs.BOM_UTF8 + b"-----BEGIN"),
    "BOM and CRLF": lambda pem: codecs.BOM_UTF8 + pem.replace(b"\n", b"\r\n"),
    "blank lines": lambda pem: b"\n\n" + pem.replace(b"-----BEGIN", b"\n\n-----BEGIN") + b"\n",
    "text before": lambda pem: b"Certificate:\n    Data:\n" + pem,
    "text before, in Latin-1": lambda pem: b"subject=CN = B\xfccher\n" + pem,
    "no last newline": lambda pem: pem.rstrip(b"\n"),
    "spaces at the ends": lambda pem: pem.replace(b"\n", b"  \n"),
    "an older label": lambda pem: pem.replace(b" CERTIFICATE-----", b" X509 CERTIFICATE-----"),
    "UTF-16": lambda pem: pem.decode("latin-1").encode("utf-16"),
    "UTF-16, big-endian": lambda pem: (
        codecs.BOM_UTF16_BE + pem.decode("latin-1").encode("utf-16-be")
    ),
    "indented": lambda pem: b"".join(b"  " + line for line in pem.splitlines(keepends=True)),
    "quoted": lambda pem: b"".join(b"> " + line for line in pem.splitlines(keepends=True)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_form_that_openssl_reads_is_read_or_the_reason_is_said(tmp_path, form):
    chain = trustme.CA().create_child_ca().create_child_ca()
    leaf = chain.issue_cert("localhost")
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(form(b"".join(part.bytes() for part in leaf.cert_chain_pems)))
    key_file.write_bytes(form(leaf.private_key_pem.bytes()))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file)
    except ssl.SSLError:
        openssl_reads = False
    else:
        openssl_reads = True
    refused = None
    try:
        certificates_read, _ = check_key_pair(cert_file, key_file)
    except CertificateFileError as error:
        refused = str(error)
    if refused is None:
        assert len(certificates_read) == 3
    else:
        assert not openssl_reads
        assert "in UTF-16" in refused or "before a -----BEGIN" in refused


def test_a_wrong_file_is_a_usage_error():
    assert issubclass(CertificateFileError, UsageError)


def test_the_hash_of_the_public_key_is_what_chromium_takes(tmp_path):
    credentials = load_or_create(tmp_path)
    _, key = check_key_pair(credentials.cert_file, credentials.key_file)
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert base64.b64decode(spki_sha256(credentials.cert_file)) == hashlib.sha256(der).digest()


# Trust: what a message says of both sides


SOMEWHERE = Path("somewhere/ca.pem")  # one of several of that name


def trust_in(*certificates):
    return Trust(SOMEWHERE, certificates)


def loaded(pem):
    return x509.load_pem_x509_certificate(pem.bytes())


def test_who_was_trusted_is_named_beside_the_issuer():
    issuer, one, other = (
        trustme.CA(organization_unit_name=name) for name in ("issuer", "one", "other")
    )
    leaf = loaded(issuer.issue_cert("localhost").cert_chain_pems[0])
    by = f"OU=issuer,O=trustme v{trustme.__version__}"
    held = [loaded(ca.cert_pem) for ca in (one, other)]
    names = " and ".join(ca.subject.rfc4514_string() for ca in held)
    assert trust_in(*held).explain(leaf) == (
        f" It was issued by {by}, and {SOMEWHERE} holds {names}."
    )
    namesake = loaded(trustme.CA(organization_unit_name="issuer").cert_pem)
    assert trust_in(namesake).explain(leaf) == (
        f" It was issued by {by}, and {SOMEWHERE} holds another CA of that name."
    )
    # It is refused for something else, then.
    assert trust_in(loaded(issuer.cert_pem)).explain(leaf) == ""


def test_nobody_is_told_to_trust_what_was_just_refused():
    leaf = loaded(trustme.CA().issue_cert("localhost").cert_chain_pems[0])
    for certificate in (leaf, None):
        text = explain_distrust(
            Distrust.UNKNOWN_ISSUER, certificate, "localhost", "a reason", trust_in(leaf)
        )
        assert text.startswith("Certificate not trusted: a reason.")
        assert "Pass ca_file" not in text
