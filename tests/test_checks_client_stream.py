"""The exercises on streams from the client: right answers are solved, wrong ones get the reason."""

import asyncio
import logging
import threading
import time

import httpx2
import pytest

from helpers.checks import check_chat, check_upload
from helpers.checks import client_stream as checks
from helpers.checks.verdict import State
from helpers.errors import ClientDisconnected, PeerError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*never closed:ResourceWarning")
PIECE = 64 * 1024
DONE = "All heard each line once, one vanished and one left, and the room is empty."


def text(verdict, state):
    assert verdict.state is state, verdict
    return " ".join(verdict.text.split())


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(checks, "ANSWER_TIMEOUT_S", 1.5)


@pytest.fixture(autouse=True)
def quiet(caplog):
    """What the check's own server logs is told in the verdict, and nowhere else."""
    yield
    said = [r for r in caplog.get_records("call") if r.name == "helpers.server"]
    assert not [r.getMessage() for r in said if r.levelno > logging.INFO]


def named(answers):
    return pytest.mark.parametrize(
        ("answer", "why"), [pytest.param(*row, id=row[0].__name__) for row in answers]
    )


# ---- an upload


class Cancelled(Exception):
    pass


def cut(data, size=PIECE):
    return [data[start : start + size] for start in range(0, len(data), size)]


def pieces(data, report, cancelled):
    for start in range(0, len(data), PIECE):
        if cancelled():
            raise Cancelled
        yield data[start : start + PIECE]
        report(min(start + PIECE, len(data)))


def uploads(client, url, data, report, cancelled):
    try:
        return client.post(url, content=pieces(data, report, cancelled)).status_code
    except Cancelled:
        return None


def uploads_small_pieces(client, url, data, report, cancelled):
    def generate():
        sent = 0
        for piece in cut(data, 10_000):
            yield piece
            sent += len(piece)
            report(sent)
            if cancelled():
                raise ConnectionAbortedError("enough")

    try:
        with client.stream("POST", url, content=generate()) as response:
            return response.status_code
    except ConnectionAbortedError:
        return None


def uploads_and_catches_all(client, url, data, report, cancelled):
    try:
        return uploads(client, url, data, report, cancelled)
    except httpx2.HTTPError:
        return None


@pytest.mark.parametrize("answer", [uploads, uploads_small_pieces, uploads_and_catches_all])
def test_an_upload_that_tells_and_can_be_cancelled_is_right(answer):
    said = text(check_upload(answer), State.SOLVED)
    assert said.startswith("1,048,576 bytes came whole, with a report for each piece.")


def stub(client, url, data, report, cancelled):
    return None


@pytest.mark.parametrize("answer", [None, ..., stub])
def test_an_upload_that_is_not_begun_gets_a_hint(answer):
    assert "Hint: a generator hands out" in text(check_upload(answer), State.UNSOLVED)


def sends_data_at_once(client, url, data, report, cancelled):
    return client.post(url, content=data).status_code


def reports_before_all(client, url, data, report, cancelled):
    every, sent = [], 0
    for piece in cut(data):
        if cancelled():
            return None
        every.append(piece)
        sent += len(piece)
        report(sent)
    return client.post(url, content=iter(every)).status_code


def returns_where_it_should_raise(client, url, data, report, cancelled):
    def generate():
        for start in range(0, len(data), PIECE):
            if cancelled():
                return
            yield data[start : start + PIECE]
            report(min(start + PIECE, len(data)))

    return client.post(url, content=generate()).status_code


def asks_and_goes_on(client, url, data, report, cancelled):
    def generate():
        for start in range(0, len(data), PIECE):
            cancelled()
            yield data[start : start + PIECE]
            report(min(start + PIECE, len(data)))

    return client.post(url, content=generate()).status_code


def never_asks(client, url, data, report, cancelled):
    return client.post(url, content=pieces(data, report, bool)).status_code


def reports_the_size_of_each(client, url, data, report, cancelled):
    def generate():
        for piece in cut(data):
            if cancelled():
                raise Cancelled
            yield piece
            report(len(piece))

    return client.post(url, content=generate()).status_code


def reports_nothing(client, url, data, report, cancelled):
    return uploads(client, url, data, lambda _: None, cancelled)


def reports_a_share(client, url, data, report, cancelled):
    return uploads(client, url, data, lambda sent: report(sent / len(data)), cancelled)


def reports_downwards(client, url, data, report, cancelled):
    return uploads(client, url, data, lambda sent: report(len(data) - sent), cancelled)


def reports_the_start(client, url, data, report, cancelled):
    return uploads(client, url, data, lambda sent: report(max(0, sent - PIECE)), cancelled)


def reports_seldom(client, url, data, report, cancelled):
    return uploads(client, url, data, lambda sent: sent % (8 * PIECE) or report(sent), cancelled)


def loses_the_last(client, url, data, report, cancelled):
    return uploads(client, url, data[:-PIECE], report, cancelled)


def sends_others(client, url, data, report, cancelled):
    return uploads(client, url, bytes(len(data)), report, cancelled)


def lets_it_out(client, url, data, report, cancelled):
    return client.post(url, content=pieces(data, report, cancelled)).status_code


def returns_the_response(client, url, data, report, cancelled):
    try:
        return client.post(url, content=pieces(data, report, cancelled))
    except Cancelled:
        return None


def says_cancelled(client, url, data, report, cancelled):
    try:
        return client.post(url, content=pieces(data, report, cancelled)).status_code
    except Cancelled:
        return "cancelled"


def yields_text(client, url, data, report, cancelled):
    return client.post(url, content=("text" for _ in range(3))).status_code


def misspells(client, url, data, report, cancelled):
    return client.post(url, contents=pieces(data, report, cancelled)).status_code


def catches_its_mistake(client, url, data, report, cancelled):
    try:
        return client.posts(url, content=pieces(data, report, cancelled)).status_code
    except Exception:  # noqa: BLE001 - the mistake
        return None


def forgets_the_content(client, url, data, report, cancelled):
    list(pieces(data, report, cancelled))
    return client.post(url).status_code


def exits(client, url, data, report, cancelled):
    raise SystemExit(3)


def takes_too_few(client, url):
    return client.post(url).status_code


async def is_async(client, url, data, report, cancelled):
    return client.post(url).status_code


def is_a_generator(client, url, data, report, cancelled):
    yield from pieces(data, report, cancelled)


@named(
    [
        (sends_data_at_once, "`report` was never called"),
        (reports_before_all, "and you report all of 4,194,304"),
        (returns_where_it_should_raise, "a clean end (FIN): it takes them for the whole"),
        (asks_and_goes_on, "cancelled in its midst, and sent everything all the same"),
        (never_asks, "`cancelled` was never asked"),
        (reports_the_size_of_each, "that is the size of a piece"),
        (reports_nothing, "`report` was never called"),
        (reports_a_share, "takes the number of bytes sent so far, not 0.0625"),
        (reports_downwards, "do not grow"),
        (reports_the_start, "The last report was 983,040, and all of it is 1,048,576 bytes"),
        (reports_seldom, "Between two reports lie 524,288 bytes"),
        (loses_the_last, "The server got 983,040 of 1,048,576 bytes"),
        (sends_others, "as many bytes as it should, but others"),
        (lets_it_out, "Cancelled, and the upload raised Cancelled"),
        (returns_the_response, "answered 201, and the upload returned <Response [201 Created]>"),
        (says_cancelled, "Cancelled, and the upload returned 'cancelled', not None"),
        (yields_text, "TypeError: A body is made of bytes: yield 'text'.encode(), not a str."),
        (misspells, "unexpected keyword argument 'contents'"),
        (catches_its_mistake, "'Client' object has no attribute 'posts'"),
        (forgets_the_content, "The server got 0 of 1,048,576 bytes"),
        (exits, "the upload raised SystemExit: 3"),
        (takes_too_few, "takes 2 positional arguments but 5 were given"),
        (is_async, "A plain function is asked"),
        (is_a_generator, "has a `yield` in itself"),
    ],
)
def test_a_wrong_upload_gets_the_reason(answer, why):
    assert why in text(check_upload(answer), State.WRONG)


def hangs(client, url, data, report, cancelled):
    report(0)
    while not cancelled():
        time.sleep(0.01)


def test_an_upload_without_end_is_ended(impatient):
    assert "does not return: seconds later" in text(check_upload(hangs), State.WRONG)


def test_a_body_that_nobody_breaks_off_is_told():
    released, threads = threading.Event(), []

    def leaves_it_to_a_thread(client, url, data, report, cancelled):
        left, statuses = threading.Event(), []

        def generate():
            for sent, piece in enumerate(cut(data), start=1):
                if cancelled():
                    left.set()
                    released.wait(20)
                yield piece
                report(sent * PIECE)

        def post():
            try:
                statuses.append(client.post(url, content=generate()).status_code)
            except httpx2.TransportError:
                return
            left.set()

        threads.append(threading.Thread(target=post))
        threads[-1].start()
        left.wait(20)
        return statuses[0] if statuses else None

    said = text(check_upload(leaves_it_to_a_thread), State.WRONG)
    assert "and still waits: nobody broke the body off" in said
    released.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("answer", [3, "upload", [uploads]])
def test_an_upload_that_is_no_function_is_told(answer):
    assert "a function that uploads, not" in text(check_upload(answer), State.WRONG)


# ---- a chat

members = []


async def tell(member, line):
    try:
        await member.write(line)
    except ClientDisconnected:
        pass


async def chats(request, response):
    async with await response.take_over() as stream:
        members.append(stream)
        try:
            async for line in stream:
                for member in list(members):
                    await tell(member, line)
        finally:
            members.remove(stream)


async def chats_in_tasks(request, response):
    stream = await response.take_over()
    members.append(stream)
    try:
        async with stream:
            async for line in stream:
                await asyncio.gather(*(m.write(line) for m in members), return_exceptions=True)
                if members[0] is not stream:
                    continue
    finally:
        members.remove(stream)


async def chats_with_an_exit(request, response):
    async with await response.take_over() as stream:
        members.append(stream)
        try:
            async for line in stream:
                for member in members[:]:
                    try:
                        await member.write(line)
                    except PeerError:
                        if member in members:
                            members.remove(member)
        finally:
            if stream in members:
                members.remove(stream)


@pytest.mark.parametrize("answer", [chats, chats_in_tasks, chats_with_an_exit])
def test_a_room_that_tells_all_is_right(answer):
    assert DONE in text(check_chat(answer, members), State.SOLVED)


async def empty(request, response):
    pass


@pytest.mark.parametrize("answer", [None, ..., empty])
def test_a_room_that_is_not_begun_gets_a_hint(answer):
    assert "Hint: take over, put" in text(check_chat(answer, members), State.UNSOLVED)


async def answers_the_speaker_alone(request, response):
    async with await response.take_over() as stream:
        async for line in stream:
            await stream.write(line)


async def tells_all_but_the_speaker(request, response):
    async with await response.take_over() as stream:
        members.append(stream)
        async for line in stream:
            for member in members:
                if member is not stream:
                    await member.write(line)


async def lets_one_who_vanished_end_the_others(request, response):
    async with await response.take_over() as stream:
        members.append(stream)
        async for line in stream:
            for member in members:
                await member.write(line)


async def never_takes_off(request, response):
    async with await response.take_over() as stream:
        members.append(stream)
        async for line in stream:
            for member in list(members):
                try:
                    await member.write(line)
                except (PeerError, UsageError):  # the latter where its handler has ended before
                    continue


async def takes_off_only_who_leaves(request, response):
    async with await response.take_over() as stream:
        members.append(stream)
        async for line in stream:
            for member in list(members):
                await tell(member, line)
        members.remove(stream)


async def reads_all_first(request, response):
    async with await response.take_over() as stream:
        members.append(stream)
        body = await stream.read()
        for member in members:
            await member.write(body)


async def reads_before_taking_over(request, response):
    members.append(response)
    async for line in request:
        for member in members:
            await member.write(line)
            await member.flush()


async def never_closes(request, response):
    stream = await response.take_over()
    members.append(stream)
    try:
        async for line in stream:
            for member in list(members):
                await tell(member, line)
    finally:
        members.remove(stream)


async def tells_twice(request, response):
    async with await response.take_over() as stream:
        members.append(stream)
        async for line in stream:
            for member in list(members):
                await tell(member, line + line)


async def writes_without_await(request, response):
    async with await response.take_over() as stream:
        members.append(stream)
        async for line in stream:
            for member in members:
                member.write(line)


async def writes_text(request, response):
    async with await response.take_over() as stream:
        members.append(stream)
        async for line in stream:
            for member in members:
                await member.write(line.decode())


async def forgets_to_await_take_over(request, response):
    stream = response.take_over()
    async for line in stream:
        await stream.write(line)


async def misspells_the_list(request, response):
    async with await response.take_over() as stream:
        members.add(stream)


async def writes_to_the_response(request, response):
    await response.take_over()
    await response.write("welcome\n")


async def returns_at_once(request, response):
    async with await response.take_over() as stream:
        members.append(stream)


async def refuses(request, response):
    response.write_header(403)


def is_plain(request, response):
    pass


@named(
    [
        (answers_the_speaker_alone, "Ben should hear b'Ann: hello\\n', and got nothing more"),
        (tells_all_but_the_speaker, "Ann should hear b'Ann: hello\\n', and got nothing more"),
        (lets_one_who_vanished_end_the_others, "Cat has vanished, which must be no matter"),
        (never_takes_off, "`members` still has 3"),
        (takes_off_only_who_leaves, "`members` still has 1"),
        (reads_all_first, "Ann should hear b'Ann: hello\\n', and got nothing more"),
        (reads_before_taking_over, "no header came. `await response.take_over()` sends it"),
        (never_closes, "the answer has no end: close the stream"),
        (tells_twice, "and got b'Ann: hello\\n"),
        (writes_without_await, "`HTTP3Stream.write` was called and never awaited"),
        (writes_text, "not a str"),
        (forgets_to_await_take_over, "`Response.take_over` was called and never awaited"),
        (misspells_the_list, "'list' object has no attribute 'add'"),
        (writes_to_the_response, "was taken over. Write to the stream that take_over returned"),
        (returns_at_once, "Ann"),
        (refuses, "Ann got status 403 instead of the room"),
        (is_plain, "async def"),
    ],
)
def test_a_wrong_room_gets_the_reason(answer, why):
    assert why in text(check_chat(answer, members), State.WRONG)


@pytest.mark.parametrize(("answer", "why"), [(3, "not 3"), ("chat", "not 'chat'")])
def test_a_room_that_is_no_handler_is_told(answer, why):
    assert why in text(check_chat(answer, members), State.WRONG)


def test_members_that_are_no_list_are_told():
    assert "the list of the streams in the room, not set()" in text(
        check_chat(chats, set()), State.WRONG
    )


async def spins(request, response):
    members.append(await response.take_over())
    while True:
        pass


async def sleeps_long(request, response):
    members.append(await response.take_over())
    time.sleep(6)  # noqa: ASYNC251 - the mistake


async def spins_when_all_are_in(request, response):
    async with await response.take_over() as stream:
        members.append(stream)
        async for _ in stream:
            while True:
                pass


async def spins_in_each_handler(request, response):
    members.append(await response.take_over())
    while len(members) < 3:  # noqa: ASYNC110 - it waits for the others
        await asyncio.sleep(0.01)
    while True:
        pass


@pytest.mark.parametrize(
    "answer", [spins, sleeps_long, spins_when_all_are_in, spins_in_each_handler]
)
def test_a_room_that_blocks_is_ended(answer):
    verdict = check_chat(answer, members)
    assert "The handler blocks the server's loop" in text(verdict, State.WRONG)
    members.clear()
    deadline = time.monotonic() + 30
    while any(thread.name == "http3-server" for thread in threading.enumerate()):
        time.sleep(0.05)  # until the call returns that nothing can interrupt
        assert time.monotonic() < deadline
