"""The embedded default: a folder with one SQLite file, which holds both what is stored and what is being sent."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from callboard.cli.problems import CommandError

DEFAULT_FOLDER = Path(".callboard")
_FILE = "callboard.db"
_HUB = "hub"


class DataFolder:
    """Where `callboard dev` keeps its data, and which hub it last worked on there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    @property
    def file(self) -> Path:
        return self._folder / _FILE

    @property
    def url(self) -> str:
        """The file as both broker and store URL."""
        return f"sqlite:///{quote(str(self.file))}"

    @property
    def hub(self) -> str | None:
        try:
            return (self._folder / _HUB).read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def prepare(self, hub: str) -> None:
        """Makes the folder and remembers the hub.

        Raises:
            CommandError: it cannot be written to.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / _HUB).write_text(f"{hub}\n", encoding="utf-8")
            ignore = self._folder / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n", encoding="utf-8")
        except OSError as error:
            raise CommandError(
                f"The data folder {self._folder} cannot be written to: {error.strerror}. Choose another: --data DIR"
            ) from None
