"""Configs: keys with defaults and meanings, recipes, overrides, and stored configs.

A choice is `section.name`; the options of each choice stand beside it under
`section.<name>` and are the keyword arguments of the function or class that the name stands for, with its defaults. A
name may also be `module:function`, a function or class of yours; its options are then `section.options`. Any key can be
set from the command line, `--config.KEY=VALUE`. Configs that older versions stored can be read.

    c = config.load("digits")                       # a recipe by name, or by path: "configs/digits.py"
    config.override(c, "schedule.name", "cosine")
    c = config.merge(stored)                        # a config of an older version, over today's defaults
"""

from diffusion_jax.config.overrides import ALIASES, check_effect, nearest_keys, override, override_all, parse
from diffusion_jax.config.recipes_and_sweeps import find, load, recipes, shrink, sweep_variant, variant
from diffusion_jax.config.schema import SCHEMA, Key, choices, defaults, table
from diffusion_jax.config.stored import MAY_DIFFER, check_resume, merge
from diffusion_jax.config.tree import as_tuples, flatten, in_use, plain, put

__all__ = [
    "ALIASES", "MAY_DIFFER", "SCHEMA", "Key", "as_tuples", "check_effect", "check_resume", "choices", "defaults",
    "find", "flatten", "in_use", "load", "merge", "nearest_keys", "override", "override_all", "parse", "plain", "put",
    "recipes", "shrink", "sweep_variant", "table", "variant",
]  # fmt: skip
