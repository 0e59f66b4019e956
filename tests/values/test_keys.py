"""Keys: read, checked, and never shown."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import pytest

from callboard import Keys
from callboard.codecs.pickles import Pickled
from callboard.errors import ConfigurationError

ONE, TWO = b"\xfb\xff" * 16, bytes(range(32))
A, B = base64.b64encode(ONE).decode(), base64.b64encode(TWO).decode()


def test_the_first_key_seals_and_all_are_known() -> None:
    keys = Keys.parse(f"new:{A},old:{B}")
    assert (keys.first, list(keys), keys.find("new"), keys.find("old"), keys.find("other")) == (
        "new",
        ["new", "old"],
        ONE,
        TWO,
        None,
    )


@pytest.mark.parametrize("text", [f"a:{A}\n b : {B} \n", f"# comment, with comma\na:{A},\n\nb:{B}", f"a:{base64.urlsafe_b64encode(ONE).decode()},b:{B}"])  # fmt: skip
def test_entries_are_separated_by_commas_or_lines(text: str) -> None:
    keys = Keys.parse(text)
    assert [(key_id, keys.find(key_id)) for key_id in keys] == [("a", ONE), ("b", TWO)]


@pytest.mark.parametrize(("text", "says"), [
    ("", "There are no keys"), ("# none", "There are no keys"), (A, "entry 1 is not id:base64"), (f"a:{A},b:%%%", "entry 2 is not id:base64"),
    (f"a:{A},a:{B}", "entry 2 has the id of an earlier one"), (f"a:{base64.b64encode(b'short').decode()}", "'a' is 5 bytes long: use at least 32"),
    (f"a b:{A}", "id of key 1 is not allowed"), (f":{A}", "id of key 1"),
])  # fmt: skip
def test_what_is_wrong_is_said_without_the_key(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as error:
        Keys.parse(text)
    assert A not in str(error.value)
    assert "openssl rand" in str(error.value) or "Give each" in str(error.value)


def test_keys_come_from_the_environment_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\nfiled:{A}\n")
    assert Keys.from_env({}) is None
    from_env = Keys.from_env({"CALLBOARD_KEYS": f"k:{A}"})
    from_file = Keys.from_env({"CALLBOARD_KEYS_FILE": str(file)})
    assert from_env is not None
    assert from_file is not None
    assert (from_env.first, from_file.first) == ("k", "filed")
    with pytest.raises(ConfigurationError, match="Both CALLBOARD_KEYS and CALLBOARD_KEYS_FILE are set"):
        Keys.from_env({"CALLBOARD_KEYS": "k:x", "CALLBOARD_KEYS_FILE": "y"})
    with pytest.raises(ConfigurationError, match=r"cannot be read: .*No such file"):
        Keys.from_file(tmp_path / "nowhere")


def test_keys_are_not_shown_and_not_carried_away() -> None:
    keys = Keys.parse(f"new:{A},old:{B}")
    assert repr(keys) == str(keys) == "<Keys new, old>"

    def closure() -> Keys:
        return keys

    with pytest.raises(TypeError, match="secrets"):
        pickle.dumps(keys)
    with pytest.raises(TypeError, match="secrets"):
        Pickled.of(closure)
