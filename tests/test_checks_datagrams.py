"""The exercises on datagrams: right answers are solved, wrong ones get the reason."""

import itertools
import time

import pytest

from helpers.checks import check_notices, check_ping
from helpers.checks import datagrams as checks
from helpers.checks.verdict import State


def is_unsolved(verdict, hint):
    return verdict.state is State.UNSOLVED and f"Hint: {hint[:40]}" in verdict.text


@pytest.mark.parametrize("check", [check_ping, check_notices])
@pytest.mark.parametrize("stub", [None, ..., lambda stream, asked: None])
def test_a_stub_gets_a_hint(check, stub):
    hint = checks.PING_HINT if check is check_ping else checks.NOTICE_HINT
    assert is_unsolved(check(stub), hint)


@pytest.mark.parametrize("check", [check_ping, check_notices])
def test_what_is_no_function_is_told(check):
    verdict = check("an answer")
    assert verdict.state is State.WRONG
    assert "a function of two arguments, not 'an answer'" in verdict.text


# ---- a ping


def pings(stream, count, limit_s=0.2):
    times = []
    for number in range(count):
        times.append(None)
        sent_at = time.perf_counter()
        stream.send_datagram(b"%d" % number)
        while (left_s := sent_at + limit_s - time.perf_counter()) > 0:
            try:
                echo = stream.receive_datagram(timeout_s=left_s)
            except TimeoutError:
                break
            if echo == b"%d" % number:
                times[-1] = time.perf_counter() - sent_at
                break
    return times


def pings_by_text(stream, count):
    times = {}
    for number in range(count):
        name = f"ping {number}".encode()
        started = time.perf_counter()
        stream.send_datagram(name)
        try:
            while stream.receive_datagram(0.2 - (time.perf_counter() - started)) != name:
                pass
            times[number] = time.perf_counter() - started
        except TimeoutError:
            pass
    return [times.get(number) for number in range(count)]


@pytest.mark.parametrize("answer", [pings, pings_by_text])
def test_a_ping_that_always_comes_back_is_right(answer):
    verdict = check_ping(answer)
    assert verdict.state is State.SOLVED, verdict
    assert "5 lines, each told with its losses" in verdict.text


def waits_for_ever(stream, count):
    times = []
    for number in range(count):
        sent_at = time.perf_counter()
        stream.send_datagram(b"%d" % number)
        stream.receive_datagram()
        times.append(time.perf_counter() - sent_at)
    return times


def waits_for_ever_and_catches(stream, count):
    try:
        return waits_for_ever(stream, count)
    except BaseException:  # noqa: BLE001
        return [None] * count


def takes_any_echo(stream, count):
    times = []
    for number in range(count):
        sent_at = time.perf_counter()
        stream.send_datagram(b"%d" % number)
        try:
            stream.receive_datagram(timeout_s=0.2)
            times.append(time.perf_counter() - sent_at)
        except TimeoutError:
            times.append(None)
    return times


def gives_up_with_the_first(stream, count):
    times = []
    for number in range(count):
        sent_at = time.perf_counter()
        stream.send_datagram(b"%d" % number)
        times.append(None)
        try:
            if stream.receive_datagram(timeout_s=0.2) == b"%d" % number:
                times[-1] = time.perf_counter() - sent_at
        except TimeoutError:
            pass
    return times


def sends_the_same(stream, count):
    times = []
    for _ in range(count):
        sent_at = time.perf_counter()
        stream.send_datagram(b"ping")
        try:
            stream.receive_datagram(timeout_s=0.2)
            times.append(time.perf_counter() - sent_at)
        except TimeoutError:
            times.append(None)
    return times


def counts_milliseconds(stream, count):
    return [took_s and took_s * 1000 for took_s in pings(stream, count)]


def counts_from_the_first(stream, count):
    started = time.perf_counter()
    return [took_s and time.perf_counter() - started + 0.3 for took_s in pings(stream, count)]


def leaves_out_the_lost(stream, count):
    return [took_s for took_s in pings(stream, count) if took_s is not None]


def says_zero(stream, count):
    return [took_s or 0.0 for took_s in pings(stream, count)]


def says_lost(stream, count):
    return ["lost" if took_s is None else took_s for took_s in pings(stream, count)]


def counts_them(stream, count):
    return len(pings(stream, count))


def says_all_are_lost(stream, count):
    pings(stream, count)
    return [None] * count


def waits_too_long(stream, count):
    return pings(stream, count, limit_s=3.0)


def waits_a_little_too_long(stream, count):
    return pings(stream, count, limit_s=0.6)


def lets_loss_through(stream, count):
    for number in range(count):
        stream.send_datagram(b"%d" % number)
        stream.receive_datagram(timeout_s=0.2)
    return [0.01] * count


def catches_everything(stream, count):
    times = []
    for number in range(count):
        times.append(None)
        sent_at = time.perf_counter()
        try:
            stream.send_datagram(b"%d" % number)
            while stream.receive_datagram(sent_at + 0.2 - time.perf_counter()) != b"%d" % number:
                pass
            times[-1] = time.perf_counter() - sent_at
        except Exception:  # noqa: BLE001, S110
            pass
    return times


def swallows_its_own_mistake(stream, count):
    times = []
    for number in range(count):
        try:
            stream.send_datagram(f"{number}")
            times.append(stream.receive_datagram(timeout_s=0.2))
        except Exception:  # noqa: BLE001
            times.append(None)
    return times


def sends_text(stream, count):
    stream.send_datagram("0")


def crashes(stream, count):
    stream.send_datagram(b"0")
    return undefined_name  # noqa: F821


async def is_async(stream, count):
    return [None] * count


def yields(stream, count):
    yield from pings(stream, count)


def sends_half(stream, count):
    return pings(stream, count // 2)


def never_ends(stream, count):
    for number in itertools.count():
        stream.send_datagram(b"%d" % number)


def misspells(stream, count):
    stream.send_datagramm(b"0")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (waits_for_ever, "Where some are lost: `ping` waits for ever: 2 sent, nothing more is on"),
        (waits_for_ever_and_catches, "`ping` waits for ever"),
        (takes_any_echo, "what came first was the echo of another one"),
        (gives_up_with_the_first, "and you say that it was lost"),
        (sends_the_same, "two pings were the same, b'ping'"),
        (counts_milliseconds, "return seconds"),
        (counts_from_the_first, "begin to count when this one is sent"),
        (leaves_out_the_lost, "return a list of 5, one for each ping"),
        (says_zero, "ping 1 was lost, and you say that it took 0.000 s"),
        (says_lost, "for ping 1 you say 'lost': a number of seconds, or None"),
        (counts_them, "`ping` returned 5: return a list"),
        (says_all_are_lost, "ping 0 came back after 0.01 s, and you say that it was lost"),
        (waits_too_long, "would have waited for 3"),
        (waits_a_little_too_long, "longer than the 0.2 s that you wait: None is asked"),
        (lets_loss_through, "`ping` raised TimeoutError: No datagram came"),
        (catches_everything, "returned [0.01"),
        (swallows_its_own_mistake, "UsageError: A datagram carries bytes: '0'.encode(), not a str"),
        (sends_text, "`ping` raised UsageError: A datagram carries bytes"),
        (crashes, "`ping` raised NameError: name 'undefined_name' is not defined"),
        (is_async, "write `def`, not `async def`"),
        (yields, "return a list"),
        (sends_half, "5 pings are asked, and 2 datagrams were sent"),
        (never_ends, "has sent 101 datagrams, and goes on"),
        (misspells, "has no attribute 'send_datagramm'"),
        (lambda stream: None, "`ping` raised TypeError"),
    ],
)
def test_a_ping_that_is_not_right_gets_the_reason(answer, why):
    verdict = check_ping(answer)
    assert verdict.state is State.WRONG
    assert why in verdict.text.replace("0.010", "0.01"), verdict


@pytest.mark.parametrize("check", [check_ping, check_notices])
def test_an_answer_that_does_something_else_for_ever_is_ended(monkeypatch, check):
    monkeypatch.setattr(checks, "ANSWER_TIMEOUT_S", 0.3)

    def turns(stream, asked):
        while True:
            time.sleep(0.01)

    verdict = check(turns)
    assert verdict.state is State.WRONG
    assert "did not return within 0.3 s: it waits" in verdict.text


# ---- a sender that notices


def notices(stream, messages):
    for number, message in enumerate(messages):
        stream.send_datagram(b"%d %s" % (number, message))
    missing = set(range(len(messages)))
    deadline = time.perf_counter() + 0.3
    while missing and (left_s := deadline - time.perf_counter()) > 0:
        try:
            missing.discard(int(stream.receive_datagram(timeout_s=left_s)))
        except TimeoutError:
            break
    return sorted(missing)


def listens_in_between(stream, messages):
    missing = []
    for number, message in enumerate(messages):
        missing.append(number)
        stream.send_datagram(b"%d %s" % (number, message))
        listen(stream, missing, 0)
    listen(stream, missing, 0.3)
    return missing


def listen(stream, missing, seconds):
    until = time.perf_counter() + seconds
    while missing:
        try:
            number = int(stream.receive_datagram(timeout_s=max(0, until - time.perf_counter())))
        except TimeoutError:
            return
        if number in missing:
            missing.remove(number)


@pytest.mark.parametrize("answer", [notices, listens_in_between])
def test_a_sender_that_notices_is_right(answer):
    verdict = check_notices(answer)
    assert verdict.state is State.SOLVED, verdict
    assert "7 lines, and you know of each message" in verdict.text


def send_all(stream, messages):
    for number, message in enumerate(messages):
        stream.send_datagram(b"%d %s" % (number, message))


def answers_in(stream, seconds):
    until = time.perf_counter() + seconds
    try:
        while True:
            yield stream.receive_datagram(timeout_s=max(0, until - time.perf_counter()))
    except TimeoutError:
        return


def waits_for_each(stream, messages):
    lost = []
    for number, message in enumerate(messages):
        stream.send_datagram(b"%d %s" % (number, message))
        if b"%d" % number not in answers_in(stream, 0.3):
            lost.append(number)
    return lost


def counts_answers(stream, messages):
    send_all(stream, messages)
    came = len(list(answers_in(stream, 0.3)))
    return list(range(came, len(messages)))


def expects_all(stream, messages):
    send_all(stream, messages)
    came = {int(stream.receive_datagram()) for _ in messages}
    return sorted(set(range(len(messages))) - came)


def listens_for_the_next_only(stream, messages):
    send_all(stream, messages)
    lost = []
    expected = 0
    for answer in answers_in(stream, 0.3):
        lost += range(expected, int(answer))
        expected = int(answer) + 1
    return lost


def listens_too_short(stream, messages):
    send_all(stream, messages)
    came = {int(answer) for answer in answers_in(stream, 0.1)}
    return sorted(set(range(len(messages))) - came)


def returns_those_that_came(stream, messages):
    send_all(stream, messages)
    return sorted({int(answer) for answer in answers_in(stream, 0.3)})


def returns_messages(stream, messages):
    return [messages[number] for number in notices(stream, messages)]


def returns_how_many(stream, messages):
    return len(notices(stream, messages))


def returns_bytes(stream, messages):
    return [b"%d" % number for number in notices(stream, messages)]


def returns_them_backwards(stream, messages):
    return notices(stream, messages)[::-1]


def returns_nothing(stream, messages):
    notices(stream, messages)


def sends_again(stream, messages):
    lost = notices(stream, messages)
    for number in lost:
        stream.send_datagram(b"%d %s" % (number, messages[number]))
    return lost


def forgets_the_numbers(stream, messages):
    for message in messages:
        stream.send_datagram(message)
    return []


def sends_one(stream, messages):
    return notices(stream, messages[:1])


def catches_the_reset(stream, messages):
    lost = set(range(len(messages)))
    send_all(stream, messages)
    try:
        for answer in answers_in(stream, 0.3):
            lost.discard(int(answer))
    except Exception:  # noqa: BLE001, S110
        pass
    return sorted(lost)


def mistakes_bytes_for_numbers(stream, messages):
    send_all(stream, messages)
    lost = list(range(len(messages)))
    for answer in answers_in(stream, 0.3):
        try:
            lost.remove(answer)
        except ValueError:
            pass
    return lost


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (waits_for_each, "A sender that waits for each answer is slow"),
        (counts_answers, "you say that message 9 got lost, and its answer came"),
        (expects_all, "`send_and_notice` waits for ever: 12 sent"),
        (listens_for_the_next_only, "message 11 got lost, and you did not notice"),
        (listens_too_short, "Listen until 0.3 s after the last was sent"),
        (returns_those_that_came, "The ones that got lost are asked"),
        (returns_messages, "you return b'message 0': the numbers of messages are asked"),
        (returns_how_many, "`send_and_notice` returned 0: return a list"),
        (returns_bytes, "the numbers of messages are asked"),
        (returns_them_backwards, "each number once, and in order, which is [0, 4, 5]"),
        (returns_nothing, "nothing was returned"),
        (sends_again, "not to send it again"),
        (forgets_the_numbers, "you sent b'message 0', and b'0 message 0' was asked"),
        (sends_one, "12 messages are to be sent, and you sent 1"),
        (catches_the_reset, "as if that were loss. Catch TimeoutError"),
        (mistakes_bytes_for_numbers, "ValueError: list.remove(x): x not in list"),
        (crashes, "`send_and_notice` raised NameError"),
        (is_async, "write `def`, not `async def`"),
        (never_ends, "has sent 101 datagrams, and goes on"),
        (sends_text, "A datagram carries bytes"),
    ],
)
def test_a_sender_that_does_not_notice_gets_the_reason(answer, why):
    verdict = check_notices(answer)
    assert verdict.state is State.WRONG
    assert why in verdict.text, verdict
