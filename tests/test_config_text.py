"""Times and sizes, any document, any text; and the commented file and the page, which the models write."""

import re
import subprocess
import sys
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.config import Config, Person, Timeouts
from corral.config.commented import commented
from corral.config.loading import judge
from corral.config.tables import fields, table_of, tables
from corral.values.kinds import NAME
from corral.values.quantities import LARGEST, LONGEST, SMALLEST, as_size, as_time, seconds, size
from tests.harness.configs import OWN
from tests.harness.stage import REPOSITORY

# Times and sizes.


@given(st.integers(1, int(LONGEST * 1000)))
def test_a_time_is_read_as_it_was_written(milliseconds: int) -> None:
    text = as_time(milliseconds / 1000)
    assert re.fullmatch(r"(\d+d)?(\d+h)?(\d+m(?!s))?(\d+s)?(\d+ms)?", text)
    assert seconds(text) == pytest.approx(milliseconds / 1000, rel=1e-12)
    assert as_time(seconds(text)) == text


@given(st.text("0123456789.dhms -", max_size=12) | st.floats() | st.integers() | st.booleans())
def test_a_time_is_positive_and_bounded_or_refused(value: object) -> None:
    try:
        total = seconds(value)
    except ValueError:
        return
    assert 0 < total <= LONGEST
    assert not isinstance(value, bool)


@pytest.mark.parametrize(
    ("text", "total"), [("1h30m", 5400), ("1.5s", 1.5), ("500ms", 0.5), ("90d", 7_776_000), ("1d1ms", 86_400.001)]
)
def test_times(text: str, total: float) -> None:
    assert seconds(text) == total


@given(st.integers(SMALLEST, LARGEST))
def test_a_size_is_read_as_it_was_written(total: int) -> None:
    assert size(as_size(total)) == total


@given(st.text("0123456789.KMGTiB ", max_size=12) | st.integers() | st.booleans())
def test_a_size_is_large_enough_or_refused(value: object) -> None:
    try:
        total = size(value)
    except ValueError:
        return
    assert SMALLEST <= total <= LARGEST
    assert not isinstance(value, bool)


@pytest.mark.parametrize(("text", "total"), [("4G", 2**32), ("512MiB", 2**29), ("1.5G", 3 * 2**29), ("1T", 2**40)])
def test_sizes(text: str, total: int) -> None:
    assert size(text) == total


# Whatever it holds, it is judged in words of its own.

KEYS = sorted({key for _, model in tables() for key in fields(model)} - {"path"} | {"path", "zzz", "a b", "_cli"})
VALUES = st.recursive(
    st.none().map(lambda _: "")
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text("ab/~ \0\n\x1b\u202e=", max_size=5)
    | st.sampled_from(["codex", "1h", "/x", "~", "ada", "4G", "never", OWN]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
@pytest.mark.slow
def test_any_document_is_a_config_or_has_faults_in_our_words(document: dict[str, object]) -> None:
    config, found = judge(document)
    assert config is not None or found
    for fault in found:
        key, _, what = fault.partition(": ")
        assert key, fault
        assert what, fault
        assert "nput should be" not in fault
        assert "Value error" not in fault
        assert fault.isprintable()


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(
    st.dictionaries(st.sampled_from(["A", "B", "_c"]), TEXTS),
    st.dictionaries(st.from_regex(NAME, fullmatch=True), st.just("/x\u00e9")),
)
@pytest.mark.slow
def test_what_is_written_is_read_whatever_it_holds(env: dict[str, str], workspaces: dict[str, str]) -> None:
    config = Config(people=(Person(name="ada", env=env, workspaces=workspaces),))
    assert Config.model_validate(tomllib.loads(commented(config))) == config


# The commented file and the page.


def all_set() -> Config:
    """A config in which every key is set, to its example or to its default."""
    document: dict[str, object] = {}
    for heading, model in tables():
        values = {
            key: field.examples[0] if field.examples else field.get_default(call_default_factory=True)
            for key, field in fields(model).items()
            if table_of(field) is None and not field.is_required()
        }
        if heading == "[[people]]":
            document["people"] = [{"name": "ada", **values}, {"name": "b.c", **values}]
        elif values:
            *above, last = heading.strip("[]").split(".")
            place = document
            for part in above:
                place = place.setdefault(part, {})  # type: ignore[assignment]
            place[last] = values
    return Config.model_validate(document)


def test_every_key_says_what_it_means() -> None:
    for heading, model in tables():
        assert model.__doc__, heading
        for key, field in fields(model).items():
            assert table_of(field) or field.description, f"{heading} {key}"


def test_a_commented_file_is_read_as_the_config_that_it_was_written_from() -> None:
    config = all_set()
    text = commented(config)
    assert Config.model_validate(tomllib.loads(text)) == config
    # Every key of the first person and of all else is there once, and nothing is a comment that is set.
    assert not re.search(r"^#[a-z_]+ = ", text, re.MULTILINE)


def test_every_key_of_a_new_file_can_be_used_by_taking_away_its_comment_sign() -> None:
    text = commented(Config(people=(Person(name="ada"),)))
    assert Config.model_validate(tomllib.loads(text)) == Config(people=(Person(name="ada"),))
    used = re.sub(r"^#([a-z_]+ = )", r"\1", text, flags=re.MULTILINE)
    document = tomllib.loads(used)
    Config.model_validate(document)
    for heading, model in tables():
        place: object = document
        for part in filter(None, heading.strip("[]").split(".")):
            assert isinstance(place, dict)
            place = place[part]
        keys = place[0] if isinstance(place, list) else place
        assert list(keys) == list(fields(model)) if heading else set(keys) == set(fields(model))


def test_what_a_new_file_shows_as_a_default_is_the_default() -> None:
    text = commented(Config(people=(Person(name="ada"),)))
    defaults = re.sub(r"^#([a-z_]+ = [^#\n]*)$", r"\1", text, flags=re.MULTILINE)
    config = Config.model_validate(tomllib.loads(defaults))
    assert config == Config(people=(Person(name="ada"),))
    assert config.timeouts.model_fields_set == set(Timeouts.model_fields)


def test_the_page_is_what_the_models_say() -> None:
    page = REPOSITORY / "tools" / "config_page.py"
    done = subprocess.run([sys.executable, page, "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
