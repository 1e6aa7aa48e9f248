"""JSON records of a store: one canonical form, sealed by its own digest, checked when read."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from viewstore.errors import FormatError

FORMAT = 1
SMALL_BYTES = 1 << 20
LARGE_BYTES = 256 << 20  # sources, index and manifest
COMMIT_BYTES = 64 << 10
MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1
ENVELOPE = ("format", "kind", "digest")
SHA256 = re.compile(r"[0-9a-f]{64}")
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def canonical(value: Any) -> bytes:  # noqa: ANN401
    """Return the canonical form of a JSON value, ASCII, without a newline."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode("ascii")


def differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401
    """Yield the dotted keys at which two JSON values differ, with both values; None is no value."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted({*before, *now}):
            yield from differences(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
    elif canonical(before) != canonical(now):
        yield key, before, now


def digest_of(value: Any) -> str:  # noqa: ANN401
    """Return the sha256 of the canonical form of a JSON value, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def seal(kind: str, fields: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record: `fields` with format, kind and digest."""
    value = {"format": FORMAT, "kind": kind, **fields}
    return canonical({**value, "digest": digest_of(value)})


def unseal(
    raw: bytes,
    *,
    kind: str,
    form: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    dropped: Collection[str] = (),
) -> dict[str, Any]:
    """Return the fields of a record, its digest included.

    `defaults` are what keys mean that records of earlier versions lack, and `dropped` are keys
    that only those have.

    Raises:
        FormatError: Not canonical JSON within the limits, another kind or format, a key that is
            missing or unknown (those starting with "x_" are free), a value of another form than
            `check_form` asks for, or a digest that differs.
    """
    value = parse(raw)
    if value.get("kind") != kind:
        raise FormatError(f"record kind must be {kind!r}, got {value.get('kind')!r}")
    if value.get("format") != FORMAT:
        raise FormatError(
            f"format version must be {FORMAT}, got {value.get('format')!r}",
            code="VS204",
            why="the store was written by another version of viewstore",
            fix="open it with that version, or build into another --out",
        )
    digest = value.pop("digest", None)
    if digest_of(value) != digest:
        raise FormatError(f"record of kind {kind} does not match its digest")
    value = {**(defaults or {}), **{key: value[key] for key in value if key not in dropped}}
    inner = {key: value[key] for key in value if not key.startswith("x_") and key not in ENVELOPE}
    check_form(inner, form, kind)
    return {**value, "digest": digest}


def has_its_digest(raw: bytes) -> bool:
    """Whether a record is what was sealed; it may still be of another kind than is wanted."""
    return sealed_digest(raw) is not None


def sealed_digest(raw: bytes) -> str | None:
    """Return the digest of a record; None: it is not what was sealed."""
    try:
        value = parse(raw)
    except FormatError:
        return None
    digest = value.pop("digest", None)
    return digest if digest == digest_of(value) else None


def check_form(value: Any, form: Any, what: str) -> None:  # noqa: ANN401
    """Raise FormatError unless a JSON value has a form.

    Forms: a type or union of types; [form], a list of any length; (form, ...), a list of just
    these; {key: form}, an object with just these keys; {...: form}, one with any keys.
    """
    if isinstance(form, list):
        _check_type(value, list, what)
        for item in value:
            check_form(item, form[0], what)
    elif isinstance(form, tuple):
        _check_type(value, list, what)
        if len(value) != len(form):
            raise FormatError(f"{what} must be rows of {len(form)}, got {len(value)}")
        for item, part in zip(value, form, strict=True):
            check_form(item, part, what)
    elif isinstance(form, Mapping):
        _check_type(value, dict, what)
        if ... not in form and set(form) != set(value):
            odd = ", ".join(sorted(set(form) ^ set(value)))
            raise FormatError(f"{what} must have other keys, see {odd}")
        for key, item in value.items():
            check_form(item, form[... if ... in form else key], f"{what}.{key}")
    else:
        _check_type(value, form, what)


def _check_type(value: Any, kind: Any, what: str) -> None:  # noqa: ANN401
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        name = getattr(kind, "__name__", str(kind))
        raise FormatError(f"{what} must be {name}, got {type(value).__name__}")


def check_match(value: str, pattern: re.Pattern[str], what: str) -> None:
    """Raise FormatError unless the whole of a text of a record matches."""
    if not pattern.fullmatch(value):
        raise FormatError(f"{what} must match {pattern.pattern}, got {value[:80]!r}")


def check_between(value: int, least: int, most: int, what: str) -> None:
    """Raise FormatError unless a number of a record lies within its limits."""
    if not least <= value <= most:
        raise FormatError(f"{what} must be in [{least}, {most}], got {value}")


def parse(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`. Raises FormatError: not one, duplicate keys, too deep."""
    if _depth(raw) > MAX_DEPTH:
        raise FormatError(f"JSON must be at most {MAX_DEPTH} levels deep")
    try:
        value = json.loads(
            raw,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not a JSON record: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"record must be a JSON object, got {type(value).__name__}")
    _check_texts(raw, value)
    return value


def _check_texts(raw: bytes, value: dict[str, Any]) -> None:
    """Raise FormatError at a text that is none: a half of a surrogate pair.

    Those are let through by which Python writes names of files that are no UTF-8.
    """
    if raw.isascii() and b"\\u" not in raw:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise FormatError(f"JSON texts must be Unicode, got {half}") from error


def _depth(raw: bytes) -> int:
    """Return an upper bound of the nesting: brackets inside strings count too."""
    deepest = depth = 0
    for byte in raw.translate(None, delete=NOT_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise FormatError("JSON object has a key twice")
    return value


def _constant(text: str) -> float:
    raise FormatError(f"JSON must not hold {text}")


def _integer(text: str) -> int:
    if len(text) > 17 or abs(value := int(text)) > MAX_INTEGER:
        raise FormatError(f"JSON integers must lie within +-(2^53-1), got {text[:24]}")
    return value


def _float(text: str) -> float:
    if math.isinf(value := float(text)):  # 1e999 has no canonical form to be compared in
        raise FormatError(f"JSON numbers must be finite, got {text[:24]}")
    return value


def jsonable(value: Any) -> Any:  # noqa: ANN401
    """Return `value` with numpy scalars as numbers, and NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
