"""The whole route table of Durable Functions' HTTP API, over a real worker on a file."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from callboard.http import create_check_status_response, create_http_app

from .scene import BASE, PREFIX, Api, api, asking

SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
HELLOS = ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]
CITIES = ["Tokyo", "Seattle", "London"]


def message_of(answer: httpx.Response) -> str:
    """Checks that an error has Durable Functions' form and gives nothing away; returns what it says."""
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, str] = answer.json()
    assert list(body) == ["Message"]
    assert body["Message"]
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    return body["Message"]


# Starting


@pytest.mark.parametrize("starter", ["/api/orchestrators", f"{PREFIX}/orchestrators"])
async def test_a_start_is_answered_with_all_management_uris(tmp_path: Path, starter: str) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask("POST", f"{starter}/hello_sequence/a b", json=CITIES)
        instance = f"{BASE}{PREFIX}/instances/a%20b"
        assert answer.status_code == 202
        assert answer.headers["location"] == f"{instance}?taskHub=theatre"
        assert answer.headers["retry-after"] == "10"
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {
            "id": "a b",
            "statusQueryGetUri": f"{instance}?taskHub=theatre",
            "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?taskHub=theatre",
            "terminatePostUri": f"{instance}/terminate?reason={{text}}&taskHub=theatre",
            "purgeHistoryDeleteUri": f"{instance}?taskHub=theatre",
            "restartPostUri": f"{instance}/restart?taskHub=theatre",
            "suspendPostUri": f"{instance}/suspend?reason={{text}}&taskHub=theatre",
            "resumePostUri": f"{instance}/resume?reason={{text}}&taskHub=theatre",
        }
        await scene.until("a b")


async def test_the_classic_request_gets_the_classic_answer(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        instance_id = await scene.start("hello_sequence", CITIES)
        assert re.fullmatch("[0-9a-f]{32}", instance_id)
        await scene.until(instance_id)
        answer = await scene.ask("GET", f"instances/{instance_id}")
        status = answer.json()
        assert answer.status_code == 200
        assert "location" not in answer.headers
        assert list(status) == [
            "name",
            "instanceId",
            "runtimeStatus",
            "input",
            "customStatus",
            "output",
            "createdTime",
            "lastUpdatedTime",
        ]
        assert SECONDS.fullmatch(status.pop("createdTime"))
        assert SECONDS.fullmatch(status.pop("lastUpdatedTime"))
        assert status == {
            "name": "hello_sequence",
            "instanceId": instance_id,
            "runtimeStatus": "Completed",
            "input": CITIES,
            "customStatus": None,
            "output": HELLOS,
        }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"content": b" \n"},
        {"content": b"null"},
        {"content": b"", "headers": {"content-type": "application/json"}},
        {"content": b"", "headers": {"content-type": "multipart/form-data"}},
        {"files": {"upload": b"{not json"}},
    ],
)
async def test_a_body_without_a_value_starts_without_input(tmp_path: Path, options: dict[str, Any]) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask("POST", "/api/orchestrators/echo", **options)
        assert answer.status_code == 202, answer.text
        status = await scene.until(answer.json()["id"])
        assert (status["input"], status["output"]) == (None, "no input")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": [1, 2.5, true, "\\u00fc"]}', {"a": [1, 2.5, True, "\u00fc"]}),
        ("\ufeff[1]".encode(), [1]),
        (b'"$where"', "$where"),
        (b"false", False),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
async def test_any_json_is_an_input_whatever_its_content_type(tmp_path: Path, content: bytes, expected: Any) -> None:
    async with api(tmp_path) as scene:
        headers = {"content-type": "application/x-www-form-urlencoded"}  # curl -d
        answer = await scene.ask("POST", "/api/orchestrators/echo", content=content, headers=headers)
        status = await scene.until(answer.json()["id"])
        assert (status["input"], status["output"]) == (expected, expected)


@pytest.mark.parametrize(
    "content", [b"{not json", b"'text'", b"\xff\xfe", b'"\\ud800"', b"[" * 100_000, b"NaN", b"1 2"]
)
async def test_a_body_that_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask("POST", "/api/orchestrators/echo", content=content)
        assert answer.status_code == 400
        message_of(answer)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [1001, 100_000])
async def test_a_body_over_the_limit_is_refused(tmp_path: Path, size: int, chunked: bool) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(size // 100):
            yield b"1" * 100
        yield b"1" * (size % 100)

    async with api(tmp_path, body_limit=1000) as scene:
        content = pieces() if chunked else b"1" * size
        answer = await scene.ask("POST", "/api/orchestrators/echo", content=content)
        assert answer.status_code == 413
        assert "1,000 bytes" in message_of(answer)
        assert (await scene.ask("POST", "/api/orchestrators/echo", content=b"1" * 1000)).status_code == 202


@pytest.mark.parametrize("name", ["Nobody", "HELLO_SEQUENCE", "a%20b", "%00", "@x", "x" * 300])
async def test_an_unknown_orchestration_is_a_bad_request(tmp_path: Path, name: str) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask("POST", f"/api/orchestrators/{name}")
        assert answer.status_code == 400
        assert "approve, broke, echo, family, hello_sequence" in message_of(answer)


@pytest.mark.parametrize("instance_id", ["@me", "a%2Fb", "a/b", "a%5Cb", "a%23b", "a%3Fb", "a%00b", "a%7Fb", "x" * 257])
async def test_an_id_that_is_not_allowed_is_a_bad_request(tmp_path: Path, instance_id: str) -> None:
    async with api(tmp_path) as scene:
        for method, path in (
            ("POST", f"/api/orchestrators/echo/{instance_id}"),
            ("GET", f"instances/{instance_id}"),
            ("DELETE", f"instances/{instance_id}"),
            ("POST", f"instances/{instance_id}/terminate"),
            ("POST", f"instances/{instance_id}/raiseEvent/x"),
        ):
            answer = await scene.ask(method, path, headers={"content-type": "application/json"})
            assert answer.status_code == 400, (method, path)
            assert "is not allowed" in message_of(answer)


async def test_an_id_in_use_is_a_conflict_and_an_ended_one_is_taken_anew(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        await scene.start("approve", instance_id="one")
        answer = await scene.ask("POST", "/api/orchestrators/echo/one", json=1)
        assert answer.status_code == 409
        assert "already exists" in message_of(answer)
        await scene.ask("POST", "instances/one/terminate")
        await scene.until("one")
        await scene.start("echo", 2, "one")
        assert (await scene.until("one", "Completed"))["output"] == 2


async def test_a_start_may_wait_for_the_result(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        done = await scene.ask("POST", "/api/orchestrators/hello_sequence?timeout=20&pollingInterval=0.5", json=CITIES)
        assert (done.status_code, done.json()) == (200, HELLOS)
        not_done = await scene.ask("POST", "/api/orchestrators/approve?timeout=0.2")
        assert not_done.status_code == 202
        assert not_done.json()["id"]
        failed = await scene.ask("POST", "/api/orchestrators/broke?timeout=20")
        assert (failed.status_code, failed.json()["runtimeStatus"]) == (200, "Failed")
        failed = await scene.ask("POST", "/api/orchestrators/broke?timeout=20&returnInternalServerErrorOnFailure=true")
        assert (failed.status_code, failed.json()["runtimeStatus"]) == (500, "Failed")


@pytest.mark.parametrize(
    "query",
    ["timeout=1&pollingInterval=2", "timeout=soon", "timeout=-1", "timeout=nan", "timeout=inf", "taskHub=other"],
)
async def test_a_start_with_a_bad_query_starts_nothing(tmp_path: Path, query: str) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask("POST", f"/api/orchestrators/echo?{query}")
        assert answer.status_code == 400
        message_of(answer)
        assert (await scene.ask("GET", "instances")).json() == []


# Looking


async def test_a_running_instance_is_202_with_a_place_to_look_again(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        await scene.start("approve", {"amount": 5}, "one")
        await scene.until("one", "Running")
        answer = await scene.ask("GET", "instances/one?taskHub=theatre&showInput=false")
        assert answer.status_code == 202
        assert answer.headers["retry-after"] == "5"
        assert answer.headers["location"] == f"{BASE}{PREFIX}/instances/one?taskHub=theatre&showInput=false"
        assert answer.json()["customStatus"] == {"stage": 1}
        assert answer.json()["input"] is None
        assert (await scene.ask("GET", "instances/one")).json()["input"] == {"amount": 5}


async def test_a_failure_is_shown_without_a_stack_trace_and_is_500_on_request(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        await scene.start("broke", instance_id="one")
        status = await scene.until("one")
        assert status["runtimeStatus"] == "Failed"
        assert "card declined for 5" in status["output"]
        assert (await scene.ask("GET", "instances/one")).status_code == 200
        answer = await scene.ask("GET", "instances/one?returnInternalServerErrorOnFailure=true&showHistory=true")
        assert answer.status_code == 500
        assert "Traceback" not in answer.text
        assert ".py" not in answer.text
        failed = answer.json()["historyEvents"][1]
        assert failed["EventType"] == "TaskFailed"
        assert failed["Reason"] == "Activity function 'pay' failed: card declined for 5"


async def test_the_history_is_folded_as_durable_functions_does(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        await scene.start("hello_sequence", ["Tokyo"], "one")
        assert "historyEvents" not in await scene.until("one")
        whole = (await scene.ask("GET", "instances/one?showHistory=true&showHistoryOutput=true")).json()
        assert list(whole)[-1] == "historyEvents"
        started, completed, ended = whole["historyEvents"]
        for event in (started, completed, ended):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", event.pop("Timestamp"))
        assert started == {"EventType": "ExecutionStarted", "FunctionName": "hello_sequence", "Input": '["Tokyo"]'}
        assert completed.pop("ScheduledTime")
        assert completed == {
            "EventType": "TaskCompleted",
            "FunctionName": "say_hello",
            "Input": '"Tokyo"',
            "Result": "Hello Tokyo!",
        }
        assert ended == {
            "EventType": "ExecutionCompleted",
            "OrchestrationStatus": "Completed",
            "Result": ["Hello Tokyo!"],
        }
        bare = (await scene.ask("GET", "instances/one?SHOWHISTORY=True&showinput=False")).json()
        assert bare["input"] is None
        assert not any({"Input", "Result"} & event.keys() for event in bare["historyEvents"])


async def test_instances_are_listed_in_pages_with_filters(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        for number in range(5):
            await scene.start("echo", number, f"done-{number}")
            await scene.until(f"done-{number}")
        await scene.start("approve", instance_id="waiting")
        await scene.until("waiting", "Running")

        async def ids(query: str) -> list[str]:
            answer = await scene.ask("GET", f"instances?{query}")
            assert answer.status_code == 200, answer.text
            return sorted(instance["instanceId"] for instance in answer.json())

        assert await ids("runtimeStatus=running") == ["waiting"]
        assert len(await ids("runtimeStatus=Completed,Running,Failed")) == 6
        assert await ids("runtimeStatus=Canceled") == []
        assert await ids("instanceIdPrefix=done-") == [f"done-{number}" for number in range(5)]
        assert await ids("instanceIdPrefix=.*") == []
        assert await ids("createdTimeFrom=2100-01-01") == []
        assert len(await ids("createdTimeFrom=2000-01-01T00:00:00Z&createdTimeTo=2100-01-01T00:00:00%2B01:00")) == 6
        assert len(await ids("createdTimeTo=2100-01-01T00:00:00+01:00")) == 6  # a plus that was not escaped
        assert len(await ids("createdTimeFrom=2000-01-01 00:00:00")) == 6
        shown = (await scene.ask("GET", "instances?runtimeStatus=completed&top=1&showInput=false")).json()
        assert (shown[0]["input"], shown[0]["output"]) == (None, 4)

        seen: list[str] = []
        headers: dict[str, str] = {}
        while True:
            page = await scene.ask("GET", "instances?top=4", headers=headers)
            seen += [instance["instanceId"] for instance in page.json()]
            if "x-ms-continuation-token" not in page.headers:
                break
            headers["x-ms-continuation-token"] = page.headers["x-ms-continuation-token"]
        assert sorted(seen) == sorted(await ids("top=1000"))
        assert len(seen) == 6


@pytest.mark.parametrize(
    "query",
    [
        "top=0",
        "top=-1",
        "top=many",
        "top=" + "9" * 40,
        "top=%F0%9F%90%8D",
        "runtimeStatus=Done",
        "createdTimeFrom=yesterday",
        "createdTimeTo=9999-12-31T23:59:59-23:00",
        "createdTimeFrom=0001-01-01T00:00:00%2B23:00",
        "showInput=maybe",
        "taskHub=other",
    ],
)
async def test_a_bad_filter_is_a_bad_request(tmp_path: Path, query: str) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask("GET", f"instances?{query}")
        assert answer.status_code == 400
        message_of(answer)


async def test_a_foreign_continuation_token_is_a_bad_request(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        for token in ("garbage", "e30=", '{"$gt": ""}', "\u00fc"):
            answer = await scene.ask("GET", "instances", headers={"x-ms-continuation-token": token.encode()})
            assert answer.status_code == 400, token
            message_of(answer)


# Sending


async def test_an_event_reaches_its_waiter_in_any_spelling(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        await scene.start("approve", instance_id="one")
        headers = {"content-type": "application/json; charset=utf-8"}
        answer = await scene.ask("POST", "instances/one/RAISEEVENT/Approval", content=b'{"by": "Ann"}', headers=headers)
        assert (answer.status_code, answer.content) == (202, b"")
        assert (await scene.until("one"))["output"] == {"by": "Ann"}


async def test_an_event_must_be_json_and_have_a_name(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        await scene.start("approve", instance_id="one")
        as_json = {"content-type": "application/json"}
        for path, content, headers in (
            ("raiseEvent/approval", b"true", {}),
            ("raiseEvent/approval", b"true", {"content-type": "text/plain"}),
            ("raiseEvent/approval", b"{not json", as_json),
            ("raiseEvent/", b"true", as_json),
            ("raiseEvent/" + "x" * 257, b"true", as_json),
        ):
            answer = await scene.ask("POST", f"instances/one/{path}", content=content, headers=headers)
            assert answer.status_code == 400, path
            message_of(answer)
        assert (await scene.ask("POST", "instances/one/raiseEvent/approval", json=None)).status_code == 400
        answer = await scene.ask("POST", "instances/one/raiseEvent/approval", content=b"null", headers=as_json)
        assert answer.status_code == 202
        assert (await scene.until("one"))["output"] is None


async def test_terminate_ends_an_instance_with_its_reason(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        await scene.start("approve", instance_id="one")
        answer = await scene.ask("POST", "instances/one/Terminate?reason=no%20longer%20needed")
        assert (answer.status_code, answer.content) == (202, b"")
        status = await scene.until("one")
        assert (status["runtimeStatus"], status["output"]) == ("Terminated", "no longer needed")


async def test_a_suspended_instance_keeps_its_events_until_it_is_resumed(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        await scene.start("approve", instance_id="one")
        await scene.until("one", "Running")
        assert (await scene.ask("POST", "instances/one/suspend?reason=lunch")).status_code == 202
        await scene.until("one", "Suspended")
        assert (await scene.ask("GET", "instances/one")).status_code == 202
        assert (await scene.ask("POST", "instances/one/raiseEvent/approval", json=True)).status_code == 202
        assert (await scene.ask("POST", "instances/one/resume")).status_code == 202
        assert (await scene.until("one"))["output"] is True


OPERATIONS = [
    ("POST", "/raiseEvent/approval"),
    ("POST", "/terminate"),
    ("POST", "/suspend"),
    ("POST", "/resume"),
]


@pytest.mark.parametrize(("method", "operation"), [("GET", ""), ("DELETE", ""), *OPERATIONS])
async def test_a_missing_instance_is_404(tmp_path: Path, method: str, operation: str) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask(method, f"instances/nobody{operation}", headers={"content-type": "application/json"})
        assert answer.status_code == 404
        assert message_of(answer) == "No instance 'nobody' exists in this task hub."


@pytest.mark.parametrize(("method", "operation"), OPERATIONS)
async def test_an_instance_that_has_ended_is_410(tmp_path: Path, method: str, operation: str) -> None:
    async with api(tmp_path) as scene:
        await scene.start("echo", 1, "one")
        await scene.until("one")
        answer = await scene.ask(method, f"instances/one{operation}", headers={"content-type": "application/json"})
        assert answer.status_code == 410
        assert "is Completed" in message_of(answer)


async def test_an_instance_that_has_ended_can_be_purged_at_once(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        await scene.start("approve", instance_id="waiting")
        answer = await scene.ask("DELETE", "instances/waiting")
        assert answer.status_code == 404
        assert "terminate it first" in message_of(answer)
        await scene.ask("POST", "/api/orchestrators/hello_sequence/one?timeout=20", json=CITIES)
        answer = await scene.ask("DELETE", "instances/one")
        assert (answer.status_code, answer.json()) == (200, {"instancesDeleted": 1})
        assert (await scene.ask("GET", "instances/one")).status_code == 404
        assert (await scene.ask("DELETE", "instances/one")).status_code == 404


async def test_many_instances_are_purged_by_filter(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask("DELETE", "instances?runtimeStatus=Completed")
        assert answer.status_code == 400
        assert message_of(answer) == "Please provide value for 'createdTimeFrom' parameter."
        for number in range(3):
            await scene.start("echo", number, f"done-{number}")
            await scene.until(f"done-{number}")
        await scene.start("approve", instance_id="waiting")
        for query in ("createdTimeFrom=2100-01-01", "createdTimeFrom=2000-01-01&runtimeStatus=Running"):
            answer = await scene.ask("DELETE", f"instances?{query}")
            assert (answer.status_code, answer.json()) == (404, {"instancesDeleted": 0})
        async with asyncio.timeout(20):
            deleted = 0
            while deleted < 3:  # the last ones may have effects under way yet
                answer = await scene.ask("DELETE", "instances?createdTimeFrom=2000-01-01")
                deleted += answer.json()["instancesDeleted"]
        assert deleted == 3
        assert [each["instanceId"] for each in (await scene.ask("GET", "instances")).json()] == ["waiting"]


# Around it


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "instances/one/rewind"),
        ("POST", "makeprimary"),
    ],
)
async def test_what_is_not_there_yet_says_so(tmp_path: Path, method: str, path: str) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask(method, path)
        assert answer.status_code == 501
        assert "not implemented" in message_of(answer)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nothing"),
        ("GET", "/api/orchestrators/echo"),
        ("PUT", "instances/one"),
        ("POST", "instances/one/explode"),
        ("GET", f"{PREFIX}/"),
        ("DELETE", "/"),
    ],
)
async def test_an_unknown_route_or_method_is_404(tmp_path: Path, method: str, path: str) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask(method, path)
        assert answer.status_code == 404
        message_of(answer)


async def test_paths_are_case_insensitive_and_ids_are_not(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        answer = await scene.ask("POST", f"{PREFIX.upper()}/Orchestrators/echo/One", json=1)
        assert answer.status_code == 202
        await scene.until("One")
        assert (await scene.ask("GET", "/Runtime/WebHooks/DurableTask/Instances/One")).status_code == 200
        assert (await scene.ask("GET", "instances/one")).status_code == 404


async def test_it_says_what_is_here_and_whether_it_is_ready(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        index = (await scene.ask("GET", "/")).json()
        assert index["hub"] == "theatre"
        assert index["orchestrations"] == ["approve", "broke", "echo", "family", "hello_sequence"]
        assert (await scene.http.get(index["instancesGetUri"])).status_code == 200
        assert (await scene.ask("GET", "/healthz")).json() == {"status": "live"}
        ready = await scene.ask("GET", "/readyz")
        assert (ready.status_code, ready.json()) == (200, {"store": "ready", "broker": "ready"})
        await scene.client.hub.store.aclose()
        away = await scene.ask("GET", "/readyz")
        assert away.status_code == 503
        assert away.headers["retry-after"] == "1"
        assert away.json()["store"].startswith("unavailable")
        await scene.client.hub.store.open("theatre", None)


async def test_mounted_in_another_app_its_uris_lead_there(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        outer = FastAPI()
        outer.mount("/durable", create_http_app(lambda: scene.client))
        async with asking(outer) as http:
            links = (await http.post("/durable/api/orchestrators/echo", json=7)).json()
            assert links["statusQueryGetUri"].startswith(f"{BASE}/durable{PREFIX}/instances/")
            await scene.until(links["id"])
            assert (await http.get(links["statusQueryGetUri"])).json()["output"] == 7


async def test_a_route_of_ones_own_answers_with_the_check_status_response(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        outer = FastAPI()
        outer.mount("/durable", create_http_app(scene.client))

        @outer.post("/orders")
        async def order(request: Request) -> Response:
            handle = await scene.client.start("echo", 7)
            return create_check_status_response(request, "theatre", handle.instance_id, mounted_at="/durable")

        async with asking(outer) as http:
            answer = await http.post("/orders")
            assert answer.status_code == 202
            await scene.until(answer.json()["id"])
            assert (await http.get(answer.headers["location"])).json()["output"] == 7


async def test_pages_of_other_sites_are_refused(tmp_path: Path) -> None:
    async with api(tmp_path, allowed_hosts=["localhost", "127.0.0.1", "::1"]) as scene:
        start = "/api/orchestrators/echo"
        for headers in (
            {"host": "evil.example"},
            {"host": "evil.example:7071"},
            {"host": "localhost.evil.example"},
            {"origin": "https://evil.example"},
            {"origin": "null"},
        ):
            answer = await scene.ask("POST", start, headers=headers)
            assert answer.status_code == 403, headers
            message_of(answer)
        assert (await scene.ask("GET", "instances")).json() == []
        for headers in (
            {"host": "127.0.0.1:7071"},
            {"host": "[::1]:7071"},
            {"host": "LOCALHOST"},
            {"host": "localhost:7071", "origin": "http://localhost:7071"},
        ):
            assert (await scene.ask("POST", start, headers=headers)).status_code == 202, headers


@pytest.mark.parametrize("host", ["[", "a b", "localhost:x", "localhost:99999", "x" * 5000, "[::1", "\u00fc"])
async def test_a_strange_host_header_breaks_nothing(tmp_path: Path, host: str) -> None:
    async with api(tmp_path) as scene:
        for method, path in (("POST", "/api/orchestrators/echo"), ("GET", "/"), ("GET", "instances/nobody")):
            answer = await scene.ask(method, path, headers={"host": host.encode()})
            assert answer.status_code < 500, (method, path, answer.text)


async def test_twenty_starts_at_once_under_one_id_give_one_instance(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        answers = await asyncio.gather(
            *(scene.ask("POST", "/api/orchestrators/approve/one", json=number) for number in range(20))
        )
        assert sorted(answer.status_code for answer in answers) == [202] + [409] * 19
        assert isinstance(scene, Api)
