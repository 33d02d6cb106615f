"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

from workflow.evaluation import metrics

MODULES = [
    "workflow.models.base",
    *(f"{metrics.__name__}.{found.name}" for found in pkgutil.iter_modules(metrics.__path__)),
]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_examples_that_hold(name: str) -> None:
    ran = doctest.testmod(importlib.import_module(name), optionflags=doctest.FAIL_FAST)
    assert ran.attempted > 0
    assert ran.failed == 0
