"""`main describe`: the size of a config, and the list of all keys."""

import pathlib

from diffusion_jax import config as configs

ROOT = pathlib.Path(__file__).parents[2]


def test_describe_needs_no_data(command):
    done = command("describe", "--config=cifar10_ddpm:tiny")
    assert done.code == 0 and done.results["parameters"] > 0 and len(done.out) > 5


def test_recipes_are_found_from_anywhere(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("describe", f"--config={ROOT / 'configs' / 'toy2d.py'}:tiny").code == 0


def test_every_key_is_listed(command):
    done = command("describe", "--keys")
    keys = [key for key, *_ in configs.table()]
    assert done.code == 0 and done.results == {"keys": len(keys)}
    assert [line.split()[0] for line in done.out[:-1]] == keys
