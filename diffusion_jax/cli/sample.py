"""Draw samples of a run into a .npz file, with a picture beside it."""

import difflib
import logging
from collections.abc import Sequence

from diffusion_jax.cli.common import Results, add_run_flags, add_seed, load_run, output
from diffusion_jax.cli.parser import Flags, Parser, Path

log = logging.getLogger(__name__)

SEVERAL_PROCESSES = True


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_run_flags(parser, "sampler", "guidance")
    parser.flag("out", Path, "samples.npz", "File of the samples")
    parser.flag("num_samples", int, 64, "Number of samples")
    add_seed(parser)
    parser.flag("label", str, "", "Class of all samples, by number or name (default: one drawn for each).")
    parser.flag(
        "layout", str, "plain", "Arrays of the file; openai: arr_0, as its evaluator reads it", ["plain", "openai"]
    )
    parser.flag("pictured", int, 64, "Number of samples in the picture")


def run(args: Flags) -> Results:
    """Draw samples at seeds seed, seed + 1, …"""
    from diffusion_jax import devices, files
    from diffusion_jax.data import scaling
    from diffusion_jax.experiment import sources
    from diffusion_jax.runs import pictures, trained

    out = output(args.out, ".npz", picture="png")
    if args.pictured < 1:
        raise ValueError(f"--pictured={args.pictured}: must be at least 1")
    loaded = load_run(args)
    shape, levels = tuple(loaded.config.data.shape), loaded.config.data.levels
    if args.layout == "openai" and not (len(shape) == 3 and shape[-1] in (1, 3) and levels):
        raise ValueError(
            f"--layout=openai: needs grey or RGB images (got shape {shape}, {levels} levels). Leave it out"
        )
    label = class_number(args.label, tuple(loaded.config.data.class_names))
    seeds, samples = trained.draw(loaded, args.num_samples, args.seed, label)
    labels = trained.labels(loaded, seeds, label)
    captions = [] if labels is None else sources.captions(loaded.config, labels[: args.pictured])
    arrays = {"samples": samples, "seeds": seeds}
    if args.layout == "openai":
        arrays = {"arr_0": scaling.to_rgb(samples, levels)}
    elif labels is not None:
        arrays["labels"] = labels
    picture = out.with_suffix(".png")
    if devices.is_first():
        files.save_npz(out, arrays)
        pictures.save_png(picture, samples[: args.pictured], levels, captions)
    calls = trained.network_calls(loaded)
    log.info("%s: %d network calls per sample", loaded.config.sampler.name, calls)
    written = {"samples": str(out), "picture": str(picture)}
    return {**written, "num_samples": len(samples), "network_calls": calls, "step": loaded.step, "ema": loaded.ema}


def class_number(label: str, names: Sequence[str]) -> int | None:
    """Return the class that --label names, by name or by number. None for "". Raises ValueError."""
    if not label:
        return None
    if label in names:
        return names.index(label)
    if label.isdecimal():
        return int(label)
    near = difflib.get_close_matches(label, names, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = f"Classes: {', '.join(names)}" if names else "The classes of this run have no names: use a number"
    raise ValueError(f"--label={label}: unknown class.{hint} {known}")
