"""Answers queries from the code that an activation holds."""

from __future__ import annotations

from callboard.core.answers import not_queried
from callboard.core.conversation import TurnReply
from callboard.core.execution import Execution, TurnInterrupted
from callboard.core.failure import FailureDetails
from callboard.core.messages import Query
from callboard.errors import ReadOnlyError


def answered(execution: Execution, query: Query) -> TurnReply:
    """What a query's handler says. If it did more than look (``execution.meddled``), the execution is good for ``close`` only."""
    try:
        result = execution.query(query)
        if execution.meddled:
            raise ReadOnlyError
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises is its answer
        return TurnReply(query, failure=FailureDetails.from_exception(error))
    except (TurnInterrupted, SystemExit) as error:
        execution.meddled = True  # nobody knows what it has left half done
        return TurnReply(query, failure=not_queried(f"The query was interrupted: {type(error).__name__}."))
    return TurnReply(query, result)
