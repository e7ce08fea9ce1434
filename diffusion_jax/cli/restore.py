"""Degrade held-out examples and restore them: denoise, inpaint, colourise, superres."""

from diffusion_jax.cli.common import Results, add_format, add_run_flags, add_seed, load_run, output
from diffusion_jax.cli.parser import Flags, Parser, Path

PICTURED = 16
"""Columns of the picture."""


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_run_flags(parser, "sampler", "guidance", "data")
    add_format(parser)
    parser.flag("out", Path, "restored.npz", "File of the examples")
    parser.flag("num_samples", int, 16, "Number of held-out examples")
    add_seed(parser)
    parser.flag("task", str, "inpaint", "Degradation: denoise, inpaint, colourise or superres")
    parser.flag("rule", str, "noise_aware", "Conditioning on the known part: constant, power, noise_aware or renoise")
    parser.flag("mask", str, "right", "Missing pixels of inpaint: right, left, random, box, or a .npy file")
    parser.flag("share", float, 0.5, "Share of missing pixels of inpaint (masks random and box)")
    parser.flag("factor", int, 2, "Reduction of height and width of superres")
    parser.flag("noise", float, None, "Standard deviation of the noise, in the range -1 to 1 (denoise: 0.5, else 0).")
    parser.flag("repeats", int, 1, "Repetitions of each group of steps (RePaint: 10)")
    parser.flag("length", int, 10, "Steps in a group")


def run(args: Flags) -> Results:
    """Write degraded, restored and original examples, and the error of the restored ones."""
    import numpy as np

    from diffusion_jax import files
    from diffusion_jax.analysis import restoring
    from diffusion_jax.experiment import choices
    from diffusion_jax.runs import pictures

    out = output(args.out, ".npz")
    make_task = choices.choose("--task", args.task, restoring.TASKS)
    loaded = load_run(args)
    options: dict[str, Results] = {
        "inpaint": {"mask": files.expand(args.mask), "share": args.share, "seed": args.seed},
        "superres": {"factor": args.factor},
    }
    degraded = make_task(tuple(loaded.config.data.shape), **options.get(args.task, {}))
    noise = (0.5 if args.task == "denoise" else 0.0) if args.noise is None else args.noise
    arrays, figures = restoring.restore(
        loaded, degraded, args.rule, args.num_samples, args.seed, noise, args.repeats, args.length
    )
    files.save_npz(out, arrays)
    rows = ("degraded", "restored", "original")
    shown = np.stack([arrays[name][:PICTURED] for name in rows])
    title = f"{args.task}, {args.rule}: RMSE {figures['rmse']:.1f} / 255"
    picture = pictures.table(out, shown, loaded.config.data.levels, rows, title)
    chosen = {"task": args.task, "rule": args.rule, "noise": noise, "num_samples": args.num_samples}
    return {"restored": str(out), "picture": str(picture), **chosen, **figures, "step": loaded.step, "ema": loaded.ema}
