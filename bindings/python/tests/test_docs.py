"""The package as its documentation presents it: names, signatures, docstrings, examples, stubs."""

from __future__ import annotations

import ast
import doctest
import importlib.metadata
import inspect
import os
import pathlib

import pytest

import polyglot_bridge as pb

PUBLIC = [name for name in pb.__all__ if not name.startswith("__")]


@pytest.mark.skipif("POLYGLOT_SANITIZER" in os.environ, reason="no wheel is installed")
def test_version():
    assert pb.__version__ == importlib.metadata.version("polyglot-bridge")


def test_names():
    assert len(set(pb.__all__)) == len(pb.__all__)
    for name in PUBLIC:
        assert getattr(pb, name).__module__ == "polyglot_bridge"
        assert getattr(pb, name).__name__ == name


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_and_its_examples(name):
    value = getattr(pb, name)
    documentation = inspect.getdoc(value)
    assert documentation and "Examples\n--------" in documentation
    summary = documentation.split("\n")[0]
    assert summary.endswith(".") and len(summary) < 120
    try:
        parameters = list(inspect.signature(value).parameters)
    except ValueError:
        parameters = []
    for parameter in parameters:
        assert parameter in documentation.split("Returns\n")[0]
    test = doctest.DocTestParser().get_doctest(documentation, {}, name, None, None)
    assert test.examples
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert result.failed == 0


def test_the_stub_has_the_same_names_and_parameters():
    stub = pathlib.Path(pb.__file__).with_name("__init__.pyi")
    tree = ast.parse(stub.read_text())
    functions: dict[str, list[ast.FunctionDef]] = {}
    classes, imported = set(), set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            functions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.ClassDef):
            classes.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.name for alias in node.names}
    for name in PUBLIC:
        if name in imported:
            continue
        if inspect.isclass(getattr(pb, name)):
            assert name in classes
            continue
        expected = list(inspect.signature(getattr(pb, name)).parameters)
        for overload in functions[name]:
            arguments = overload.args
            assert [a.arg for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs] == expected
    assert pathlib.Path(pb.__file__).with_name("py.typed").exists()
