"""HTTP calls as an orchestration sees them: requests are activities, waits are timers, credentials stay at home."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from callboard.core import payloads
from callboard.core.events import TaskScheduled, TimerCreated
from callboard.core.http_calls import HTTP_ACTIVITY, DurableHttpResponse, HttpReply
from callboard.errors import HttpStatusError, InvalidPayloadError, TaskFailedError
from tests.core.support import DECLINED, Instance, at, started

if TYPE_CHECKING:
    from collections.abc import Callable

    from callboard.core.context import OrchestrationContext
    from callboard.core.retrying import RetryContext

URI = "https://shop.example/orders?code=1"


class Once:
    """One more attempt, a second later; remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[RetryContext] = []

    def delay_after(self, attempt: RetryContext) -> timedelta | None:
        self.seen.append(attempt)
        return timedelta(seconds=1) if attempt.failure is not None and attempt.attempt_number == 1 else None


def calling(*args: Any, **options: Any) -> Callable[..., Any]:
    async def calls(context: OrchestrationContext) -> Any:
        response = await context.call_http(*args, **options)
        assert type(response) is DurableHttpResponse
        return [response.status_code, response.content]

    return calls


def requests(instance: Instance) -> list[dict[str, Any]]:
    assert {name for _, name, _ in instance.scheduled()} <= {HTTP_ACTIVITY}
    return [request for _, _, request in instance.scheduled()]


def reply(instance: Instance, number: int, status: int, content: str = "", **more: Any) -> Any:
    return instance.result(number, HttpReply(status_code=status, content=content, **more))


def test_a_request_is_an_activity_and_any_status_a_result() -> None:
    instance = started(calling("get", URI, headers={"Accept": "text/html"}))
    assert requests(instance) == [{"method": "GET", "uri": URI, "headers": {"Accept": "text/html"}}]
    instance.commit(reply(instance, 0, 404, "none"))
    assert instance.output == [404, "none"]


@pytest.mark.parametrize(("content", "headers", "sent", "kind"), [
    ("plain", None, "plain", "text/plain; charset=utf-8"),
    ({"amount": 5}, None, '{"amount":5}', "application/json"),
    (["a"], {"content-type": "application/x"}, '["a"]', None),
    ("", None, "", "text/plain; charset=utf-8"),
])  # fmt: skip
def test_content_is_text_or_json(content: object, headers: Any, sent: str, kind: str | None) -> None:
    (request,) = requests(started(calling("POST", URI, content, headers)))
    assert request["content"] == sent
    assert request["headers"] == (headers if kind is None else {"Content-Type": kind})


@pytest.mark.parametrize(("arguments", "options", "error"), [
    (("GET", "ftp://shop.example"), {}, "absolute URI"),
    (("GET", "/orders"), {}, "absolute URI"),
    (("GET", "https://"), {}, "absolute URI"),
    (("GET", "http:///orders"), {}, "absolute URI"),
    (("GET", "http://shop.example/a b"), {}, "no spaces"),
    (("GET", "http://shop.example/\n"), {}, "no spaces"),
    (("GET", f"http://shop.example/{'a' * 9000}"), {}, "8,192"),
    (("G T", URI), {}, "no HTTP method"),
    (("", URI), {}, "no HTTP method"),
    (("GET", URI, None, {"X-Evil": "a\r\nHost: b"}), {}, "line break"),
    (("GET", URI, None, {"X Evil": "a"}), {}, "no name"),
    (("GET", URI, b"bytes"), {}, "text or JSON"),
    (("GET", URI, object()), {}, "JSON"),
    (("GET", URI), {"timeout": 0}, "time limit"),
    (("GET", URI), {"poll_interval": float("nan")}, "time to wait"),
    (("GET", URI), {"status_codes_to_retry": [99]}, "no HTTP status"),
])  # fmt: skip
def test_what_cannot_be_sent_is_refused_at_the_call(arguments: Any, options: Any, error: str) -> None:
    async def calls(context: OrchestrationContext) -> str:
        with pytest.raises(ValueError, match=error):
            context.call_http(*arguments, **options)
        return "refused"

    instance = started(calls)
    assert instance.output == "refused"
    assert instance.scheduled() == []


# Polling


def test_an_accepted_request_is_polled_until_it_is_done() -> None:
    headers = {"Authorization": "Bearer x", "x-functions-key": "k", "Content-Type": "application/x", "Accept": "a/b"}
    instance = started(calling("POST", URI, {"a": 1}, headers, "crm", poll_interval=7, timeout=5))
    instance.commit(reply(instance, 0, 202, location="https://shop.example/status", same_origin=True, retry_after=3))
    instance.forget()
    instance.commit(instance.timer(1), after=3)
    instance.commit(reply(instance, 2, 202, location="https://shop.example/status/2", same_origin=True))
    instance.commit(instance.timer(3), after=7)
    instance.forget()
    instance.commit(reply(instance, 4, 200, "done", location="https://shop.example/elsewhere"))
    assert instance.output == [200, "done"]
    assert [timer.fire_at for timer in instance.timers()] == [at(3), at(10)]
    _, first, second = requests(instance)
    assert first == {
        "method": "GET", "uri": "https://shop.example/status", "headers": {"Authorization": "Bearer x", "Accept": "a/b"},
        "tokenSource": "crm", "timeout": 5.0,
    }  # fmt: skip
    assert second == {**first, "uri": "https://shop.example/status/2"}


def test_a_poll_at_another_origin_sees_no_credentials_and_neither_do_those_after_it() -> None:
    headers = {
        "Authorization": "x", "COOKIE": "x", "Proxy-Authorization": "x", "X-Api-Key": "x", "X-Amz-Security-Token": "x",
        "Ocp-Apim-Subscription-Key": "x", "X-Client-Secret": "x", "Host": "x", "X-Session-Id": "x",
        "Accept": "a/b", "X-Request-Id": "7",
    }  # fmt: skip
    instance = started(calling("GET", URI, None, headers, "crm"))
    instance.commit(reply(instance, 0, 202, location="https://evil.example/"))
    instance.commit(instance.timer(1), after=30)
    instance.commit(reply(instance, 2, 202, location="https://shop.example/", same_origin=False))
    instance.commit(instance.timer(3), after=30)
    for poll in requests(instance)[1:]:
        assert poll["headers"] == {"Accept": "a/b", "X-Request-Id": "7"}
        assert "tokenSource" not in poll


@pytest.mark.parametrize(("options", "more"), [
    ({"asynchronous_pattern_enabled": False}, {"location": "https://shop.example/status"}), ({}, {}),
])  # fmt: skip
def test_an_accepted_request_may_be_all(options: Any, more: Any) -> None:
    instance = started(calling("GET", URI, **options))
    instance.commit(reply(instance, 0, 202, "later", **more))
    assert instance.output == [202, "later"]


def test_a_server_cannot_stop_a_call_by_the_time_it_wants() -> None:
    instance = started(calling("GET", URI))
    instance.commit(reply(instance, 0, 202, location=URI, same_origin=True, retry_after=-5))
    instance.commit(instance.timer(1))
    instance.commit(reply(instance, 2, 202, location=URI, same_origin=True, retry_after=1e300))
    assert [timer.fire_at.year for timer in instance.timers()] == [2026, 2125]


def test_cancelling_takes_back_the_wait_for_a_poll() -> None:
    async def gives_up(context: OrchestrationContext) -> Any:
        call = context.call_http("GET", URI)
        await context.wait_for_external_event("enough")
        call.cancel()
        return await context.wait_for_external_event("end")

    instance = started(gives_up)
    instance.commit(reply(instance, 0, 202, location=URI, same_origin=True))
    assert instance.commit(instance.event("enough")).timers_cancelled == (1,)
    instance.commit(instance.event("end", "on"))
    assert instance.output == "on"
    assert len(requests(instance)) == 1


# Failures and retries


def test_no_response_is_a_failed_task() -> None:
    instance = started(calling("GET", URI))
    instance.commit(instance.result(0, failure=DECLINED))
    assert instance.failure.error_type.endswith("TaskFailedError")
    assert instance.failure.inner_failure == DECLINED


@pytest.mark.parametrize(("codes", "status", "again"), [
    ((), 503, True), ((), 404, True), ((), 302, False), ((503,), 503, True), ((503,), 500, False), ((409,), 409, True),
])  # fmt: skip
def test_statuses_are_tried_again_with_a_policy(codes: tuple[int, ...], status: int, again: bool) -> None:
    strategy = Once()
    instance = started(calling("GET", URI, retry=strategy, status_codes_to_retry=codes))
    instance.commit(reply(instance, 0, status, "busy"))
    assert (instance.status == "Running") == again
    if again:
        assert [(timer.retry_of, timer.attempt) for timer in instance.timers()] == [(0, 1)]
        instance.forget()
        instance.commit(instance.timer(1), after=1)
        instance.commit(reply(instance, 2, status, "still busy"))
        (first, _) = strategy.seen
        assert first.failure is not None
        assert first.failure.error_type == "callboard.errors.HttpStatusError"
        assert str(status) in first.failure.error_message
        assert first.result.status_code == status
    assert instance.output == [status, "still busy" if again else "busy"]


def test_without_a_policy_nothing_is_tried_again() -> None:
    instance = started(calling("GET", URI, status_codes_to_retry=[503]))
    instance.commit(reply(instance, 0, 503))
    assert instance.output == [503, ""]


def test_each_poll_has_attempts_of_its_own() -> None:
    instance = started(calling("GET", URI, retry=Once()))
    instance.commit(instance.result(0, failure=DECLINED))
    instance.commit(instance.timer(1), after=1)
    instance.commit(reply(instance, 2, 202, location=URI, same_origin=True))
    instance.commit(instance.timer(3), after=30)
    instance.forget()
    instance.commit(instance.result(4, failure=DECLINED))
    instance.commit(instance.timer(5), after=1)
    instance.commit(reply(instance, 6, 200, "done"))
    assert instance.output == [200, "done"]
    kinds = [
        (type(e).__name__, getattr(e, "retry_of", None))
        for e in instance.history
        if isinstance(e, (TaskScheduled, TimerCreated))
    ]
    assert kinds == [
        ("TaskScheduled", None), ("TimerCreated", 0), ("TaskScheduled", None), ("TimerCreated", None),
        ("TaskScheduled", None), ("TimerCreated", 4), ("TaskScheduled", None),
    ]  # fmt: skip


def test_a_reply_that_is_none_is_an_error_where_it_is_awaited() -> None:
    async def calls(context: OrchestrationContext) -> str:
        with pytest.raises(InvalidPayloadError):
            await context.call_http("GET", URI)
        return "told"

    instance = started(calls)
    instance.commit(instance.result(0, {"what": "is this"}))
    assert instance.output == "told"


# Responses


def test_a_response_decodes_its_json_and_says_what_is_wrong() -> None:
    class Order(msgspec.Struct):
        amount: int

    response = DurableHttpResponse(status_code=200, content='{"amount":5}')
    assert response.json() == {"amount": 5}
    assert response.json(Order).amount == 5
    response.raise_for_status()
    with pytest.raises(InvalidPayloadError):
        response.json(list[int])
    with pytest.raises(InvalidPayloadError):
        DurableHttpResponse(status_code=200).json()
    with pytest.raises(HttpStatusError, match="status 500: broken") as raised:
        DurableHttpResponse(status_code=500, content="broken").raise_for_status()
    assert (raised.value.status_code, len(str(HttpStatusError(500, "x" * 9_000)))) == (500, 238)


def test_a_response_can_be_a_result() -> None:
    response = DurableHttpResponse(status_code=200, headers={"a": "b"}, content="x")
    assert payloads.encode(response, "It") == '{"statusCode":200,"headers":{"a":"b"},"content":"x"}'


def test_failures_of_a_call_are_told_like_those_of_any_activity() -> None:
    async def calls(context: OrchestrationContext) -> Any:
        try:
            await context.call_http("GET", URI, retry=Once())
        except TaskFailedError as error:
            return [error.name, error.attempts]

    instance = started(calls)
    instance.commit(instance.result(0, failure=DECLINED))
    instance.commit(instance.timer(1), after=1)
    instance.commit(instance.result(2, failure=DECLINED))
    assert instance.output == [HTTP_ACTIVITY, 2]
