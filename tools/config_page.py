"""Writes docs/config.md from the models of the config; with --check it only says whether the page is as they are."""

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from corral.config import Config, Person
from corral.config.commented import commented, default_of, example_of, meaning
from corral.config.tables import fields, table_of, tables
from corral.values.kinds import kind_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "config.md"

HEAD = """\
# corral.toml

<!-- Written by tools/config_page.py from the models of the config. Change those, and run it. -->

The file says who may talk with an agent, as which account the agent runs, and within which bounds. `corral init` writes
a first one. Who is not in it gets nothing, and learns nothing.

**Where it is looked for**: what `--config` names; else what the variable `CORRAL_CONFIG` names; else `corral.toml` in
the folder `corral` of the platform's folder for a user's config (on Linux `~/.config/corral/corral.toml`); else
`/etc/corral/corral.toml`. No variable of the environment changes a value in it.

**Whose it must be**: a regular file that belongs to root or to the service's account, and that nobody else may write;
it may be a symbolic link to one. Others may read it, as it holds no secrets. Every command that reads it should run as
the service's account: defaults and the owners of files are judged for the account that reads.

**What is wrong** is said all at once, a sentence each, with the file, the key and what is allowed; people are told by
name, or by number, counted from 1, where a name is missing. Nothing starts then, and on HUP the service keeps the
config that it has. An unknown key is wrong. So are two people with one name (upper and lower case count as the same) or
one number in Telegram, an account that the machine does not have, and a secret's file that others may read.

**What can be done and was hardly meant** is a warning in the service's log, at the start and after a reload, and of
`corral doctor`: `silence` longer than `turn`; `shutdown` shorter than `goodbye`, `grace` and `kill` together; root as
`os_user`; one account for two people; a workspace that is not there; a variable in `env` whose name sounds like a
secret.

**Values.** A time is a text such as `"10m"`, `"1h30m"`, `"90s"`, `"500ms"`, `"90d"`, or a number of seconds; it is
longer than nothing and at most 3650 days. A size is a text such as `"4G"` or `"512M"` (powers of 1024), or a number of
bytes, at least 16M. A name has up to 64 letters without accents, digits, `.`, `_` and `-`, and begins with a letter or
a digit.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for heading, model in tables():
        values = {key: field for key, field in fields(model).items() if table_of(field) is None}
        if not values:
            continue
        rows = [
            f"| `{key}` | {kind_of(field).words} | {default(field)} | {meaning(field.description)} |"
            for key, field in values.items()
        ]
        table = "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])
        parts.append(f"## {heading}\n\n{meaning(model.__doc__)}\n\n{table}\n")
    whole = commented(Config(people=(Person(name="daniel", os_user="daniel"),)))
    parts.append(f"## A whole file\n\nWhat `corral init --person daniel:daniel` writes:\n\n```toml\n{whole}```\n")
    return "\n".join(parts)


def default(field: FieldInfo) -> str:
    """A cell of the table."""
    if field.is_required():
        return "must be given"
    if (example := example_of(field)) is not None:
        return f"none; for example `{example}`"
    return f"`{default_of(field)}`"


def main(arguments: list[str]) -> Iterator[str]:
    """Write the page, or check it; what comes out is wrong."""
    if arguments != ["--check"]:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        yield f"{PAGE} is not what the models say: run tools/config_page.py"


if __name__ == "__main__":
    sys.exit("\n".join(main(sys.argv[1:])) or 0)
