"""Describe a config: parameters, FLOPs and memory, without training; or list all config keys."""

from diffusion_jax.cli.common import Results, add_config_flags, config_of
from diffusion_jax.cli.parser import Flags, Parser


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_config_flags(parser, needed=False)
    parser.flag("compile", bool, False, "Also compile the train step, for the compiler's figure of memory.")
    parser.flag("keys", bool, False, "List every config key with type, default and meaning.")


def run(args: Flags) -> Results:
    """Print the description and return its figures."""
    if args.keys:
        return list_keys()
    if not args.config:
        raise ValueError("--config: missing. Use a recipe, such as --config=digits, or --keys for the list of keys")
    from diffusion_jax.analysis import description

    text, figures = description.describe(config_of(args), args.compile)
    print(text)
    return figures


def list_keys() -> Results:
    """Print every config key and return their number."""
    from diffusion_jax import config as configs

    rows = configs.table()
    width = max(len(key) for key, *_ in rows)
    for key, kind, default, meaning in rows:
        print(f"{key:{width}}  {kind:5}  {default!r:22}  {meaning}")
    return {"keys": len(rows)}
