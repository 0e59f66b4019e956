"""The stage before a turn: large values are fetched, and their seals checked, so that the turn has everything at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from callboard.core.codec import Codec
from callboard.core.entity_turn import EntityActivation
from callboard.core.messages import InstanceMessage
from callboard.core.places import payload_of
from callboard.core.references import is_reference
from callboard.core.turn import Decider
from callboard.errors import TamperedPayloadError
from callboard.large_values import LargeValues, refers
from callboard.mailbox import Letter
from callboard.ports import LoadedInstance
from callboard.receiving import check_seal


class Fetcher:
    """Completes letters and instances.

    Args:
        refuse: Takes back letters whose large values have a wrong seal.
    """

    def __init__(
        self, large: LargeValues, codec: Codec, refuse: Callable[[Letter, TamperedPayloadError], None]
    ) -> None:
        self._large = large
        self._codec = codec
        self._refuse = refuse

    def needed(self, letters: Sequence[Letter], loaded: LoadedInstance | None, activation: Decider | None) -> bool:
        """Whether something is not at hand."""
        if isinstance(activation, EntityActivation) and activation.needs():
            return True
        return any(_refers(letter.message) for letter in letters) or (loaded is not None and refers(loaded))

    async def letters(self, letters: Sequence[Letter]) -> list[Letter]:
        """The letters with their values, without those whose values are forged."""
        whole = [await self._letter(letter) for letter in letters]
        return [letter for letter in whole if letter is not None]

    async def supply(self, activation: Decider) -> None:
        """Gives an entity the inputs that its next operations need."""
        if isinstance(activation, EntityActivation):
            activation.supply({payload: await self._large.fetched(payload) for payload in activation.needs()})

    async def instance(self, loaded: LoadedInstance | None) -> LoadedInstance | None:
        """An instance with the values that its code is to see."""
        return await self._large.whole_instance(loaded) if loaded is not None else None

    async def _letter(self, letter: Letter) -> Letter | None:
        if not _refers(letter.message):
            return letter
        message = await self._large.whole_message(letter.message)
        try:
            check_seal(message, self._codec)
        except TamperedPayloadError as error:
            self._refuse(letter, error)
            return None
        return Letter(message, letter.account)


def _refers(message: InstanceMessage) -> bool:
    return is_reference(payload_of(message))
