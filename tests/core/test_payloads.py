"""Values as JSON, and back."""

from __future__ import annotations

import enum
import math
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Generic, TypedDict, TypeVar

import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from callboard.core import payloads
from callboard.errors import InvalidPayloadError, PayloadTooLargeError

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int


class Movie(TypedDict):
    title: str


class Order(msgspec.Struct):
    item: str
    price: Decimal


class User(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(gt=0)


class Company(pydantic.BaseModel):
    company_name: str = pydantic.Field(alias="companyName")
    staff: list[User] = []


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    when: datetime
    colours: tuple[Colour, ...]


class Ids(pydantic.RootModel[list[uuid.UUID]]):
    pass


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


@pydantic.dataclasses.dataclass
class Stock:
    item: str
    count: int = pydantic.Field(ge=0)


@dataclass
class Delivery:
    to: User | None
    by: dict[str, Company]


class Parcel(TypedDict):
    receiver: User


ANN = User(name="Ann", age=3)
ACME = Company(companyName="Acme", staff=[ANN])


@pytest.mark.parametrize(("value", "declared"), [
    ("text", str), (7, int), (2**70, int), (1.5, float), (True, bool), ([1, 2], list[int]), ({"a": [None]}, dict[str, list[None]]),
    ("umlaut ü and 𝄞", str), (Colour.RED, Colour), (Point(1, 2), Point), ({"title": "Heat"}, Movie), (Order("tea", Decimal("1.10")), Order),
    (uuid.UUID(int=5), uuid.UUID), (datetime(2026, 1, 1, 12, 0, 0, 250, tzinfo=UTC), datetime), (Decimal("0.1"), Decimal),
    (b"bytes", bytes), ((1, "a"), tuple[int, str]),
    (ANN, User), ([ANN], list[User]), (ANN, User | None), ({"a": [ANN]}, dict[str, list[User]]), ((ANN, 1), tuple[User, int]),
    (ACME, Company), (Delivery(ANN, {"x": ACME}), Delivery), ({"receiver": ANN}, Parcel),
    (ACME, User | Company), (7, User | int), ([ANN, ACME, "x"], list[User | Company | str]),
    (Strict(when=datetime(2026, 1, 1, tzinfo=UTC), colours=(Colour.RED,)), Strict), (Ids([uuid.UUID(int=5)]), Ids),
    (Page[User](items=[ANN]), Page[User]), (Stock("tea", 3), Stock), ([Stock("tea", 3)], list[Stock]),
])  # fmt: skip
def test_values_come_back_as_the_declared_type(value: object, declared: Any) -> None:
    encoded = payloads.encode(value, "The value")
    assert encoded is not None
    decoded = payloads.decode(encoded, payloads.decodable(declared), "The value")
    assert decoded == value
    assert type(decoded) is type(value)


def test_none_is_no_payload_whatever_is_declared() -> None:
    assert payloads.encode(None, "The value") is None
    assert payloads.decode(None, int, "The value") is None


def test_payloads_are_text_a_person_can_read() -> None:
    assert payloads.encode({"a": [1, "ü"], "b": Point(1, 2)}, "The value") == '{"a":[1,"ü"],"b":{"x":1,"y":2}}'


@pytest.mark.parametrize("value", [object(), [object()], {"a": lambda: 1}, "\ud800", {1: {2, object()}}, 1j])
def test_values_without_json_form_say_what_and_what_to_do(value: object) -> None:
    with pytest.raises(
        InvalidPayloadError, match=r"^The input of activity 'pay' cannot be encoded as JSON: .*dataclasses"
    ):
        payloads.encode(value, "The input of activity 'pay'")


def test_values_that_contain_themselves_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidPayloadError):
        payloads.encode(endless, "The value")


def test_the_limit_counts_encoded_bytes() -> None:
    assert payloads.encode("ü" * 4, "The value", limit=10) is not None
    with pytest.raises(PayloadTooLargeError, match=r"^The value is 11 bytes") as error:
        payloads.encode("ü" * 4 + "x", "The value", limit=10)
    assert (error.value.size, error.value.limit) == (11, 10)


@pytest.mark.parametrize(("text", "declared"), [
    ("7", str), ('"x"', int), ("{}", Point), ('{"name":"Ann","age":0}', User), ("{", Any), ("{", int), ('"green"', Colour),
    ("[" * 100_000, Any), ('{"item":"tea","count":-1}', Stock), ('[{"item":"tea"}]', list[Stock]), ('{"name":"Ann"}', User | Company),
])  # fmt: skip
def test_what_does_not_fit_says_so(text: str, declared: Any) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^The result of 'pay'"):
        payloads.decode(text, payloads.decodable(declared), "The result of 'pay'")


@pytest.mark.parametrize("declared", [Any, None, type(None), TypeVar("T"), object, "NotDefined", lambda: 1])
def test_types_nothing_can_be_decoded_into_are_taken_as_any(declared: Any) -> None:
    assert payloads.decode('{"a":[1]}', payloads.decodable(declared), "The value") == {"a": [1]}


def test_object_is_anything_at_any_depth() -> None:
    assert payloads.decode('[1,{"a":null}]', list[object], "The value") == [1, {"a": None}]


def test_a_custom_class_says_what_it_cannot() -> None:
    class Opaque:
        pass

    with pytest.raises(InvalidPayloadError, match="Opaque"):
        payloads.decode("{}", payloads.decodable(Opaque), "The value")


@pytest.mark.parametrize(
    ("text", "answer"), [("{}", True), ("null", True), ("", False), ("{} {}", False), ("NaN", False)]
)
def test_is_json(text: str, answer: bool) -> None:
    assert payloads.is_json(text) is answer


def test_numbers_json_does_not_have_become_null() -> None:
    assert payloads.encode(math.nan, "The value") == "null"


@pytest.mark.parametrize("name", [7, None, b"bytes", "\ud800"])
def test_names_that_history_could_not_hold_are_refused(name: object) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^The name must be"):
        payloads.text(name, "The name")


def test_names_are_kept_as_they_are() -> None:
    assert payloads.text("größe 𝄞", "The name") == "größe 𝄞"


def test_models_are_known_by_alias_and_by_name() -> None:
    for text in ('{"companyName":"Acme"}', '{"company_name":"Acme"}'):
        assert payloads.decode(text, payloads.decodable(Company), "The value").company_name == "Acme"
        assert payloads.decode(f"[{text}]", payloads.decodable(list[Company]), "The value")[0].company_name == "Acme"


@pytest.mark.parametrize("text", ['{"$callboard":1}', '{"$callboard":{"codec":"json","value":1}}'])
def test_what_looks_like_an_envelope_is_quoted(text: str) -> None:
    value = msgspec.json.decode(text)
    quoted = payloads.encode(value, "The value")
    assert quoted == payloads.checked(text, "The value") == f'{{"$callboard":{{"codec":"json","value":{text}}}}}'
    assert payloads.decode(quoted, Any, "The value") == value
