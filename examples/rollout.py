"""Versioned rollout: what runs keeps its code, what is new gets the new code, what never ends moves over at a safe point.

    callboard dev examples.rollout:app
    curl -X POST http://127.0.0.1:7071/api/orchestrators/subscription/ann -d '"Ann"'
    curl -X POST http://127.0.0.1:7071/runtime/webhooks/durabletask/instances/ann/raiseEvent/month-over -H 'Content-Type: application/json'

Version 1.0 charges 10 a month. Version 2.0 charges 12, and says so first: a change that would break the replay of an instance which began
with 1.0. So both stay registered under one name, until the last month of a 1.0 is over.
"""

from callboard import App, OrchestrationContext

app = App("subscriptions", default_version="2.0")


@app.activity
def charge(customer: str, amount: int) -> None:
    print(f"{customer} pays {amount}")


@app.activity
def announce(customer: str, amount: int) -> str:
    return f"{customer}, a month is {amount} now"


@app.orchestration(name="subscription", version="1.0")
async def subscription_1(context: OrchestrationContext, customer: str) -> None:
    await context.wait_for_external_event("month-over")
    await context.call_activity(charge, {"customer": customer, "amount": 10})
    context.continue_as_new(customer, version="2.0")  # a month is over: here the new code may take over


@app.orchestration(name="subscription", version="2.0")
async def subscription_2(context: OrchestrationContext, customer: str) -> None:
    context.set_custom_status(await context.call_activity(announce, {"customer": customer, "amount": 12}))
    await context.wait_for_external_event("month-over")
    await context.call_activity(charge, {"customer": customer, "amount": 12})
    context.continue_as_new(customer)
