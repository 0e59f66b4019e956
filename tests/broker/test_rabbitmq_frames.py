"""Our frames are those that the driver's codec builds."""

from __future__ import annotations

from hypothesis import given, strategies as st
from pamqp import body, commands, frame, header

from callboard.ports import Properties
from callboard_broker.rabbitmq import frames

CHANNEL = st.integers(1, 65_535)
TAG = st.integers(1, 2**63 - 1)
SHORT = st.text(max_size=60)
NAME = st.text(max_size=32)  # pamqp cuts the names of headers at 128 bytes
MAYBE = st.none() | st.text(min_size=1, max_size=60)


@given(channel=CHANNEL, tag=TAG)
def test_settling(channel: int, tag: int) -> None:
    assert frames.ack(channel, tag) == frame.marshal(commands.Basic.Ack(tag), channel)
    assert frames.give_back(channel, tag) == frame.marshal(commands.Basic.Nack(tag, False, True), channel)
    assert frames.give_back_all(channel) == frame.marshal(commands.Basic.Nack(0, True, True), channel)


@given(channel=CHANNEL, key=SHORT, exchange=st.from_regex(r"[a-zA-Z0-9_.:-]{0,60}", fullmatch=True))
def test_publish(channel: int, key: str, exchange: str) -> None:
    expected = frame.marshal(commands.Basic.Publish(exchange="", routing_key=key, mandatory=True), channel)
    assert frames.publish(channel, key) == expected
    expected = frame.marshal(commands.Basic.Publish(exchange=exchange, routing_key=key), channel)
    assert frames.publish(channel, key, exchange, mandatory=False) == expected


@given(
    channel=CHANNEL,
    size=st.integers(0, 2**40),
    headers=st.dictionaries(NAME, st.text(max_size=300), max_size=5),
    mode=st.sampled_from([frames.PERSISTENT, frames.TRANSIENT]),
    identity=MAYBE,
    about=st.builds(Properties, correlation_id=MAYBE, reply_to=MAYBE, content_type=MAYBE, type=MAYBE),
)
def test_content_header(
    channel: int, size: int, headers: dict[str, str], mode: int, identity: str | None, about: Properties
) -> None:
    built = frames.content_header(channel, size, headers, mode, identity)
    _, where, decoded = frame.unmarshal(built)
    assert isinstance(decoded, header.ContentHeader)
    assert (where, decoded.body_size) == (channel, size)
    assert (decoded.properties.headers or {}) == headers
    assert (decoded.properties.delivery_mode, decoded.properties.message_id) == (mode, identity)
    properties = commands.Basic.Properties(
        headers=dict(sorted(headers.items())) or None, delivery_mode=mode, message_id=identity
    )
    expected = frame.marshal(header.ContentHeader(properties=properties, body_size=size), channel)
    assert frames.content_header(channel, size, dict(sorted(headers.items())), mode, identity) == expected
    properties = commands.Basic.Properties(
        content_type=about.content_type,
        headers=dict(sorted(headers.items())) or None,
        delivery_mode=mode,
        correlation_id=about.correlation_id,
        reply_to=about.reply_to,
        message_id=identity,
        message_type=about.type,
    )
    expected = frame.marshal(header.ContentHeader(properties=properties, body_size=size), channel)
    assert frames.content_header(channel, size, dict(sorted(headers.items())), mode, identity, about) == expected


@given(channel=CHANNEL, text=st.binary(max_size=200), room=st.integers(1, 50))
def test_body_frames(channel: int, text: bytes, room: int) -> None:
    parts = [text[start : start + room] for start in range(0, len(text), room)]
    expected = b"".join(frame.marshal(body.ContentBody(part), channel) for part in parts)
    assert b"".join(frames.body_frames(channel, text, room + frames.FRAME_OVERHEAD)) == expected
