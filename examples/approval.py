r"""Human interaction: an expense waits for a decision, and goes to the next person in line if nobody answers in time.

    callboard dev examples.approval:app
    curl -X POST http://127.0.0.1:7071/api/orchestrators/approve_expense/dinner \
        -d '{"amount": 120.5, "purpose": "dinner with a client", "approvers": ["ann@example.com", "bob@example.com"], "patience": 60}'
    curl -X POST http://127.0.0.1:7071/runtime/webhooks/durabletask/instances/dinner/raiseEvent/decision \
        -H 'Content-Type: application/json' -d '{"approved": true, "by": "ann@example.com"}'

A decision may take weeks: nothing but the history waits for it, and a redeployment in between does not matter.
"""

from dataclasses import dataclass

from callboard import App, OrchestrationContext

app = App("expenses")


@dataclass
class Expense:
    amount: float
    purpose: str
    approvers: list[str]
    """Whom to ask, one after another."""
    patience: float = 72 * 3600
    """How long each of them has, in seconds."""


@dataclass
class Decision:
    approved: bool
    by: str
    comment: str = ""


@app.activity
def ask_for_decision(approver: str, expense: Expense, instance_id: str) -> None:
    print(f"Dear {approver}, may {expense.amount:.2f} be spent on {expense.purpose}? Answer {instance_id}.")


@app.activity
def book(expense: Expense, decision: Decision) -> str:
    return f"{expense.amount:.2f} for {expense.purpose}, approved by {decision.by}"


@app.orchestration
async def approve_expense(context: OrchestrationContext, expense: Expense) -> str:
    for approver in expense.approvers:
        request = {"approver": approver, "expense": expense, "instance_id": context.instance_id}
        await context.call_activity(ask_for_decision, request)
        context.set_custom_status(f"waiting for {approver}")
        decision = await context.wait_for_external_event("decision", Decision, timeout=expense.patience, default=None)
        if decision is None:
            continue  # escalate
        if decision.approved:
            return await context.call_activity(book, {"expense": expense, "decision": decision})
        return f"refused by {decision.by}: {decision.comment or 'no reason given'}"
    return "refused: nobody answered in time"
