"""``MODULE:app`` → the App."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from callboard.app import App
from callboard.cli.problems import CommandError


def load_app(target: str) -> App:
    """Imports a module and returns its App. The current folder is importable, as with uvicorn.

    Raises:
        CommandError: there is no such module or attribute, it is no App, or the import fails; the trace shows the user's own lines.
    """
    module_name, _, attribute = target.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise CommandError(f"{target!r} is a path. Name the module instead: {dotted}:{attribute or 'app'}")
    if not module_name or not attribute:
        raise CommandError(
            f"{target!r} does not name an App. Write MODULE:ATTRIBUTE, for example examples.hello_sequence:app"
        )
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    found: object = _import(module_name)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandError(
                f'Module {module_name!r} has no {attribute!r}. Make one there: {attribute} = App("my-hub")'
            ) from None
    if not isinstance(found, App):
        raise CommandError(
            f'{target} is {_described(found)}, not a callboard.App. Make one: {attribute} = App("my-hub")'
        )
    return found


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise CommandError(
                f"There is no module {error.name!r} in {Path.cwd()} or on the Python path. Start the command in the folder that holds "
                "it, or install it."
            ) from None
        raise CommandError(_told(name, error)) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's module raises is the user's to read
        raise CommandError(_told(name, error)) from None


def _told(name: str, error: BaseException) -> str:
    """What went wrong in the user's module: its own lines, without those of ours and of the import machinery."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename != __file__ and not _is_machinery(frame.filename)]
    lines = traceback.format_list(theirs) + traceback.format_exception_only(error)
    return f"Module {name!r} cannot be imported:\n" + "".join(lines).rstrip()


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or Path(filename).parent == Path(importlib.__file__).parent


def _described(value: object) -> str:
    return f"a {type(value).__name__}" if not isinstance(value, type) else f"the class {value.__name__}"
