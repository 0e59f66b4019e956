r"""Child actors: an order has a parcel packed in each warehouse; every parcel is an actor of its own that talks to its order.

    callboard dev examples.order_processing:app
    curl -X POST 'http://127.0.0.1:7071/api/orchestrators/process_order/order-7?timeout=30' \
        -d '{"customer": "Ann", "lines": [{"item": "tea", "warehouse": "north"}, {"item": "cup", "warehouse": "south"}]}'
    callboard list

A parcel is the instance `order-7-north`: it can be looked at, and sent messages, like any other.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass

from callboard import App, OrchestrationContext

app = App("orders")


@dataclass
class Line:
    item: str
    warehouse: str


@dataclass
class Order:
    customer: str
    lines: list[Line]


@app.activity
def pick(item: str, warehouse: str) -> str:
    print(f"{warehouse}: {item} is picked")
    return item


@app.activity
def hand_over(parcel: str, items: list[str]) -> str:
    return f"{parcel}: {' and '.join(items)}"


@app.orchestration
async def pack_parcel(context: OrchestrationContext, order_id: str, warehouse: str, items: list[str]) -> str:
    for item in items:
        await context.call_activity(pick, {"item": item, "warehouse": warehouse})
        context.send(order_id, "picked", item)
    return await context.call_activity(hand_over, {"parcel": context.instance_id, "items": items})


@app.orchestration
async def process_order(context: OrchestrationContext, order: Order) -> list[str]:
    picked: list[str] = []

    @context.on_message("picked")
    def note(item: str) -> None:
        picked.append(item)
        context.set_custom_status(f"{len(picked)} of {len(order.lines)} items are picked")

    warehouses: dict[str, list[str]] = defaultdict(list)
    for line in order.lines:
        warehouses[line.warehouse].append(line.item)
    order_id = context.instance_id
    parcels = (
        context.call_sub_orchestration(
            pack_parcel,
            {"order_id": order_id, "warehouse": warehouse, "items": items},
            instance_id=f"{order_id}-{warehouse}",
        )
        for warehouse, items in warehouses.items()
    )
    return list(await asyncio.gather(*parcels))
