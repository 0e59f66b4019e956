"""Saga: books a flight, a hotel and a car; if one cannot be had, cancels what was booked, in reverse order.

    callboard dev examples.trip_booking:app
    curl -X POST 'http://127.0.0.1:7071/api/orchestrators/book_trip?timeout=30' -d '{"traveller": "Ann", "city": "Oslo"}'
    curl -X POST 'http://127.0.0.1:7071/api/orchestrators/book_trip?timeout=30' -d '{"traveller": "Bob", "city": "Atlantis"}'

Oslo has all three; in Atlantis there is no car.
"""

from dataclasses import dataclass

from callboard import ActivityContext, App, OrchestrationContext, RetryPolicy, TaskFailedError

app = App("trips")

#: A booking is given up after three tries; what is to be cancelled must be cancelled in the end.
BOOKING = RetryPolicy(
    first_retry_interval=0.2, backoff_coefficient=2, max_number_of_attempts=3, non_retriable=["SoldOutError"]
)
CANCELLING = RetryPolicy(
    first_retry_interval=1, backoff_coefficient=2, max_retry_interval=60, max_number_of_attempts=100
)

#: What can be had where.
OFFERS = {"Oslo": ["flight", "hotel", "car"], "Atlantis": ["flight", "hotel"]}


class SoldOutError(Exception):
    """There is none left."""


@dataclass
class Trip:
    traveller: str
    city: str


@app.activity
def book(kind: str, trip: Trip, activity: ActivityContext) -> str:
    if kind not in OFFERS.get(trip.city, []):
        raise SoldOutError(f"there is no {kind} in {trip.city}")
    print(f"{trip.traveller} has a {kind} in {trip.city}")
    return f"{kind}-{activity.idempotency_key[:6]}"  # hand the key to the provider: it books once, however often it is asked


@app.activity
def cancel(reference: str) -> str:
    print(f"{reference} is cancelled")
    return reference


@app.orchestration
async def book_trip(context: OrchestrationContext, trip: Trip) -> dict[str, list[str]]:
    booked: list[str] = []
    try:
        for kind in ("flight", "hotel", "car"):
            reference = await context.call_activity(book, {"kind": kind, "trip": trip}, retry=BOOKING)
            booked.append(reference)
    except TaskFailedError as error:
        context.set_custom_status(f"cancelling: {error.failure.error_message}")
        cancelled = [await context.call_activity(cancel, reference, retry=CANCELLING) for reference in reversed(booked)]
        return {"cancelled": cancelled}
    return {"booked": booked}
