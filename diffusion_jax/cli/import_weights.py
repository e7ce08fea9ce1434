"""Make a run directory of weights of another project."""

from diffusion_jax.cli.common import Results, add_config_flags, add_workdir, config_of
from diffusion_jax.cli.parser import Flags, Parser, Path

NAME = "import"


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    parser.flag("from", str, "", "Project", ["diffusers", "ddpm_tf1"], needed=True)
    parser.flag(
        "path", Path, "", "Weights: a folder of diffusers, or the prefix of a checkpoint of ddpm_tf1.", needed=True
    )
    add_workdir(parser, "Run directory to make")
    add_config_flags(parser, needed=False)


def run(args: Flags) -> Results:
    """Write the weights as step 0 of a run. diffusers: the config completes what the model lacks."""
    project = vars(args)["from"]
    if not args.config and project != "diffusers":
        raise ValueError(f"--config: missing. Weights of {project} need a recipe, such as --config=cifar10_ddpm")
    args.config = args.config or "cifar10_ddpm"
    config = config_of(args)
    from diffusion_jax.interop import exchange

    read = {"diffusers": exchange.from_diffusers, "ddpm_tf1": exchange.from_ddpm_tf1}[project]
    return read(config, args.path, args.workdir)
