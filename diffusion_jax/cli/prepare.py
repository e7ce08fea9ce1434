"""Download or convert a TensorFlow Datasets set, so that training can read it."""

from diffusion_jax.cli.common import Results, add_config_flags, config_of
from diffusion_jax.cli.parser import Flags, Parser

DEVICES = False


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_config_flags(parser)


def run(args: Flags) -> Results:
    """Prepare the data set of config.data.tfds."""
    from diffusion_jax.data import tfds

    options = config_of(args).data.tfds
    return {"directory": tfds.prepare(options.dataset, options.data_dir)}
