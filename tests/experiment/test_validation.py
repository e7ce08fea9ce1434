"""Bad values of every key, drawn at random: each is an error on one line that names the key, before any work."""

import functools
import pathlib

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax import main
from diffusion_jax.experiment.optimizers import RATES
from diffusion_jax.experiment.validation import check
from diffusion_jax.training import loop

ROOT = pathlib.Path(__file__).parents[2]
UNUSED = ("data.classes", "data.levels", "data.size", "data.mean", "seed")  # filled in, or checked with the data
LETTERS = st.text("abcdefghijklmnopqrstuvwxyz_ ./:%$0123456789-", min_size=1, max_size=12)
EACH = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)


def leaves(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


CONFIG = dict(leaves(configs.load("digits")))
SECTIONS = ("optimizer", "ema", "checkpoint", "guard", "report", "eval")
NUMBERS = [
    key
    for key, value in CONFIG.items()
    if isinstance(value, int | float) and not isinstance(value, bool) and key not in UNUSED
    and ("." not in key or key.split(".")[0] in SECTIONS)
]  # fmt: skip


def refused(flags, capsys, monkeypatch):
    """Return the error of `main train` for these flags, on one line, without having begun to train."""

    def begun(*_, **__):
        raise AssertionError(f"{flags} were accepted")

    monkeypatch.setattr(loop, "train", begun)
    code = main.run(["main", "train", f"--config={ROOT / 'configs/digits.py'}", "--workdir=nowhere", *flags])
    said = capsys.readouterr()
    assert code == 2 and not said.out
    (line,) = said.err.splitlines()
    assert line.startswith("error: ") and "Traceback" not in line
    return line


def is_number(text, kind):
    try:
        value = float(text)
        return kind is float or value == int(value)  # 1e3 is a whole number
    except (ValueError, OverflowError):
        return False


@settings(EACH, max_examples=300)
@given(key=st.sampled_from([k for k, v in CONFIG.items() if isinstance(v, int | float)]), text=LETTERS)
def test_text_is_no_number(key, text, capsys, monkeypatch):
    kind = type(CONFIG[key])
    assume(not is_number(text, float if kind is float else int) and not (kind is bool and text.strip() in "01"))
    assert key.split(".")[-1] in refused([f"--config.{key}={text}"], capsys, monkeypatch)


@settings(EACH, max_examples=100)
@given(key=st.sampled_from(sorted(CONFIG)), place=st.integers(0, 40), letter=st.sampled_from("qxzj"))
def test_a_misspelt_key_is_named_in_the_error(key, place, letter, capsys, monkeypatch):
    place = min(place, len(key))
    wrong = key[:place] + letter + key[place:]
    line = refused([f"--config.{wrong}=1"], capsys, monkeypatch)
    assert any(part in line for part in wrong.split(".") if part not in key.split("."))


@settings(EACH, max_examples=200)
@given(
    key=st.sampled_from(NUMBERS),
    number=st.one_of(st.integers(max_value=-1), st.floats(max_value=-1e-6), st.just(float("nan"))),
)
def test_numbers_below_zero_and_none_at_all_are_refused_by_name(key, number):
    config = configs.load("digits")
    config.data.update(shape=(8, 8, 1), levels=17, classes=10)
    *sections, name = key.split(".")
    if key.count(".") == 2 and sections[0] == "optimizer":  # options count where they are chosen
        config.optimizer["schedule" if sections[1] in RATES else "name"] = sections[1]
    section = functools.reduce(lambda node, part: node[part], sections, config)
    with section.unlocked(), section.ignore_type():
        section[name] = number
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        check(config)
