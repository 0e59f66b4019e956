"""The facade: complete, sorted, documented."""

from __future__ import annotations

import inspect
import types

import pytest

import callboard


def test_all_is_sorted_and_complete() -> None:
    public = {
        name
        for name, value in vars(callboard).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert callboard.__all__ == sorted(callboard.__all__)
    assert set(callboard.__all__) == public


@pytest.mark.parametrize("name", callboard.__all__)
def test_public_names_and_their_methods_are_documented(name: str) -> None:
    value = getattr(callboard, name)
    assert inspect.getdoc(value), name
    if inspect.isclass(value) and value.__module__.startswith("callboard"):
        undocumented = [
            f"{name}.{attribute}"
            for attribute, member in vars(value).items()
            if not attribute.startswith("_")
            and inspect.isfunction(getattr(member, "__func__", member))
            and not inspect.getdoc(member)
        ]
        assert not undocumented
