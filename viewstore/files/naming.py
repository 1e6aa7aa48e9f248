"""Where ready-made views lie, and the rule that names them: pure, nothing is opened."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from viewstore.errors import ConfigError, FormatError
from viewstore.format.listing import check_below

FIELDS = {"key": r".+", "name": r".+", "stem": r"[^/]+", "view": r"[0-9]{1,9}"}
OF_SAMPLE = ("key", "name", "stem")  # any of them says which sample a view is of


@dataclass(frozen=True)
class ViewFiles:
    """Where ready-made views lie, and how they are named.

    Attributes:
        root: The folder below which they lie, or the tar.
        in_tar: Whether it is a tar.
        rule: The name of a view there, with the fields {key}, {name}, {stem}, {view}.
    """

    root: str
    in_tar: bool
    rule: str

    @classmethod
    def parse(cls, text: str) -> ViewFiles:
        """Return what `FOLDER/RULE` or `TAR:RULE` says; the rule begins before the first field.

        Raises:
            ConfigError: No {key}, {name} or {stem}, an unknown field, fields side by side, or a
                rule that leads out of its folder.
        """
        before, brace, _ = text.partition("{")
        tar, colon, _ = before.rpartition(":")
        if colon and tar.lower().endswith(".tar"):
            naming = cls(tar, True, text[len(tar) + 1 :])
        else:
            folder, _, _ = before.rpartition("/")
            rule = text[len(folder) :].removeprefix("/")
            naming = cls(folder or ("/" if before.startswith("/") else "."), False, rule)
        if not brace:
            raise _bad_rule(text, "it has no field")
        naming.expression()
        return naming

    def expression(self) -> re.Pattern[str]:
        """Return the rule as a regular expression with a group for each field.

        Raises:
            ConfigError: As `parse`.
        """
        pieces = re.split(r"\{([^{}]*)\}", self.rule)
        literals, fields = pieces[::2], pieces[1::2]
        unknown = [field for field in fields if field not in FIELDS]
        if unknown:
            raise _bad_rule(self.rule, f"it has no field {{{unknown[0]}}}")
        if any("{" in each or "}" in each for each in literals):
            raise _bad_rule(self.rule, "a brace is left over")
        if not {*OF_SAMPLE} & {*fields}:
            raise _bad_rule(self.rule, "nothing in it says which sample a view is of")
        if "" in literals[1:-1]:
            raise _bad_rule(self.rule, "where one field ends and the next begins cannot be told")
        try:
            check_below(self.rule)
        except FormatError as error:
            raise _bad_rule(self.rule, str(error)) from error
        text, seen = "", set[str]()
        for literal, field in itertools.zip_longest(literals, fields):
            text += re.escape(literal)
            if field is not None:
                text += f"(?P={field})" if field in seen else f"(?P<{field}>{FIELDS[field]})"
                seen.add(field)
        return re.compile(text, re.DOTALL)


def _bad_rule(rule: str, why: str) -> ConfigError:
    return ConfigError(
        f"files must name views by a rule like 'views/{{key}}_{{view}}.png', got {rule!r}",
        code="VS105",
        where="files",
        why=why,
        fix="the fields are {key}, {name} (the key without suffix), {stem} (without folder too) "
        "and {view} (from 0)",
    )
