"""The commands about entities: ``entity get``, ``signal``, ``list``, ``clean``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias

import typer

from callboard.bodies import load_instances
from callboard.cli.data import Data, json_of
from callboard.cli.options import AsJson
from callboard.cli.places import Place, acts, looks
from callboard.cli.problems import CommandError
from callboard.cli.retention import span
from callboard.cli.showing import entities_table, entity_table, print_json, print_table
from callboard.client import EntityMetadata
from callboard.client.entities import loaded_metadata, metadata
from callboard.codecs import HubCodec
from callboard.codecs.keys import Keys
from callboard.core.entities import EntityId
from callboard.core.folding import timestamp
from callboard.errors import InvalidEntityIdError
from callboard.ports import EntityFilter, Store

Name: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="The entity's name.", show_default=False)]
Key: TypeAlias = Annotated[str, typer.Argument(metavar="KEY", help="Its key.", show_default=False)]

entity = typer.Typer(name="entity", help="Look at entities, and have them do things.", no_args_is_help=True)


def add_to(commands: typer.Typer) -> None:
    """Registers the commands."""
    entity.command("get")(get)
    entity.command("signal")(signal)
    entity.command("list")(list_entities)
    entity.command("clean")(clean)
    commands.add_typer(entity)


@looks
def get(place: Place, name: Name, key: Key, *, as_json: AsJson = False) -> None:
    """Show an entity: its state, and what it has to do."""
    which = _entity(name, key)

    async def read(store: Store) -> EntityMetadata | None:
        found = await load_instances(store, [which.instance_id])
        return loaded_metadata(found.get(which.instance_id), _codec())

    found = place.look(read)
    if found is None:
        raise CommandError(f"No entity {which} exists in this task hub.", exit_code=1)
    if as_json:
        print_json(_json(found))
    else:
        print_table(entity_table(found))


@acts
def signal(
    place: Place,
    name: Name,
    key: Key,
    operation: Annotated[str, typer.Argument(metavar="OPERATION", help="What it should do.", show_default=False)],
    data: Data = None,
    *,
    at: Annotated[datetime | None, typer.Option(help="Not before this time.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Have an entity carry out an operation."""
    which, payload = _entity(name, key), json_of(data)
    due = at.astimezone() if at is not None else None
    place.act(lambda client: client.signal_entity_encoded(which, operation, payload, at=due))
    if as_json:
        print_json({"entityId": str(which), "operation": operation})
    else:
        typer.echo(f"{which} is told to {operation}.")


@looks
def list_entities(
    place: Place,
    *,
    name: Annotated[str | None, typer.Option(help="Only those of this name.", show_default=False)] = None,
    prefix: Annotated[str, typer.Option(help="Only keys that begin so; with --name.", show_default=False)] = "",
    everything: Annotated[bool, typer.Option("--all", help="Also those that have no state any more.")] = False,
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many to show, in order of their ids.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List entities."""
    if prefix and name is None:
        raise CommandError("Keys of which entities? Name them: --name NAME --prefix PREFIX.")
    which = EntityFilter(
        name=_entity(name, "").name if name is not None else None, key_prefix=prefix, include_transient=everything
    )
    page = place.look(lambda store: store.query_entities(which, limit=top))
    found = [metadata(record, _codec(), include_state=True) for record in page.records]
    if as_json:
        print_json([_json(each) for each in found])
    else:
        print_table(entities_table(found, more=page.continuation is not None))


@acts
def clean(
    place: Place,
    *,
    idle: Annotated[str, typer.Option(help="How long they must have done nothing: 90m, 12h, 7d.")] = "30m",
    as_json: AsJson = False,
) -> None:
    """Delete what is left of entities without a state, and locks whose orchestration is gone. Safe at any time."""
    length = span(idle)
    cleaned = place.act(lambda client: client.clean_entity_storage(idle=length))
    if as_json:
        print_json(
            {
                "emptyEntitiesRemoved": cleaned.empty_entities_removed,
                "orphanedLocksReleased": cleaned.orphaned_locks_released,
            }
        )
    else:
        typer.echo(
            f"Removed {cleaned.empty_entities_removed} empty entities, released {cleaned.orphaned_locks_released} orphaned locks."
        )


def _entity(name: str, key: str) -> EntityId:
    try:
        return EntityId(name, key)
    except InvalidEntityIdError as error:
        raise CommandError(str(error)) from None


def _codec() -> HubCodec:
    return HubCodec(keys=Keys.from_env())


def _json(found: EntityMetadata) -> dict[str, Any]:
    failure, last = found.last_failure, found.last_operation_time
    return {
        "entityId": {"name": found.entity_id.name, "key": found.entity_id.key},
        "exists": found.exists,
        "state": found.state,
        "lastOperationTime": timestamp(last) if last is not None else None,
        "backlogQueueSize": found.backlog_queue_size,
        "lockedBy": found.locked_by,
        "lastFailure": f"{failure.error_type}: {failure.error_message}" if failure is not None else None,
        "parked": found.parked.reason.partition("\n")[0] if found.parked is not None else None,
    }
