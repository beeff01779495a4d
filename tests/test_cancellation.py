"""A handler whose client leaves is told as asyncio tells: groups, time limits and clean-up hold.

What waits for the client raises ClientDisconnected, any other `await` is cancelled. All of it is in
memory, on a clock of its own (pair.py).
"""

import asyncio

import pytest

from helpers.errors import ClientDisconnected
from tests.pair import GET, POST, Site

pytestmark = pytest.mark.anyio


@pytest.fixture
async def site(credentials):
    return Site(credentials).connect()


async def leave(site, handler):
    """Ask for a handler, let it run until it waits, and leave; returns once it has ended."""
    site.route("/")(handler)
    stream = site.request(POST, end_stream=False)
    await site.run(1.0)
    assert len(site.router.running) == 1, site.errors
    stream.cancel()
    await site.run(1.0)
    assert site.router.running == set()


async def for_ever():
    await asyncio.Event().wait()


async def write_on(response):
    while True:
        await response.write(bytes(65536))


async def test_a_handler_that_sleeps_is_cancelled_where_its_request_breaks_the_rules(site):
    """Its client is told so, and gets nothing more."""
    ended = []

    @site.route("/")
    async def sleeps(request, response):
        try:
            await for_ever()
        finally:
            ended.append(site.now)

    stream = site.request([*POST, (b"content-length", b"5")], end_stream=False)
    await site.run(1.0)
    await stream.write(b"too")
    await stream.close()
    await site.run(1.0)
    assert ended
    assert site.errors == []


# ---- groups of tasks


async def wait_at_its_end(request, response):
    pass


async def wait_in_its_body(request, response):
    await for_ever()


async def write_in_its_body(request, response):
    await write_on(response)


async def read_in_its_body(request, response):
    await request.read()


@pytest.mark.parametrize(
    "body", [wait_at_its_end, wait_in_its_body, write_in_its_body, read_in_its_body]
)
async def test_the_children_of_a_group_are_cancelled(site, body):
    ended = []

    async def child(number):
        try:
            await for_ever()
        finally:
            ended.append(number)

    async def handler(request, response):
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(child(number))
            await body(request, response)

    await leave(site, handler)
    assert sorted(ended) == [0, 1, 2]
    assert site.errors == []


async def test_a_child_that_writes_and_its_group_both_end(site):
    seen = []

    async def child(response):
        try:
            await write_on(response)
        except ClientDisconnected:
            seen.append("told")
            raise

    async def handler(request, response):
        async with asyncio.TaskGroup() as group:
            group.create_task(child(response))

    await leave(site, handler)
    assert seen == ["told"]
    assert site.errors == []


async def test_gathered_tasks_are_cancelled(site):
    ended = []

    async def child():
        try:
            await for_ever()
        finally:
            ended.append(True)

    async def handler(request, response):
        await asyncio.gather(child(), child())

    await leave(site, handler)
    assert ended == [True, True]
    assert site.errors == []


# ---- cleaning up


@pytest.mark.parametrize("body", [wait_in_its_body, write_in_its_body, read_in_its_body])
async def test_a_time_limit_in_the_clean_up_raises_what_it_promises(site, body):
    seen = []

    async def handler(request, response):
        try:
            await body(request, response)
        finally:
            try:
                async with asyncio.timeout(0):
                    await for_ever()
            except BaseException as error:
                seen.append(type(error))
                raise

    await leave(site, handler)
    assert seen == [TimeoutError]
    assert [type(error) for error in site.errors] == [TimeoutError]


async def test_a_time_limit_that_has_not_come_is_not_what_ended_the_handler(site):
    seen = []

    async def handler(request, response):
        try:
            async with asyncio.timeout(3600):
                await for_ever()
        except BaseException as error:
            seen.append(type(error))
            raise

    await leave(site, handler)
    assert seen == [asyncio.CancelledError]
    assert site.errors == []


@pytest.mark.parametrize("body", [wait_in_its_body, write_in_its_body, read_in_its_body])
async def test_a_clean_up_awaits_as_long_as_it_likes(site, body):
    seen = []

    async def handler(request, response):
        try:
            await body(request, response)
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            seen.append("cleaned up")

    await leave(site, handler)
    assert seen == ["cleaned up"]
    assert site.errors == []


@pytest.mark.parametrize("body", [wait_in_its_body, write_in_its_body, read_in_its_body])
async def test_a_handler_that_returns_after_all_is_no_error(site, body):
    async def handler(request, response):
        try:
            await body(request, response)
        except (ClientDisconnected, asyncio.CancelledError):
            return

    await leave(site, handler)
    assert site.errors == []


# ---- whose error it is


async def raise_alone(error):
    raise error


async def raise_in_a_group(error):
    raise BaseExceptionGroup("some", [error])


async def raise_in_a_group_of_groups(error):
    raise BaseExceptionGroup("some", [BaseExceptionGroup("inner", [error]), error])


@pytest.mark.parametrize("raises", [raise_alone, raise_in_a_group, raise_in_a_group_of_groups])
@pytest.mark.parametrize("body", [wait_in_its_body, write_in_its_body, read_in_its_body])
async def test_what_the_client_caused_is_no_error_of_the_handlers(site, body, raises):
    async def handler(request, response):
        try:
            await body(request, response)
        except (ClientDisconnected, asyncio.CancelledError) as error:
            await raises(error)

    await leave(site, handler)
    assert site.errors == []


@pytest.mark.parametrize("body", [wait_in_its_body, write_in_its_body, read_in_its_body])
async def test_a_group_that_holds_another_error_is_one_of_the_handlers(site, body):
    async def child():
        try:
            await for_ever()
        finally:
            raise ZeroDivisionError("in the clean-up")

    async def handler(request, response):
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await body(request, response)

    await leave(site, handler)
    (error,) = site.errors
    assert error.split(ZeroDivisionError)[0].exceptions[0].args == ("in the clean-up",)


async def test_another_error_in_the_clean_up_is_one_of_the_handlers(site):
    async def handler(request, response):
        try:
            await for_ever()
        finally:
            raise ZeroDivisionError

    await leave(site, handler)
    assert [type(error) for error in site.errors] == [ZeroDivisionError]


async def test_a_cancelled_group_is_an_error_while_the_client_is_there(site):
    @site.route("/")
    async def handler(request, response):
        raise BaseExceptionGroup("some", [asyncio.CancelledError()])

    response = await site.soon(site.http.get(site.url("/")))
    assert response.status_code == 500
    assert [type(error) for error in site.errors] == [BaseExceptionGroup]


async def test_another_handler_s_client_that_leaves_is_an_error_while_the_own_one_is_there(site):
    """As where one request writes to the streams that others took over."""
    taken = []

    @site.route("/listen")
    async def listen(request, response):
        taken.append(await response.take_over())

    @site.route("/tell")
    async def tell(request, response):
        await taken[0].write(b"news")

    listener = site.request([*GET[:-1], (b":path", b"/listen")])
    await site.run(1.0)
    listener.cancel()
    await site.run(1.0)
    response = await site.soon(site.http.get(site.url("/tell")))
    assert response.status_code == 500
    assert [type(error) for error in site.errors] == [ClientDisconnected]


# ---- a client that will not read the answer


@pytest.mark.parametrize("code", [0x10C, 0x100])
async def test_who_reads_the_request_is_told_that_nobody_wants_the_answer(site, code):
    told = []

    @site.route("/")
    async def handler(request, response):
        try:
            await request.read()
        except BaseException as error:
            told.append(error)
            raise

    stream = site.request(POST, end_stream=False)
    await stream.write(b"the first of many")
    await site.run(1.0)
    stream.stop(code)
    await site.run(1.0)
    (error,) = told
    assert isinstance(error, ClientDisconnected)
    assert (error.stream_id, error.code) == (stream.stream_id, code)
    assert "it sent STOP_SENDING with" in str(error)
    assert site.router.running == set()
    assert site.errors == []


async def test_who_awaits_something_else_meanwhile_is_cancelled(site):
    """Reading stands in another task here, which is the handler's own affair."""
    told = []

    async def read(request):
        try:
            await request.read()
        except BaseException as error:
            told.append(type(error))
            raise

    @site.route("/")
    async def handler(request, response):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(read(request))
                await for_ever()
        except BaseException as error:
            told.append(type(error))
            raise

    stream = site.request(POST, end_stream=False)
    await site.run(1.0)
    stream.stop()
    await site.run(1.0)
    assert told == [asyncio.CancelledError, asyncio.CancelledError]
    assert site.errors == []
