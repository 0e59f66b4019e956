"""Runs activities: calls in, results out, at least once.

A call stays with the broker until its result is confirmed. One that runs long *claims* its task in the store and lets its message go, so
that no broker timeout and no reconnect concerns it; whoever owns the instance's partition sends it again if the claim lapses.

| module       | idea                                                   |
|--------------|--------------------------------------------------------|
| intake       | deliveries apart into calls, and when to ack them      |
| runs         | one call that waits or runs here                       |
| values       | inputs opened, results sealed                          |
| executing    | the user's function, and what came of it               |
| results      | results to the instance, until they are confirmed      |
| claims       | long runs: a claim in the store instead of a message   |
| runner       | all of it together, within the worker's means          |
| dead_letters | calls that the broker gave up to deliver, as failures  |
"""

from callboard.activities.dead_letters import DeadLetters
from callboard.activities.runner import CONCURRENCY, ActivityRunner

__all__ = ["CONCURRENCY", "ActivityRunner", "DeadLetters"]
