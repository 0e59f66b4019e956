"""Controlling instances over HTTP: restart, and purge with children."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.http.scene import BASE, PREFIX, api

EVERYTHING = "instances?createdTimeFrom=2000-01-01"


async def test_a_restart_has_the_same_input_and_by_default_a_new_id(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        await scene.start("echo", {"a": [1]}, "one")
        await scene.until("one")
        answer = await scene.ask("POST", "instances/one/restart")
        new_id = answer.json()["id"]
        assert answer.status_code == 202
        assert new_id != "one"
        assert answer.headers["location"] == f"{BASE}{PREFIX}/instances/{new_id}?taskHub=theatre"
        assert (await scene.until(new_id))["output"] == {"a": [1]}


async def test_a_restart_may_keep_the_id_and_wait_for_the_end(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        await scene.start("echo", 7, "one")
        first = await scene.client.wait("one", 20)
        answer = await scene.ask("POST", "instances/one/restart?restartWithNewInstanceId=false&timeout=20")
        assert (answer.status_code, answer.json()) == (200, 7)
        assert (await scene.client.get_status("one")).execution_id != first.execution_id


@pytest.mark.parametrize(("query", "status"), [("restartWithNewInstanceId=false", 409), ("", 202)])
async def test_an_instance_that_runs_is_restarted_under_a_new_id_only(tmp_path: Path, query: str, status: int) -> None:
    async with api(tmp_path) as scene:
        await scene.start("approve", instance_id="one")
        await scene.until("one", "Running")
        answer = await scene.ask("POST", f"instances/one/restart?{query}")
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("instances/nobody/restart", "No instance 'nobody' exists in this task hub."),
        ("instances/one/restart?restartWithNewInstanceId=x", "'restartWithNewInstanceId' must be true or false"),
        ("instances/one/restart?timeout=1&pollingInterval=2", "'pollingInterval' must not be more than 'timeout'"),
    ],
)
async def test_a_restart_that_cannot_be_is_400(tmp_path: Path, path: str, complaint: str) -> None:
    async with api(tmp_path) as scene:
        await scene.start("echo", 1, "one")
        answer = await scene.ask("POST", path)
        assert answer.status_code == 400
        assert complaint in answer.json()["Message"]


async def test_a_purge_takes_the_children_with_it(tmp_path: Path) -> None:
    async with api(tmp_path) as scene:
        for number in range(2):
            await scene.start("family", 2, f"mother-{number}")
            assert (await scene.until(f"mother-{number}"))["output"] == 7
        answer = await scene.ask("DELETE", "instances/mother-0")
        assert (answer.status_code, answer.json()) == (200, {"instancesDeleted": 7})
        answer = await scene.ask("DELETE", EVERYTHING)
        assert (answer.status_code, answer.json()) == (200, {"instancesDeleted": 7})
        assert (await scene.ask("DELETE", EVERYTHING)).status_code == 404
        assert (await scene.ask("GET", "instances")).json() == []
