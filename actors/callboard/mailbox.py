"""What waits for an instance: letters, and who must hear that they are settled."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from callboard.core.messages import InstanceMessage
from callboard.core.turn import Decider
from callboard.ports import Delivery


class Account(Protocol):
    """Whoever must hear what became of a letter."""

    def settle(self) -> None:
        """The letter was committed, or rightly dropped."""
        ...

    def abandon(self) -> None:
        """This worker no longer cares for the letter: it must come again, here or elsewhere."""
        ...


class PackAccount:
    """Counts the letters of one broker message; the last to be settled acks it."""

    __slots__ = ("_delivery", "_remaining")

    def __init__(self, delivery: Delivery, letters: int) -> None:
        self._delivery = delivery
        self._remaining = letters

    def settle(self) -> None:
        self._remaining -= 1
        if self._remaining == 0:
            self._delivery.ack()

    def abandon(self) -> None:
        """Gives the broker message back: it may have come by another partition's queue, which stays ours."""
        self._delivery.reject()


class Unaccounted:
    """For letters that nobody waits for: a sweep or a timer's row makes them again."""

    def settle(self) -> None:
        pass

    def abandon(self) -> None:
        pass


UNACCOUNTED = Unaccounted()


class Letter:
    """One message for an instance."""

    __slots__ = ("account", "message")

    def __init__(self, message: InstanceMessage, account: Account = UNACCOUNTED) -> None:
        self.message = message
        self.account = account


class Actor:
    """An instance as this worker holds it: its mailbox, and its activation while that is hot."""

    __slots__ = ("activation", "busy", "declined", "guest", "instance_id", "letters", "lost", "partition", "size")

    def __init__(self, instance_id: str, partition: int) -> None:
        self.instance_id = instance_id
        self.partition = partition
        self.letters: deque[Letter] = deque()
        self.activation: Decider | None = None
        self.busy = False
        """A load, a turn or a commit is under way: letters wait."""
        self.guest = False
        """Its partition is another worker's, which has not its code and asks for its turns one by one."""
        self.declined = False
        """Nobody elsewhere has run its next turn, so it is judged here, with or without the code."""
        self.lost = False
        """A race was lost: others have committed, so load everything."""
        self.size = 0
        """Estimate of the activation's memory, in bytes."""
