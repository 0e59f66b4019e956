"""Async HTTP API: a web service of your own answers 202 at once, and says where to follow the work.

    uvicorn examples.async_http_api:api
    curl -i -X POST http://127.0.0.1:8000/reports -H 'Content-Type: application/json' -d '{"customer": "ACME", "months": 12}'

The answer's Location leads to the status, which is 202 until the report is done, and 200 with it then. The worker lives in the same
process here; on servers it is `callboard worker examples.async_http_api:app`, and this service needs the client alone.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import pydantic
from fastapi import Depends, FastAPI, Request, Response

from callboard import App, Client, OrchestrationContext, TaskHub, Worker
from callboard.http import create_check_status_response, create_http_app

app = App("reports")


class ReportOrder(pydantic.BaseModel):
    customer: str
    months: int = pydantic.Field(ge=1, le=24)


@app.activity
def turnover(customer: str, month: int) -> int:
    return 1000 * month + len(customer)  # your data warehouse


@app.orchestration
async def make_report(context: OrchestrationContext, order: ReportOrder) -> dict[str, int]:
    report: dict[str, int] = {}
    for month in range(1, order.months + 1):
        report[f"month {month}"] = await context.call_activity(turnover, {"customer": order.customer, "month": month})
        context.set_custom_status(f"{month} of {order.months} months")
    return report


@asynccontextmanager
async def connected(api: FastAPI) -> AsyncGenerator[None]:
    broker = os.environ.get("CALLBOARD_BROKER", "sqlite:///reports.db")
    store = os.environ.get("CALLBOARD_STORE", "sqlite:///reports.db")
    async with (
        TaskHub.from_urls(app.hub, broker=broker, store=store) as hub,
        Worker(app, hub),
        Client(hub, app) as client,
    ):
        api.state.client = client
        yield


def the_client() -> Client:
    client: Client = api.state.client
    return client


api = FastAPI(lifespan=connected)
api.mount("/durable", create_http_app(the_client))


@api.post("/reports", status_code=202)
async def order_report(
    request: Request, order: ReportOrder, client: Annotated[Client, Depends(the_client)]
) -> Response:
    handle = await client.start(make_report, order)
    return create_check_status_response(request, app.hub, handle.instance_id, mounted_at="/durable")
