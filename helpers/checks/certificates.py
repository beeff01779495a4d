"""The oracle of the exercises on certificates: OpenSSL's own opinion, in handshakes without a wire.

Client and server exchange TLS 1.3 messages through memory (Python's ssl), so any server name can
be asked for without a name server, and nothing that the workbook itself wrote decides. A check
never raises for a wrong answer: it returns a Verdict that names the cause.
"""

import inspect
import re
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import EllipsisType
from typing import Any

import trustme
from cryptography import x509

from helpers.certificates import (
    Credentials,
    check_ca_file,
    check_key_pair,
    extensions,
    load_or_create,
    pem,
)
from helpers.checks.run import in_time, is_stub
from helpers.checks.verdict import Verdict, never_raises, shown, solved, told, unsolved, wrong
from helpers.checks.witness import Note, Witness
from helpers.errors import CertificateFileError

SECOND_NAME = "stream.test"
HANDSHAKE_TURNS = 6
ANSWER_TIMEOUT_S = 5.0
QUESTIONS = "there are three questions: who signed it, for whom, and until when."

Accepts = Callable[[Path, Path, str], object]
"""A learner's function, which may return anything, and should return a bool."""


def refusal(credentials: Credentials, ca_file: Path, server_name: str) -> str | None:
    """Return why a client that trusts `ca_file` refuses these credentials; None if it does not.

    Raises CertificateFileError where OpenSSL cannot read one of the files.
    """
    server, client = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    file = credentials.cert_file
    try:
        server.load_cert_chain(credentials.cert_file, credentials.key_file)
        file = ca_file
        client.load_verify_locations(ca_file)
    except ssl.SSLError as error:
        raise CertificateFileError(
            f"{file} is damaged or cut off: OpenSSL cannot read all of it. Make it anew."
        ) from error
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=server_name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for turn in range(HANDSHAKE_TURNS):
        try:
            ends[turn % 2].do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_message.rstrip(".")
    return None


def _gone(*given: Credentials) -> str | None:
    """Return what to do where the notebook's own files are not there any more, or None."""
    for credentials in given:
        for file in (credentials.ca_file, credentials.cert_file, credentials.key_file):
            if not file.exists():
                return (
                    f"{file} is gone, and this check needs it. Run the notebook's cells again up "
                    "to the exercises, and then this one."
                )
    return None


@never_raises
def check_second_name(answer: Credentials | EllipsisType, credentials: Credentials) -> Verdict:
    """Check credentials for `localhost` and for `stream.test`, beside those of the notebook."""
    if answer is ...:
        return unsolved("`load_or_create` has a parameter `names`.")
    if not (isinstance(answer, Credentials) and isinstance(answer.ca_file, Path)):
        return wrong(
            f"This is {shown(answer)}, no credentials. Assign what `load_or_create` returns."
        )
    if why := _gone(credentials):
        return wrong(why)
    if answer.ca_file.resolve() == credentials.ca_file.resolve():
        return wrong(
            "These are the files that all notebooks share. Where they are made anew, a server that "
            "runs still shows the old certificate, and a client with the new ca.pem refuses it. "
            "Pass a directory of its own, such as folder / 'second'."
        )
    try:
        (leaf, *_), _ = check_key_pair(answer.cert_file, answer.key_file)
        check_ca_file(answer.ca_file)
        refusal(answer, answer.ca_file, SECOND_NAME)
    except CertificateFileError as error:
        return wrong(str(error))
    names = ", ".join(extensions.names(leaf))
    if refused := refusal(answer, answer.ca_file, SECOND_NAME):
        return wrong(
            f"A client that asks for {SECOND_NAME!r} refuses: {refused}. It is for {names}."
        )
    if refused := refusal(answer, answer.ca_file, "localhost"):
        return wrong(
            f"A client that asks for 'localhost' now refuses: {refused}. It is for {names}, since "
            "`names` takes the place of the usual ones: list these too."
        )
    return solved(f"Clients accept the certificate for each of {names}.")


@never_raises
def check_bundle(
    answer: Path | str | EllipsisType, first: Credentials, second: Credentials
) -> Verdict:
    """Check a file with which one client trusts the servers of two CAs, and no other."""
    if answer is ...:
        return unsolved("a PEM file may hold several certificates, one after the other.")
    if isinstance(answer, str | bytes) and "-----BEGIN" in str(answer):
        return wrong(
            "This is the text of the certificates, not a file. Write it into one, and assign the "
            "path of that."
        )
    if not isinstance(answer, Path | str):
        return wrong(f"This is {shown(answer)}. Assign the path of the file that you wrote.")
    if why := _gone(first, second):
        return wrong(why)
    if isinstance(answer, str) and "\n" in answer:
        return wrong(f"This is {shown(answer)}, no path. Assign the path of the file you wrote.")
    try:
        if why := _why_no_ca_file(Path(answer)):
            return wrong(why)
        check_ca_file(answer)
        refusal(first, Path(answer), "localhost")
    except CertificateFileError as error:
        return wrong(str(error))
    found = f"The file holds {len(pem.read_certificates(answer))} certificate(s)."
    for number, credentials in (("first", first), ("second", second)):
        if refused := refusal(credentials, Path(answer), "localhost"):
            return wrong(
                f"A client with this file refuses the {number} server: {refused}. {found} The "
                f"{number} server's CA has to be among them."
            )
    with tempfile.TemporaryDirectory() as folder:
        if not refusal(load_or_create(folder), Path(answer), "localhost"):
            return wrong("A client with this file trusts a server that neither CA vouches for.")
    return solved("One client trusts both servers, and refuses a third one.")


def _why_no_ca_file(path: Path) -> str | None:
    """Return what is wrong with the text of a file of several certificates, or None."""
    if not path.is_file():
        return None  # check_ca_file says why
    text = path.read_text(encoding="utf-8", errors="replace")
    if re.search("-----END [A-Z ]+----------BEGIN", text):
        return (
            f"In {path} an END line and the next BEGIN line are one line, so programs read only a "
            "part of it or nothing. Each stands on a line of its own: put a newline in between."
        )
    if "PRIVATE KEY-----" in text:
        return (
            f"{path} holds a private key. A CA file goes to every client, and holds certificates "
            "only: who gets the key with it *is* the server. Put in the two `ca_file`s, and "
            "nothing else."
        )
    return None


@dataclass(frozen=True)
class _Case:
    """One certificate that a client is to accept or refuse, and what a wrong answer overlooks."""

    title: str
    cert_file: Path
    ca_file: Path
    name: str
    expected: bool
    cause: str
    with_common_name: Path
    """The same certificate, but with the name as its common name too."""


@never_raises
def check_accepts(accepts: Accepts) -> Verdict:
    """Check a function `accepts(cert_file, ca_file, name)` that decides as a TLS client does.

    Calls it with certificates that are right or wrong in one point each; all calls together may
    take 5 seconds.
    """
    if is_stub(accepts):
        return unsolved(QUESTIONS)
    if inspect.iscoroutinefunction(accepts):
        return wrong("`accepts` is `async def`, so a call only makes a coroutine. Write `def`.")
    if not callable(accepts):
        return wrong(
            f"This is {shown(accepts)}, no function. Pass `accepts` itself, without a call."
        )
    with tempfile.TemporaryDirectory() as folder:
        cases = list(_cases(Path(folder)))
        return in_time("accepts", lambda: _try_all(accepts, cases), ANSWER_TIMEOUT_S)


def _try_all(accepts: Accepts, cases: list[_Case]) -> Verdict:
    witness = Witness(accepts)
    witness.watch()
    for case in cases:
        witness.notes.clear()
        try:
            answer = accepts(case.cert_file, case.ca_file, case.name)
        except BaseException as error:  # noqa: BLE001 - the learner's function may raise anything
            return wrong(f"For {case.title}, `accepts` raised {told(error)}. {case.cause}")
        if answer is ...:
            return unsolved(QUESTIONS)
        if not isinstance(answer, bool):
            return wrong(
                f"For {case.title}, `accepts` returned {shown(answer)}: return True or False."
            )
        if answer != case.expected:
            caught = _caught(witness.notes, case)
            why = caught or (_which_question(accepts, case) if case.expected else case.cause)
            return wrong(f"For {case.title}, `accepts` returned {answer}. {why}")
    return solved(f"All {len(cases)} certificates are judged as a TLS client judges them.")


def _caught(notes: list[Note], case: _Case) -> str:
    """Return what the answer raised and caught on its way to a wrong result, or nothing."""
    return f"An exception was caught on the way. {notes[0]} {case.cause}" if notes else ""


def _which_question(accepts: Accepts, case: _Case) -> str:
    """Return which of the three questions a client got wrong that refused a right certificate.

    Asked again about the same certificate with one thing changed, it tells what it looks at.
    """
    if _says_yes(accepts, case.with_common_name, case):
        return (
            "Of the three questions the one for the name went wrong: `accepts` says True where the "
            f"common name (CN) in the subject is {case.name!r}. Clients look at the subject "
            "alternative names alone."
        )
    name: Any = x509.DNSName(case.name)
    if _says_yes(accepts, case.cert_file, replace(case, name=name)):
        return (
            "Of the three questions the one for the name went wrong: the names in the extension "
            f"are objects such as {name}, and no text equals one. Compare their values: "
            "`str(alternative.value)`."
        )
    certificate = pem.read_certificates(case.cert_file)[0]
    names = ", ".join(extensions.names(certificate))
    return (
        f"All three questions have the answer yes here. Who signed it? `ca_file`: "
        "`verify_directly_issued_by` then returns None, which `if` takes for False; it raises "
        f"where the signature does not fit. For whom? {names}: {case.name!r} is among them. In "
        f"time? From {certificate.not_valid_before_utc:%Y-%m-%d} to "
        f"{certificate.not_valid_after_utc:%Y-%m-%d}, and now is {datetime.now(UTC):%Y-%m-%d}. "
        f"{case.cause}"
    )


def _says_yes(accepts: Accepts, cert_file: Path, case: _Case) -> bool:
    try:
        return accepts(cert_file, case.ca_file, case.name) is True
    except Exception:  # noqa: BLE001 - it only means that this was not the reason
        return False


def _cases(folder: Path) -> Iterator[_Case]:
    now = datetime.now(UTC)
    day = timedelta(days=1)
    # The same name for both, as an impostor would choose it.
    ca, impostor = (trustme.CA(organization_unit_name="The CA you trust") for _ in range(2))
    ca_file = folder / "ca.pem"
    ca.cert_pem.write_to_path(ca_file)

    def case(
        title: str,
        expected: bool,
        cause: str,
        name: str = "localhost",
        issuer: trustme.CA = ca,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> _Case:
        file = folder / f"{len(list(folder.iterdir()))}.pem"
        names = ("localhost", "127.0.0.1", "example.test")
        validity: dict[str, Any] = {"not_before": not_before, "not_after": not_after}
        issuer.issue_cert(*names, **validity).cert_chain_pems[0].write_to_path(file)
        with_common_name = file.with_suffix(".cn.pem")
        named = issuer.issue_cert(*names, common_name=name, **validity)
        named.cert_chain_pems[0].write_to_path(with_common_name)
        return _Case(title, file, ca_file, name, expected, cause, with_common_name)

    yield case("a certificate without fault", True, "Nothing is wrong with the certificate.")
    yield case("a name that it holds", True, "It is the last of three.", name="example.test")
    yield case(
        "an address that it holds",
        True,
        "Addresses stand in it as addresses, not as text: `str(...)` makes them comparable.",
        name="127.0.0.1",
    )
    yield case(
        "another name", False, "That name is not among the certificate's.", name="example.org"
    )
    yield case("half of a name", False, "A name has to be equal to one of its names.", name="local")
    yield case(
        "a certificate of another CA, which gave itself the same name",
        False,
        "Names can be copied; a signature cannot: `verify_directly_issued_by` raises where it does "
        "not fit.",
        issuer=impostor,
    )
    yield case(
        "an expired certificate",
        False,
        "Its time is over: `not_valid_after_utc`.",
        not_before=now - 2 * day,
        not_after=now - day,
    )
    yield case(
        "a certificate that begins tomorrow",
        False,
        "Its time has not come: `not_valid_before_utc`.",
        not_before=now + day,
        not_after=now + 2 * day,
    )
