"""The settings: their sources, their order, and their validation."""

from __future__ import annotations

from dataclasses import fields

import pytest

from headway.errors import ConfigurationError
from headway.server.settings import Settings


def test_argument_precedes_config_precedes_environment() -> None:
    """Each setting is taken from the first of the three sources that has it."""
    environ = {
        "HEADWAY_TOKENS": "env",
        "HEADWAY_STARTABLE_TASKS": "tasks.env",
        "HEADWAY_MAX_VIEWERS": "7",
    }
    config = {"HEADWAY_TOKENS": ["config"], "HEADWAY_STARTABLE_TASKS": "tasks.config"}
    settings = Settings.load({"tokens": ["argument"]}, config, environ)
    assert (settings.tokens, settings.startable_tasks, settings.max_viewers) == (
        ("argument",),
        ("tasks.config",),
        7,
    )


def test_empty_argument_is_a_value_and_none_is_not() -> None:
    """``tokens=[]`` means no tokens, whatever the environment has; None means not set."""
    environ = {"HEADWAY_TOKENS": "env"}
    assert Settings.load({"tokens": []}, {}, environ).tokens == ()
    assert Settings.load({"tokens": None}, {}, environ).tokens == ("env",)


def test_every_setting_is_parsed_from_the_environment() -> None:
    """Each field is parsed from text; lists are split at commas, and blanks are dropped."""
    texts = {
        "str": "/x",
        "str | None": "/x",
        "tuple[str, ...]": "http://a.example, http://b.example,",
        "int": "5",
        "float": "2.5",
        "bool": "Yes",
    }
    expected = {
        "str": "/x",
        "str | None": "/x",
        "tuple[str, ...]": ("http://a.example", "http://b.example"),
        "int": 5,
        "float": 2.5,
        "bool": True,
    }
    for each in fields(Settings):
        settings = Settings.load({}, {}, {f"HEADWAY_{each.name.upper()}": texts[str(each.type)]})
        assert getattr(settings, each.name) == expected[str(each.type)]


@pytest.mark.parametrize(
    ("word", "value"), [("0", False), ("off", False), ("", False), ("1", True), ("TRUE", True)]
)
def test_boolean_accepts_the_usual_words(word: str, value: bool) -> None:
    """A boolean accepts the usual words."""
    assert Settings.load({}, {}, {"HEADWAY_TENSORLAKE": word}).tensorlake is value


@pytest.mark.parametrize(
    "given",
    [
        {"max_viewers": "many"},
        {"allow_pickle": "perhaps"},
        {"tokens": 5},
        {"tokens": [5]},
        {"url_prefix": ""},
        {"url_prefix": "/"},
        {"url_prefix": "api"},
        {"url_prefix": "/api/"},
        {"max_wait": 0},
        {"ping_interval": -1},
        {"idempotency_lifetime": 0},
        {"max_viewers": -1},
        {"origins": "*"},
        {"origins": "app.example"},
        {"origins": "https://app.example/path"},
        {"speed": 9},
    ],
)
def test_invalid_setting_is_refused_with_its_name(given: dict[str, object]) -> None:
    """An invalid value or an unknown name is refused, and the error names the setting."""
    with pytest.raises(ConfigurationError, match=next(iter(given))):
        Settings.load(given, {}, {})


def test_error_does_not_repeat_the_value() -> None:
    """The error does not contain the value: it may be a secret in the wrong variable."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load({}, {}, {"HEADWAY_MAX_VIEWERS": "a-secret"})
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
