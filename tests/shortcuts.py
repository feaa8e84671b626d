"""Shortcuts: what costs every test much and is the same for all of them is made once in a test process.

They touch inner parts of libraries, whose versions are pinned, and no code of ours. Without them all tests
pass as well, in twice the time.
"""

from itertools import count
from typing import Any

import pytest
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Engine
from sqlalchemy.util import LRUCache
from werkzeug.routing import Rule

from app.federation import identity, rotation
from app.protocol import keys

#: RSA keys of a test process. Apps of one test have different ones as long as it makes fewer than these.
_RSA_KEYS = 24
#: Statements that are kept as SQL, of each engine.
_STATEMENTS = 5_000


def take(patch: pytest.MonkeyPatch) -> None:
    """Take all shortcuts until the patch is undone."""
    _make_few_keys(patch)
    _compile_rules_once(patch)
    _compile_statements_once(patch)


def _make_few_keys(patch: pytest.MonkeyPatch) -> None:
    """Finding the primes of an RSA key takes 100 ms."""
    generate = keys.generate
    made: dict[int, keys.GeneratedKey] = {}
    numbers = count()

    def one_of_few(algorithm: keys.Algorithm) -> keys.GeneratedKey:
        if algorithm is not keys.Algorithm.RSA:
            return generate(algorithm)
        number = next(numbers) % _RSA_KEYS
        if number not in made:
            made[number] = generate(algorithm)
        return made[number]

    for module in (keys, identity, rotation):
        patch.setattr(module, "generate", one_of_few)


def _compile_rules_once(patch: pytest.MonkeyPatch) -> None:
    """All apps have the same URL rules; Werkzeug takes 70 ms to compile them."""
    compile_rule = Rule.compile
    compiled: dict[tuple[str, str], Rule] = {}

    def compile_once(self: Rule) -> None:
        key = (self.rule, repr(self.defaults))
        if key not in compiled:
            compile_rule(self)
            compiled[key] = self
            return
        first = compiled[key]
        for name in ("_parts", "_trace", "_converters", "arguments"):
            setattr(self, name, getattr(first, name))
        for name in ("_build", "_build_unknown"):
            setattr(self, name, getattr(first, name).__func__.__get__(self, None))

    patch.setattr(Rule, "compile", compile_once)


def _compile_statements_once(patch: pytest.MonkeyPatch) -> None:
    """Each engine has a dialect and a cache of its own; those of one kind share both here."""
    caches: dict[type, LRUCache[Any, Any]] = {}
    make = SQLAlchemy._make_engine

    def make_with_shared_cache(self: SQLAlchemy, *args: Any) -> Engine:
        engine = make(self, *args)
        engine._compiled_cache = caches.setdefault(type(engine.dialect), LRUCache(_STATEMENTS))
        return engine

    patch.setattr(SQLAlchemy, "_make_engine", make_with_shared_cache)
    for dialect in (PGDialect_psycopg, SQLiteDialect_pysqlite):
        patch.setattr(dialect, "__eq__", lambda self, other: type(self) is type(other))
        patch.setattr(dialect, "__hash__", lambda self: hash(type(self)))
