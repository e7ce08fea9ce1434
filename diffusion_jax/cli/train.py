"""Train a config in a run directory; the same command resumes."""

import logging

from diffusion_jax.cli.common import Results, add_config_flags, add_verify, add_workdir, config_of, override
from diffusion_jax.cli.parser import Flags, Parser

log = logging.getLogger(__name__)

SEVERAL_PROCESSES = True


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_workdir(parser, "Run directory, for checkpoints, metrics and pictures")
    add_config_flags(parser, needed=False)
    add_verify(parser)
    parser.flag("check_data", bool, False, "Read every example once before training, and list those that fail.")


def run(args: Flags) -> Results:
    """Train until config.train_steps. Without --config, the run that the run directory holds is resumed."""
    from diffusion_jax.experiment import sources
    from diffusion_jax.runs import trained
    from diffusion_jax.training import checkpoints, loop

    if args.config:
        config = config_of(args)
    elif checkpoints.steps(args.workdir):
        config = override(trained.read_config(args.workdir, verify=args.verify), args)
    else:
        raise ValueError(
            f"--config: missing, and {args.workdir} holds no run to resume. Use --config=digits for example"
        )
    if args.check_data:
        sources.check_files(config)
    try:
        return loop.train(config, args.workdir, verify=args.verify)
    except loop.Preempted as notice:
        log.info("%s", notice)
        return {"workdir": args.workdir, "preempted": True, "exit_code": notice.exit_code}
