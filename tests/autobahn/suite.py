"""The cases of the package `autobahntestsuite`, as published, under Python 3.

The package is still Python 2: its own runner does not even import here. So its case files are read
as Latin-1, in which a string literal of Python 2, which was bytes, is the same bytes one character
each, and the little else that has changed is put right below. No case is changed or left out,
but those of permessage-deflate, which are not loaded.
"""

import ast
import binascii
import builtins
import importlib.abc
import importlib.metadata
import importlib.util
import pathlib
import re
import sys

from autobahn.websocket import utf8validator

VERSION = importlib.metadata.version("autobahntestsuite")
FOLDER = pathlib.Path(importlib.util.find_spec("autobahntestsuite").origin).parent / "case"

# permessage-deflate, and a case that the suite itself does not run.
NOT_LOADED = {"case12_x_x": ("Case12_X_X", "Case13_X_X"), "case9_9_1": ()}


def raw(text):
    """The bytes that a string of a case stands for."""
    return text.encode("latin-1") if isinstance(text, str) else text


class IntegerDivision(ast.NodeTransformer):
    """`/` between integers was `//`, and the cases divide nothing else."""

    def visit_Div(self, _node):
        return ast.FloorDiv()


class Cases(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the files of the cases, which name each other without their package."""

    def find_spec(self, name, _path=None, _target=None):
        if (FOLDER / f"{name}.py").is_file():
            return importlib.util.spec_from_loader(name, self)
        return None

    def exec_module(self, module):
        if module.__name__ in NOT_LOADED:
            lists = {name: [] for name in NOT_LOADED[module.__name__]}
            tables = {f"{name}_CaseSubCategories": {} for name in lists}
            module.__dict__.update(lists, **tables)
            return
        run(FOLDER / f"{module.__name__}.py", module.__dict__)


def run(path, names):
    source = path.read_bytes().decode("latin-1")
    source = re.sub(r"^(\s*)print\b(.*)$", r"\1print(\2)", source, flags=re.MULTILINE)
    names["type"] = old_type
    tree = ast.fix_missing_locations(IntegerDivision().visit(ast.parse(source)))
    exec(compile(tree, path, "exec"), names)


def old_type(*args):
    """`type` that lets `object` stand before a class, as an old-style class allowed."""
    if len(args) == 3:
        name, bases, members = args
        return type(name, tuple(base for base in bases if base is not object), members)
    return type(*args)


class Utf8Validator(utf8validator.Utf8Validator):
    def validate(self, text):
        return super().validate(raw(text))


def load():
    """All cases in their order, and the names of the sections."""
    builtins.xrange, builtins.unichr = range, chr
    hexlify = binascii.b2a_hex
    binascii.b2a_hex = lambda data: hexlify(raw(data)).decode() if isinstance(data, str) else hexlify(data)
    utf8validator.Utf8Validator = Utf8Validator
    sys.meta_path.insert(0, Cases())
    names = {"__name__": "cases"}
    run(FOLDER / "__init__.py", names)
    # It pickles both sides, which under Python 3 also tells equal strings from the same string.
    sys.modules["case"].Case.compare = lambda _self, one, other: one == other
    sections = {**names["CaseCategories"], **names["CaseSubCategories"]}
    return {case.__name__[len("Case"):].replace("_", "."): case for case in names["Cases"]}, sections
