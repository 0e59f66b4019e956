from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import bson
import msgspec
import pytest
from bson.codec_options import CodecOptions

from callboard.core.events import ContinuedAsNew, ExecutionStarted, TaskScheduled
from callboard.core.instances import Commit, InstanceRecord, Parked, Projection
from callboard.errors import ConfigurationError, CorruptHistoryError, InvalidInstanceIdError
from callboard.ports import Quarantined
from callboard.testing.store_contract.values import (
    AWKWARD_IDS,
    commit,
    continued,
    full_record,
    projection,
    record,
    rich_commit,
)
from callboard_store.documents import (
    Document,
    commit_document,
    commit_id,
    commit_of,
    commit_range,
    projection_update,
    quarantined_document,
    quarantined_of,
    record_document,
    record_of,
)
from callboard_store.rules import (
    check_hub,
    continuation,
    current_execution,
    parse_continuation,
    payload_hashes,
    prefix_end,
    projected,
)

NOW = datetime(2026, 11, 22, 17, 0, 0, 123_000, tzinfo=UTC)
OPTIONS: CodecOptions[Document] = CodecOptions(tz_aware=True)


def through_bson(document: Document) -> Document:
    return bson.decode(bson.encode(document), OPTIONS)  # pyright: ignore[reportUnknownMemberType]  array is generic there


def test_a_commit_reads_well() -> None:
    events = (TaskScheduled(timestamp=NOW, event_id=0, name="say_hello", input='"Tokyo"'),)
    stored = Commit(
        instance_id="trip-1",
        n=3,
        execution_id="e",
        first=0,
        partition=7,
        token="t",
        at=NOW,
        runtime_status="Running",
        events=events,
    )
    assert through_bson(commit_document(stored)) == {
        "_id": "trip-1/0000000003",
        "instanceId": "trip-1",
        "n": 3,
        "executionId": "e",
        "first": 0,
        "partition": 7,
        "token": "t",
        "at": NOW,
        "runtimeStatus": "Running",
        "events": [
            {"eventType": "TaskScheduled", "timestamp": NOW, "eventId": 0, "name": "say_hello", "input": '"Tokyo"'}
        ],
    }


@pytest.mark.parametrize("value", [commit("a", 0), rich_commit("a", 9_999_999), continued("a", 2, "e1", "e2")])
def test_a_commit_round_trips(value: Commit) -> None:
    assert commit_of(through_bson(commit_document(value))) == value


@pytest.mark.parametrize("value", [record("a"), full_record("é/"[:1])])
def test_a_record_round_trips(value: InstanceRecord) -> None:
    assert record_of(through_bson(record_document(value))) == value


def test_what_updates_rely_on_is_always_in_a_record() -> None:
    document = record_document(record("a"))
    assert (document["head"], document["first"], document["generation"], document["runtimeStatus"]) == (
        -1,
        0,
        0,
        "Pending",
    )
    assert document["startAfter"] == record("a").created_time
    assert "startAfter" not in record_document(record("a", runtime_status="Terminated"))


def test_times_in_other_zones_are_the_same_times() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert commit_of(through_bson(commit_document(commit("a", 0, at=elsewhere)))).at == NOW


def test_keys_of_an_instance_are_a_range_that_no_other_is_in() -> None:
    for each in AWKWARD_IDS:
        bounds = commit_range(each)
        for other in AWKWARD_IDS:
            for n in (0, 9, 10, 9_999_999_999):
                inside = bounds["$gte"].encode() <= commit_id(other, n).encode() < bounds["$lt"].encode()
                assert inside == (other == each)
    assert commit_id("a", 9) < commit_id("a", 10) < commit_id("a", 100)
    with pytest.raises(InvalidInstanceIdError):
        commit_id("a/b", 0)


def apply(document: Document, update: Document) -> Document:
    left = {name: value for name, value in document.items() if name not in update["$unset"]}
    return through_bson({**left, **update["$set"]})


def projections() -> list[Projection]:
    chain = continued("a", 4, "e1", "e2")
    return [
        projection(commit("a", 4, custom_status='"x"', runtime_status="Suspended")),
        projection(commit("a", 4), parked=Parked(reason="r", at=NOW)),
        projection(commit("a", 4), begins=True, input=None),
        projection(commit("a", 4), output='"o"', completed_time=NOW),
        projection(chain),
    ]


@pytest.mark.parametrize("change", projections())
@pytest.mark.parametrize("before", [record("a"), msgspec.structs.replace(full_record("a"), generation=0)])
def test_the_update_of_a_document_is_the_change_of_a_record(before: InstanceRecord, change: Projection) -> None:
    assert record_of(apply(record_document(before), projection_update(change))) == projected(before, change)


def test_a_quarantined_body_is_text_where_it_is_text() -> None:
    def stored(body: bytes) -> Document:
        message = Quarantined(id="m", at=NOW, source="s", reason="r", body=body, headers={"$a.": "b"})
        document = through_bson(quarantined_document(message))
        assert quarantined_of(document) == message
        return document

    assert stored(b'{"a": 1}')["body"] == '{"a": 1}'
    assert stored(b"\xff\x00")["body"] == b"\xff\x00"


def test_a_huge_quarantined_body_is_cut() -> None:
    message = Quarantined(id="m", at=NOW, source="s", reason="r", body=b"x" * 20_000_000, headers={})
    document = quarantined_document(message)
    assert len(bson.encode(document)) < 5_000_000
    assert document["bodyBytes"] == 20_000_000


def test_the_end_of_a_prefix() -> None:
    assert prefix_end("a") == "b"
    assert prefix_end("a\U0010ffff") == "b"
    assert prefix_end("\U0010ffff") is None
    assert prefix_end("\ud7ff") == "\ue000"


def test_a_continuation_round_trips() -> None:
    for each in AWKWARD_IDS:
        assert parse_continuation(continuation(record(each, created_time=NOW))) == (NOW, each)


@pytest.mark.parametrize("token", ["", "x", "e30=", "bnVsbA==", "\ud800"])
def test_a_foreign_continuation_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="continuation"):
        parse_continuation(token)


@pytest.mark.parametrize("hub", ["", "1a", "a.b", "a b", "a" * 46, "é", "a\n"])
def test_hub_names(hub: str) -> None:
    assert check_hub("Trips-1_x") == "Trips-1_x"
    with pytest.raises(ConfigurationError, match="Use 1 to 45"):
        check_hub(hub)


class TestCurrentExecution:
    def test_nothing(self) -> None:
        assert current_execution(record("a"), []) == ()

    def test_a_gap_is_named(self) -> None:
        with pytest.raises(CorruptHistoryError) as caught:
            current_execution(record("a"), [commit("a", 0), commit("a", 3)])
        assert (caught.value.instance_id, caught.value.missing) == ("a", 1)

    def test_a_missing_beginning_is_a_gap(self) -> None:
        with pytest.raises(CorruptHistoryError, match="commit 0"):
            current_execution(record("a"), [commit("a", 1)])

    def test_gaps_in_what_is_over_do_not_matter(self) -> None:
        last = commit("a", 5, execution="e2", first=5)
        assert current_execution(record("a"), [commit("a", 1), last]) == (last,)

    def test_a_continuation_whose_events_are_in_a_payload_counts_where_the_record_says_so(self) -> None:
        moved = commit("a", 1, events=(), body="a/0")
        assert current_execution(record("a", first=2, head=1), [moved]) == (moved,)

    def test_the_end_of_the_instance_before_does_not(self) -> None:
        ended = commit("a", 1, runtime_status="Completed")
        assert current_execution(record("a", first=2, head=1), [ended]) == ()


def test_payload_keys_are_found_wherever_they_are() -> None:
    sha = "0123456789abcdef" * 4
    other = sha[::-1]
    start = ExecutionStarted(timestamp=NOW, name="n", execution_id="e", input=f'{{"x":"é\\"/{sha}"}}')
    inside = commit("a", 0, events=(ContinuedAsNew(timestamp=NOW, event_id=0, next=start),), body=f"a/{other}")
    assert payload_hashes([inside, record("a", input=f'"/{sha}0"'), f"b/{sha}".encode()]) == {sha, other}
    assert payload_hashes([record("a", input=f'"{sha}"'), record("b", input=f'"/{sha}a"')]) == set()
