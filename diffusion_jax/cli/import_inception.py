"""Convert the public Inception weights of the Fréchet Inception distance."""

from diffusion_jax.cli.common import Results
from diffusion_jax.cli.parser import Flags, Parser, Path

NAME = "import-inception"

DEVICES = False


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    parser.flag("path", Path, "", "Public weights: a .safetensors file, or the .pb file of 2015", needed=True)
    parser.flag("out", Path, "", "File to write (default: in ~/.cache/diffusion_jax).")


def run(args: Flags) -> Results:
    """Write the weights where `--features=inception` reads them."""
    from diffusion_jax.metrics import feature_networks

    return feature_networks.import_inception(args.path, args.out)
