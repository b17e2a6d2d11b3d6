"""The hook that fills the pages, and what executes the notebooks, as modules."""

import importlib.util
from types import ModuleType

import pytest
from pages import ROOT


@pytest.fixture(scope="session")
def generate() -> ModuleType:
    return module("generate")


@pytest.fixture(scope="session")
def execute_notebook() -> ModuleType:
    return module("execute_notebook")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
