"""Answers that no commit brings about: to queries, to what was refused, to those who ask again.

A question is settled only when its answer has reached the broker, so that one who waits is not left without: until then it comes again,
and is judged again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from callboard.core.conversation import Question, TurnReply
from callboard.core.effects import answer_to
from callboard.core.events import AskingClient, AskingTask, Payload
from callboard.core.failure import FailureDetails
from callboard.core.messages import DeliverMessage, Query, Reply
from callboard.core.references import is_large
from callboard.errors import UnroutableError
from callboard.large_values import LargeValues
from callboard.mailbox import Account, Letter
from callboard.packs import Packer, Sent
from callboard.ports import Destination, Host
from callboard.routes import Sender

log = logging.getLogger("callboard")

#: Most asks for which it is remembered who else wants the answer; the oldest are forgotten beyond it, and ask again.
MOST_WAITING = 10_000


class Replies:
    """Sends answers.

    Args:
        large: Keeps large answers.
        post: Puts a letter into a mailbox of this worker; False if its partition is not owned here.
    """

    def __init__(
        self, host: Host, packer: Packer, sender: Sender, large: LargeValues, *, post: Callable[[Letter], bool]
    ) -> None:
        self._host = host
        self._large = large
        self._packer = packer
        self._sender = sender
        self._post = post
        self._waiting: dict[tuple[str, str], set[str]] = {}

    def send(self, reply: TurnReply, account: Account) -> None:
        """Sends an answer, then settles its question."""
        if is_large(reply.result):
            self._host.spawn(self._send_large(reply, account), name="callboard large answer")
        else:
            self._answer(reply.question, account, reply.result, reply.failure)

    def refuse(self, question: Question, account: Account, failure: FailureDetails) -> None:
        """Tells one who asks that there will be no answer, then settles the question."""
        self._answer(question, account, None, failure)

    def remember(self, questions: Iterable[DeliverMessage]) -> None:
        """Remembers who else waits for an answer that is still to come. In memory only: who hears nothing asks again."""
        for question in questions:
            if isinstance(question.asker, AskingClient):
                key = (question.instance_id, question.message_id)
                self._waiting.setdefault(key, set()).add(question.asker.inbox)
                while len(self._waiting) > MOST_WAITING:
                    del self._waiting[next(iter(self._waiting))]

    def answered(self, instance_id: str, inbox: str, reply: Reply, sent: Sent) -> None:
        """Sends the answer that a commit holds, and a copy to whoever asked again."""
        self._packer.send(Destination.inbox(inbox), reply, sent)
        for other in self._waiting.pop((instance_id, reply.reply_to), set()) - {inbox}:
            self._packer.send(Destination.inbox(other), reply, _nobody_waits)

    async def _send_large(self, reply: TurnReply, account: Account) -> None:
        question = reply.question
        owner = question.asker.instance_id if isinstance(question.asker, AskingTask) else question.instance_id
        self._answer(question, account, await self._large.kept(reply.result, owner), reply.failure)

    def _answer(
        self, question: Question, account: Account, result: Payload | None, failure: FailureDetails | None
    ) -> None:
        match question.asker:
            case AskingClient(inbox=inbox):
                reply = Reply(reply_to=_identity(question), result=result, failure=failure)
                self._packer.send(Destination.inbox(inbox), reply, _settled(account))
            case AskingTask() as task:
                answer = answer_to(task, self._host.now(), result, failure)
                if not self._post(Letter(answer, account)):
                    self._sender.tell(answer, _settled(account))
            case None:
                account.settle()


def _identity(question: Question) -> str:
    return question.query_id if isinstance(question, Query) else question.message_id


def _settled(account: Account) -> Sent:
    def sent(error: BaseException | None) -> None:
        if error is None or isinstance(error, UnroutableError):  # nobody listens there any more
            account.settle()
        else:
            log.warning("An answer could not be sent yet: %s", error)
            account.abandon()

    return sent


def _nobody_waits(_error: BaseException | None) -> None:
    """One who hears nothing asks again."""
