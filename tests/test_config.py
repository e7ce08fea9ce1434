"""Configs: defaults from signatures, recipes by name, overrides, and configs of older versions."""

import ast

import flax.linen as nn
import pytest

from diffusion_jax import config as configs
from diffusion_jax.experiment import choices, wiring

RECIPES = sorted(path.stem for path in configs.recipes().glob("*.py") if path.stem != "__init__")


class Tiny(nn.Module):
    """A network of one's own with two options."""

    width: int = 4
    activation: str = "silu"

    @nn.compact
    def __call__(self, x, time):
        return nn.Dense(x.shape[-1])(nn.Dense(self.width)(x))


def test_every_option_has_the_default_of_its_factory():
    flat = dict(configs.flatten(configs.defaults()))
    for section, factories in configs.choices().items():
        for name, factory in factories.items():
            for option, default in choices.signature_options(factory).items():
                assert flat[f"{section}.{name}.{option}"] == default
    assert set(configs.SCHEMA) <= set(flat)
    assert len(configs.SCHEMA) <= 120


def test_every_key_is_listed_with_its_type_and_meaning():
    rows = {key: (kind, default, meaning) for key, kind, default, meaning in configs.table()}
    assert set(rows) == {key for key, _ in configs.flatten(configs.defaults())}
    assert rows["network.unet.channels"][:2] == ("int", 128)
    assert all(meaning.strip() for _, _, meaning in rows.values())


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_load_by_name_and_by_path_and_keep_to_the_keys(name):
    known = {key for key, _ in configs.flatten(configs.defaults())}
    by_name = configs.load(name)
    assert {key for key, _ in configs.flatten(by_name)} == known
    assert configs.plain(configs.load(str(configs.recipes() / f"{name}.py"))) == configs.plain(by_name)


@pytest.mark.parametrize("name", ["digit", "nowhere/digits.py", "digits:tony"])
def test_a_recipe_that_does_not_exist_is_named(name):
    with pytest.raises(ValueError) as caught:
        configs.load(name)
    assert name.partition(":")[2] or name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["def get_config(v): return 1 / 0", "x =", "", "def get_config(v): return {}"])
def test_errors_of_a_recipe_file_are_one_line(content, tmp_path):
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(ValueError, match=r"mine\.py") as caught:
        configs.load(str(tmp_path / "mine.py"))
    assert "\n" not in str(caught.value)


OVERRIDES = [
    ("train_steps", "7", 7),
    ("train_steps", "1e3", 1000),
    ("optimizer.learning_rate", "1", 1.0),
    ("remat", "true", True),
    ("remat", "False", False),
    ("ema.decays", "(0.9, 0.99)", (0.9, 0.99)),
    ("ema.decays", "0.9", (0.9,)),
    ("ema.decays", "()", ()),
    ("ema.decays", "0.998,power:0.05", (0.998, "power:0.05")),
    ("ema.decays", "(0.998, 'power:0.05', power:0.1)", (0.998, "power:0.05", "power:0.1")),
    ("eval.quality_metrics", "fid,pr", ("fid", "pr")),
    ("eval.quality_metrics", "('fid',)", ("fid",)),
    ("data.arrays.path", "a=b,c.npy", "a=b,c.npy"),
    ("schedule.cosine.offset", "0.1", 0.1),
]


@pytest.mark.parametrize(("key", "text", "value"), OVERRIDES)
def test_overrides_have_the_type_of_the_default(key, text, value):
    c = configs.defaults()
    configs.override(c, key, text)
    got = dict(configs.flatten(c))[key]
    assert got == value and type(got) is type(value)


WRONG = [
    ("network.foo.width", "3", "network.foo"),
    ("data.path", "x", "data.folder.path"),
    ("lr", "1", "optimizer.learning_rate"),
    ("network.channels", "64", "network.unet.channels"),
    ("network", "ncsnpp", "network.name=ncsnpp"),
    ("optimizer.learning_rat", "1", "optimizer.learning_rate"),
    ("seed.x", "1", "seed"),
    ("train_steps", "many", "train_steps"),
    ("train_steps", "2.5", "train_steps"),
    ("remat", "maybe", "remat"),
    ("optimizer.adam.b1", "x", "optimizer.adam.b1"),
]


@pytest.mark.parametrize(("key", "text", "named"), WRONG)
def test_wrong_overrides_name_the_flag_as_typed_and_the_nearest_key(key, text, named):
    with pytest.raises(ValueError) as caught:
        configs.override(configs.defaults(), key, text, start="--config.")
    assert f"--config.{key}" in str(caught.value) and named in str(caught.value) and "\n" not in str(caught.value)


HINTS = [
    ("optimizer.lr", {}, ["optimizer.learning_rate"]),
    ("optimizer.adam.lr", {}, ["optimizer.learning_rate"]),
    ("optimizer.wd", {}, ["optimizer.adam.weight_decay"]),
    ("optimizer.wd", {"optimizer.name": "lion"}, ["optimizer.lion.weight_decay"]),
    ("optimizer.betas", {}, ["optimizer.adam.b1", "optimizer.adam.b2"]),
    ("optimizer.betas", {"optimizer.name": "muon"}, ["optimizer.muon.beta"]),
    ("optimizer.beta1", {}, ["optimizer.adam.b1"]),
    ("optimizer.adamw.beta2", {}, ["optimizer.adamw.b2"]),
    ("optimizer.weight_decay", {"optimizer.name": "adamw"}, ["optimizer.adamw.weight_decay"]),
    ("bound.steps", {}, ["bound.num_steps"]),
    ("sampler.steps", {}, ["sampler.num_steps"]),
    ("process.steps", {}, ["process.num_steps"]),
    ("process.timesteps", {}, ["process.num_steps"]),
    ("steps", {}, ["train_steps"]),
    ("data.dir", {}, []),
    ("data.dir", {"data.name": "folder"}, ["data.folder.path"]),
    ("data.dir", {"data.name": "tfds"}, ["data.tfds.data_dir"]),
    ("data.path", {"data.name": "idx"}, ["data.idx.path"]),
    ("data.path", {}, ["data.arrays.path", "data.folder.path", "data.idx.path"]),
    ("data.data_dir", {"data.name": "folder"}, ["data.folder.path"]),
    ("loss.type", {}, ["loss.name"]),
    ("type", {}, []),
    ("sampler.cfg_scale", {}, ["guidance.scale"]),
    ("sampler.w", {}, ["guidance.scale"]),
    ("guidance.w", {}, ["guidance.scale"]),
    ("cfg_scale", {}, ["guidance.scale"]),
    ("network.w", {}, []),
    ("lr", {}, ["optimizer.learning_rate"]),
    ("optim.lr", {}, ["optimizer.learning_rate"]),
    ("model.channels", {}, ["network.unet.channels"]),
    ("training.lr", {}, ["optimizer.learning_rate"]),
    ("optimiser.beta1", {}, ["optimizer.adam.b1"]),
    ("wd", {}, ["optimizer.adam.weight_decay"]),
    ("ema.decay", {}, ["ema.decays"]),
    ("network.unt.channels", {}, ["network.unet.channels"]),
    ("network.unet.chanels", {}, ["network.unet.channels"]),
    ("network.dropuot", {}, ["network.unet.dropout"]),
    ("network.mlpp.width", {}, ["network.mlp.width"]),
    ("network.channels", {"network.name": "dit"}, ["network.dit.channels"]),
    ("optimizer.learning_rat", {}, ["optimizer.learning_rate"]),
    ("schedule.cosin", {}, ["schedule.cosine"]),
    ("sampler.zzz", {}, []),
]


@pytest.mark.parametrize(("key", "others", "hinted"), HINTS)
def test_a_hint_names_keys_of_the_section_and_of_the_choices_made(key, others, hinted):
    c = configs.defaults()
    configs.override_all(c, others)
    with pytest.raises(ValueError) as caught:
        configs.override(c, key, "1")
    _, said, hint = str(caught.value).partition("Did you mean ")
    assert hint.partition("?")[0].split(" or ") == hinted if hinted else not said
    section, dot, _ = key.partition(".")
    if key.count(".") <= 1:
        keys = str(caught.value).rpartition(": ")[2].split(", ")
        assert keys == list(c[section] if dot and section in c else c)


def test_the_section_is_the_one_that_the_flag_changes():
    with pytest.raises(ValueError, match=r"--sampler\.eta.*ddim\.eta"):
        configs.override(configs.defaults().sampler, "eta", "0.5", start="--sampler.")


def test_an_object_of_yours_by_name_with_its_options():
    c = configs.load("digits:tiny")
    own = f"{__name__}:Tiny"
    configs.override_all(c, {"network.options.width": "6", "network.name": own})
    assert c.network.options.to_dict() == {"width": 6, "activation": "silu"}
    c.data.update(shape=(2,), levels=0)
    assert wiring.build(c).network.module.width == 6
    again = configs.merge(configs.plain(c))
    assert configs.plain(again) == configs.plain(c)
    with pytest.raises(ValueError, match=r"network\.options\.widht"):
        configs.override(c, "network.options.widht", "6")
    with pytest.raises(ValueError, match="nowhere"):
        configs.override(configs.defaults(), "network.name", "nowhere:Net")


def test_a_stored_config_lies_over_the_defaults():
    stored = configs.plain(configs.load("digits"))
    del stored["guard"], stored["optimizer"]["adam"]["eps"]
    merged = configs.merge(stored)
    assert merged.guard.most_skipped == configs.defaults().guard.most_skipped
    assert merged.optimizer.adam.eps == configs.defaults().optimizer.adam.eps
    assert merged.train_steps == 2500


def test_a_missing_stored_key_has_its_former_default():
    stored = configs.plain(configs.load("toy2d"))
    assert configs.merge(stored).ema.ramp == configs.defaults().ema.ramp > 0
    del stored["ema"]["ramp"]
    assert configs.merge(stored).ema.ramp == 0


def test_recipes_of_papers_keep_a_constant_decay():
    for name in RECIPES:
        if name.startswith(("cifar10", "dpm2015", "lsun", "celebahq")) and name != "cifar10_edm":
            assert configs.load(f"{name}:paper" if name == "dpm2015_mnist" else name).ema.ramp == 0, name


def test_renamed_keys_are_translated():
    old = {
        "network": {"told": "time"},
        "prediction": {"input": "as_it_is"},
        "sampler": {"steps": [5, 1]},
        "optimizer": {"b2": 0.9},
    }
    merged = configs.merge(old)
    assert merged.network.conditioning == "time" and merged.optimizer.adam.b2 == 0.9
    assert merged.prediction.input_scaling == "none"
    assert merged.sampler.levels == (5, 1)


def test_keys_that_are_gone_or_unknown(monkeypatch):
    monkeypatch.setitem(configs.stored.GONE, "optimizer.nesterov", False)
    configs.merge({"optimizer": {"nesterov": False}})
    with pytest.raises(ValueError, match=r"optimizer\.nesterov"):
        configs.merge({"optimizer": {"nesterov": True}})
    with pytest.raises(ValueError, match=r"network\.unet\.chanels.*network\.unet\.channels"):
        configs.merge({"network": {"unet": {"chanels": 3}}})


def test_recipes_import_the_config_only():
    for path in configs.recipes().rglob("*.py"):
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {getattr(node, "module", None) for node in nodes}
        assert names <= {"diffusion_jax", "ml_collections", "typing"}, path.name


def test_resume_with_another_config():
    stored = {"train_steps": 10, "optimizer": {"learning_rate": 2e-4}, "network": {"unet": {"multipliers": (1, 2)}}}
    configs.check_resume(stored, stored)
    allowed = {"train_steps": 20, "remat": True, "parallel": "pmap", "accumulate_steps": 2, "report": {"every": 1}}
    configs.check_resume(stored, stored | allowed | {"eval": {"every": 1, "passes": 2}, "checkpoint": {"keep": 1}})
    configs.check_resume(stored, stored | {"network": {"unet": {"multipliers": [1, 2]}}})

    asked = stored | {"optimizer": {"learning_rate": 1e-3, "b2": 0.99}, "network": {"unet": {"multipliers": (1, 2, 4)}}}
    with pytest.raises(ValueError) as error:
        configs.check_resume(stored, asked | {"train_steps": 20})
    message = str(error.value)
    for part in ("optimizer.learning_rate", "0.0002", "0.001", "optimizer.adam.b2", "network.unet.multipliers"):
        assert part in message
    assert "train_steps" not in message and "seed" not in message and "\n" not in message


def test_a_key_that_the_stored_config_lacks_is_at_its_default():
    """So a run goes on when a later version adds a key; and options of choices that are not made do not count."""
    config = configs.plain(configs.load("digits"))
    older = {key: value for key, value in config.items() if key != "guard"}
    configs.check_resume(older, config)
    with pytest.raises(ValueError, match=r"ema\.ramp"):
        configs.check_resume(config, config | {"ema": config["ema"] | {"ramp": 0.05}})
    configs.check_resume(config, config | {"network": config["network"] | {"vdm": {"channels": 7}}})


def test_the_end_of_a_decay_may_move():
    stored = {"optimizer": {"schedule": "cosine", "cosine": {"total_steps": 10}}}
    later, other = {"total_steps": 20}, {"total_steps": 10, "final": 0.1}
    configs.check_resume(stored, {"optimizer": {"schedule": "cosine", "cosine": later}})
    with pytest.raises(ValueError, match=r"optimizer\.cosine\.final"):
        configs.check_resume(stored, {"optimizer": {"schedule": "cosine", "cosine": other}})


def test_data_may_move_and_not_change():
    config = configs.plain(configs.load("digits"))
    data = config["data"] | {"name": "folder", "folder": {"path": "/a"}, "size": 5, "fingerprint": "1"}
    moved = data | {"folder": {"path": "/b"}}
    configs.check_resume(config | {"data": data}, config | {"data": moved})
    with pytest.raises(ValueError, match=r"data\.fingerprint"):
        configs.check_resume(config | {"data": data}, config | {"data": moved | {"fingerprint": "2"}})
