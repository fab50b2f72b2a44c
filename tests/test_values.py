"""Settings and other values of the package stay as they were made, and are small."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import pytest

import resilient.core
import resilient.policies


def values() -> Iterator[Any]:
    for package in (resilient.core, resilient.policies):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(found.name)).values():
                if isinstance(value, type) and is_dataclass(value) and value.__module__ == found.name:
                    yield value


@pytest.mark.parametrize("cls", list(values()), ids=lambda cls: cls.__qualname__)
def test_a_value_cannot_be_changed_and_has_no_dict(cls: Any) -> None:
    assert cls.__dataclass_params__.frozen
    assert "__slots__" in vars(cls)
    assert cls.__dictoffset__ == 0
