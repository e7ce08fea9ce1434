"""The flags of a command: every spelling of a value, and every fault as one ValueError that names the flag."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.cli.parser import Parser, Path

KINDS = [("flag", bool, False), ("number", int, 1), ("share", float, 0.5), ("text", str, "a"), ("items", list, "a,b")]


@pytest.fixture
def parser():
    made = Parser("test", "A command.")
    for name, kind, default in KINDS:
        made.flag(name, kind, default, "Help.")
    made.flag("place", Path, "", "Help.")
    made.flag("way", str, "up", "Help.", ["up", "down"])
    made.group("sampler", "Help.")
    return made


def test_defaults(parser):
    args = parser.read([])
    assert (args.flag, args.number, args.share, args.text, args.items) == (False, 1, 0.5, "a", ["a", "b"])
    assert args.overrides == {} and args.place == ""


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--flag"], "flag", True),
        (["--flag=true"], "flag", True),
        (["--flag=False"], "flag", False),
        (["--flag", "--number=2"], "flag", True),
        (["--noflag"], "flag", False),
        (["--flag", "false"], "flag", False),
        (["--noflag", "--flag", "true"], "flag", True),
        (["--number=-3"], "number", -3),
        (["--number", "-3"], "number", -3),
        (["--number=1", "--number=2"], "number", 2),
        (["--share", "1e-3"], "share", 1e-3),
        (["--text="], "text", ""),
        (["--text=a=b"], "text", "a=b"),
        (["--items=x, y,,z"], "items", ["x", "y", "z"]),
        (["--items="], "items", []),
        (["--place=~/x"], "place", os.path.expanduser("~/x")),
        (["--place", "~"], "place", os.path.expanduser("~")),
        (["--place=file:///a/b"], "place", "/a/b"),
        (["--place=gs://a/~b"], "place", "gs://a/~b"),
        (["--way=down"], "way", "down"),
    ],
)
def test_a_value_in_every_spelling(parser, words, name, value):
    assert getattr(parser.read(words), name) == value


def test_overrides_are_collected(parser):
    words = ["--sampler.a.b=1=2", "--number=3", "--sampler.c", "-4", "--sampler.a.b", "5", "--sampler=x"]
    assert parser.read(words).overrides == {"sampler.a.b": "5", "sampler.c": "-4", "sampler": "x"}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--number=many"], "--number"),
        (["--number=1.5"], "--number"),
        (["--share=half"], "--share"),
        (["--flag=perhaps"], "--flag"),
        (["--way=left"], "--way"),
        (["--text"], "--text"),
        (["--sampler.a"], "--sampler.a"),
        (["--numbr=1"], "--numbr"),
        (["--num=1"], "--num"),
        (["--bound.a=1"], "--bound.a"),
        (["word"], "word"),
        (["-n"], "-n"),
    ],
)
def test_a_fault_names_the_flag(parser, words, name):
    with pytest.raises(ValueError, match=name):
        parser.read(words)


def test_a_needed_flag_that_is_missing_or_empty_is_named(parser):
    parser.flag("workdir", Path, "", "Run directory.", needed=True)
    for words in ([], ["--workdir="]):
        with pytest.raises(ValueError, match="--workdir"):
            parser.read(words)


def test_a_positional_is_not_taken_for_the_value_of_a_boolean():
    parser = Parser("test", "A command.")
    parser.add_argument("runs", nargs="*")
    parser.flag("debug", bool, False, "Help.")
    args = parser.read(["--debug", "a", "b"])
    assert args.debug and args.runs == ["a", "b"]


@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_words_are_values_or_a_value_error(words):
    made = Parser("test", "A command.")
    for name, kind, default in KINDS:
        made.flag(name, kind, default, "Help.")
    made.group("sampler", "Help.")
    try:
        made.read(words)
    except ValueError as error:
        assert str(error)
