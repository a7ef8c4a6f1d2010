"""Random mutations of bytes, lines, and values of JSON."""

import copy
import json
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32, 2**63, -(2**63), 10**400, 1.5, 1e308, -0.0)
TEXTS = (
    "",
    "x",
    "x" * 5000,
    "../../etc/passwd",
    "\0",
    "\ud800",
    "é\u0301\u200b",
    "None",
    "nan",
    "-1",
    "9" * 30,
    "[PAD]",
)


def value(chance: Random) -> Any:
    """Return a random value that is unlikely to be valid."""
    simple = (None, True, False, float("nan"), float("inf"), [], {}, [[]], {"a": 1}, [None, 1, "x"])
    pick = chance.randrange(5)
    if pick == 0:
        deep: Any = 0
        for _ in range(chance.choice((3, 120, 3000)) if chance.random() < 0.1 else 3):
            deep = [deep]
        return deep
    return copy.deepcopy(chance.choice((NUMBERS, TEXTS, simple, NUMBERS)[pick - 1]))


def json_value(chance: Random, fields: Any, *, changes: int = 2) -> Any:
    """Return a copy of JSON with some values replaced, removed or added."""
    fields = copy.deepcopy(fields)
    for _ in range(chance.randint(1, changes)):
        place = fields
        while True:
            keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(place[key], (dict, list)) and place[key] and chance.random() < 0.8:
                place = place[key]
                continue
            pick = chance.randrange(6)
            if pick == 0:
                del place[key]
            elif pick == 1 and isinstance(place, dict):
                place[chance.choice((*TEXTS, *map(str, keys)))] = value(chance)
            elif pick == 2 and isinstance(place[key], int) and not isinstance(place[key], bool):
                place[key] += chance.choice((-1, 1, 2**31))
            else:
                place[key] = value(chance)
            break
    return fields


def json_text(chance: Random, fields: Any) -> bytes:
    """Return JSON text with mutated values, and sometimes mutated bytes."""
    try:
        text = json.dumps(json_value(chance, fields), ensure_ascii=chance.random() < 0.5)
    except RecursionError:
        text = "[" * 200_000
    content = text.encode("utf-8", "surrogatepass")
    return some_bytes(chance, content) if chance.random() < 0.3 else content


def some_bytes(chance: Random, content: bytes) -> bytes:
    """Return bytes with some changed, removed, doubled or inserted."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        at = chance.randrange(len(data) + 1)
        pick = chance.randrange(5)
        if pick == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif pick == 1 and at < len(data):
            data[at] = chance.choice(b'\0\xff"{}[],:0129-eE\\\t\n\r ')
        elif pick == 2:
            del data[at : at + chance.choice((1, 2, 9, 100))]
        elif pick == 3:
            data[at:at] = data[at : at + chance.choice((1, 7, 60))]
        else:
            data[at:at] = chance.randbytes(chance.choice((1, 2, 8)))
    return bytes(data)
