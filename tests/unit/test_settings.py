"""What can be set, and which place wins."""

from __future__ import annotations

from dataclasses import fields

import pytest

from headway.errors import ConfigurationError
from headway.server.settings import Settings


def test_an_argument_beats_the_config_which_beats_the_environment() -> None:
    """Three places are asked in this order, and each setting by itself."""
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


def test_an_empty_argument_counts() -> None:
    """``tokens=[]`` says that there are none, and isn't passed over for the environment's; None
    says nothing.
    """
    environ = {"HEADWAY_TOKENS": "env"}
    assert Settings.load({"tokens": []}, {}, environ).tokens == ()
    assert Settings.load({"tokens": None}, {}, environ).tokens == ("env",)


def test_every_setting_can_come_from_the_environment() -> None:
    """Each field has a parser for text, lists are split at commas, blanks are dropped."""
    texts = {
        "str": "/x",
        "str | None": "/x",
        "tuple[str, ...]": "http://a.example, http://b.example,",
        "int": "5",
        "float": "2.5",
        "bool": "Yes",
    }
    wanted = {
        "str": "/x",
        "str | None": "/x",
        "tuple[str, ...]": ("http://a.example", "http://b.example"),
        "int": 5,
        "float": 2.5,
        "bool": True,
    }
    for each in fields(Settings):
        settings = Settings.load({}, {}, {f"HEADWAY_{each.name.upper()}": texts[str(each.type)]})
        assert getattr(settings, each.name) == wanted[str(each.type)]


@pytest.mark.parametrize(
    ("word", "value"), [("0", False), ("off", False), ("", False), ("1", True), ("TRUE", True)]
)
def test_yes_and_no(word: str, value: bool) -> None:
    """A switch takes the usual words."""
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
def test_what_cant_be_right_is_refused(given: dict[str, object]) -> None:
    """A wrong value or an unknown name is refused at the start, and the text names the setting."""
    with pytest.raises(ConfigurationError, match=next(iter(given))):
        Settings.load(given, {}, {})


def test_a_refused_value_isnt_repeated() -> None:
    """A secret that was put into the wrong variable doesn't get into a log."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load({}, {}, {"HEADWAY_MAX_VIEWERS": "a-secret"})
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
