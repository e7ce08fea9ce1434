"""What each command of the command line does: `command(flags) -> its results`, which become one JSON object.

They import what they need when they are called, so that `--help` and `describe` do not wait for the rest.
"""

import logging
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from diffusion_jax.arguments import required

log = logging.getLogger("diffusion_jax")

STARTED = time.perf_counter()
Results = dict[str, Any]
PICTURED = 16
"""Columns in the picture that `restore` makes."""


def train(args: flags.FlagValues) -> Results:
    """Train a config in a workdir."""
    from diffusion_jax.training import loop

    try:
        return loop.train(args.config, required(args, "workdir"))
    except loop.Preempted as notice:
        log.info("%s", notice)
        return {"workdir": args.workdir, "preempted": True}


def describe(args: flags.FlagValues) -> Results:
    """Print what a config amounts to."""
    from diffusion_jax.analysis.description import describe

    text, figures = describe(args.config, args.compile)
    print(text)
    return figures


def benchmark(args: flags.FlagValues) -> Results:
    """Measure how fast a config trains and samples on this machine."""
    from diffusion_jax.analysis.timing import benchmark

    if args.batch_size:
        args.config.batch_size = args.batch_size
    text, figures = benchmark(args.config, args.repeats, STARTED, args.features, args.inception)
    print(text)
    return figures


def prepare(args: flags.FlagValues) -> Results:
    """Download, build or convert the TFDS set of a config."""
    from diffusion_jax.data import tfds

    options = args.config.data.tfds
    return {"directory": tfds.prepare(options.dataset, options.data_dir)}


def sample(args: flags.FlagValues) -> Results:
    """Draw samples from a workdir into a .npz, with a picture beside it."""
    from diffusion_jax import devices, files
    from diffusion_jax.data.scaling import to_rgb
    from diffusion_jax.runs import pictures, trained

    out = to_write(args.out)
    if args.pictured < 1:
        raise ValueError(f"--pictured={args.pictured} must be at least 1")
    run = trained.load(args.workdir, args.step, args.ema, sampler=args.sampler, guidance=args.guidance)
    if args.layout == "openai" and not (len(run.config.data.shape) == 3 and run.config.data.levels):
        raise ValueError("--layout=openai is for images with grey levels; leave it out")
    seeds, samples = trained.draw(run, args.num_samples, args.seed, args.label)
    arrays = {"samples": samples, "seeds": seeds}
    if args.layout == "openai":
        arrays = {"arr_0": to_rgb(samples, run.config.data.levels)}
    elif (labels := trained.labels(run, seeds, args.label)) is not None:
        arrays["labels"] = labels
    picture = out.with_suffix(".png")
    if devices.is_first():
        files.save_npz(out, arrays)
        pictures.save_png(picture, samples[: args.pictured], run.config.data.levels)
    calls = trained.network_calls(run)
    log.info("%s: %d network calls a sample", run.config.sampler.name, calls)
    where = {"samples": str(out), "picture": str(picture)}
    return {**where, "num_samples": len(samples), "network_calls": calls, "step": run.step}


def restore(args: flags.FlagValues) -> Results:
    """Degrade held-out examples and restore them, into a .npz with a picture beside it."""
    import numpy as np

    from diffusion_jax import files
    from diffusion_jax.analysis import restoring
    from diffusion_jax.experiment import choices
    from diffusion_jax.runs import pictures, trained

    out = to_write(args.out)
    run = trained.load(args.workdir, args.step, args.ema, sampler=args.sampler, guidance=args.guidance)
    options: dict[str, Results] = {
        "inpaint": {"mask": args.mask, "share": args.share, "seed": args.seed},
        "superres": {"factor": args.factor},
    }
    task = choices.choose("--task", args.task, restoring.TASKS)
    degraded = task(tuple(run.config.data.shape), **options.get(args.task, {}))
    noise = (0.5 if args.task == "denoise" else 0.0) if args.noise is None else args.noise
    arrays, figures = restoring.restore(
        run, degraded, args.rule, args.num_samples, args.seed, noise, args.repeats, args.length
    )
    files.save_npz(out, arrays)
    picture, rows = out.with_suffix(".png"), ("degraded", "restored", "original")
    shown = np.stack([arrays[name][:PICTURED] for name in rows])
    title = f"{args.task}, {args.rule}: RMSE {figures['rmse']:.1f} / 255"
    pictures.table(picture, shown, run.config.data.levels, rows, title)
    chosen = {"task": args.task, "rule": args.rule, "noise": noise, "num_samples": args.num_samples}
    return {"restored": str(out), "picture": str(picture), **chosen, **figures, "step": run.step}


def stats(args: flags.FlagValues) -> Results:
    """Reference statistics of a whole split, with their provenance, into a .npz."""
    from diffusion_jax.experiment import quality, sources
    from diffusion_jax.metrics import reference

    out = to_write(args.out)
    if args.keep < 2:
        raise ValueError(f"--keep={args.keep} must be at least 2")
    source = sources.source(args.config, args.split)
    network = quality.feature_network(args.features, source.shape, source.levels, weights=args.inception)
    statistics = quality.measure(args.config, args.split, network, args.keep)
    reference.write(out, statistics)
    return {"stats": str(out), "kept": len(statistics.features), **statistics.provenance}


def evaluate(args: flags.FlagValues) -> Results:
    """Every figure of a workdir that its config asks for, by name; kept in workdir/evaluation as well."""
    from diffusion_jax.analysis import likelihoods, sample_metrics, scales
    from diffusion_jax.runs import trained

    if args.num_samples == 1 or args.num_samples < -1:
        raise ValueError(f"--num_samples={args.num_samples} must be 0 (none), 2 or more, or -1 (eval.num_samples)")
    ways = likelihoods.parse_names(args.likelihood)
    wanted = scales.parse(args.scales) if args.scales else []
    sections = {"sampler": args.sampler, "guidance": args.guidance, "bound": args.bound, "ode": args.ode}
    run = trained.load(args.workdir, args.step, args.ema, **sections)
    likelihood = likelihoods.prepare_likelihoods(run, ways)
    number = run.config.eval.num_samples if args.num_samples < 0 else args.num_samples
    trained.evaluation_directory(run)
    judge: Callable[[], Results] = dict
    if args.metrics:
        options = sample_metrics.Options(
            max(0, args.num_samples), args.seed, tuple(args.allow), args.bootstrap, args.heldout
        )
        judge = sample_metrics.prepare_metrics(run, args.metrics, args.features, args.inception, args.stats, options)

    def in_bits(run: trained.Run) -> Results:
        found, table = likelihood()
        if table:
            print(table)
        return found

    parts: list[Callable[[trained.Run], Results]] = [trained.heldout_loss]
    if ways:
        parts.append(in_bits)
    if wanted:
        parts.append(lambda run: {"guidance": scales.compare_scales(run, wanted, sections, number, args.seed)})
    elif run.config.eval.svm and number:
        parts.append(lambda run: sample_metrics.svm_metrics(run, number, args.seed))
    if number:
        parts.append(lambda run: sample_metrics.pattern_counts(run, number, args.seed))
    parts.append(lambda run: judge())
    figures: Results = {"step": run.step, "ema": run.ema}
    for part in parts:
        figures |= part(run)
        trained.keep(run, figures)
    for name, value in figures.items():
        log.info("%-26s %s", name, f"{value:.5f}" if isinstance(value, float) else value)
    return figures


def show(args: flags.FlagValues) -> Results:
    """Pictures of what happens between noise and data, into workdir/evaluation."""
    from diffusion_jax.analysis import progression
    from diffusion_jax.runs import trained

    run = trained.load(args.workdir, args.step, args.ema, sampler=args.sampler, guidance=args.guidance)
    return {"step": run.step, "ema": run.ema, **progression.draw_progression(run, args.num_samples, args.seed)}


def encode(args: flags.FlagValues) -> Results:
    """Carry held-out examples to t = 1 and back, into a .npz, with a picture beside it."""
    from diffusion_jax.analysis import latents
    from diffusion_jax.runs import trained

    out = to_write(args.out)
    run = trained.load(args.workdir, args.step, args.ema, sampler=args.sampler, ode=args.ode)
    return {"step": run.step, **latents.encode_heldout(run, args.num_samples, out, args.by)}


def frontier(args: flags.FlagValues) -> Results:
    """Judge samplers in numbers of steps, what of it is not there yet, and print the table."""
    from diffusion_jax.analysis import frontier
    from diffusion_jax.runs import trained

    run = trained.load(args.workdir, args.step, args.ema, sampler=args.sampler)
    number = run.config.eval.num_samples if args.num_samples < 0 else args.num_samples
    try:
        steps = [int(count) for count in args.steps]
    except ValueError:
        raise ValueError(f"--steps={','.join(args.steps)} must be whole numbers, such as 5,10,20") from None
    text, figures = frontier.compare_samplers(run, args.samplers, steps, number, args.seed)
    print(text)
    return {"step": run.step, "ema": run.ema, **figures}


def sweep(args: flags.FlagValues) -> Results:
    """Run a grid of configs, or what is left of it."""
    from diffusion_jax.analysis import sweeps

    return sweeps.run_sweep(required(args, "sweep"), required(args, "workdir"))


def compare(args: flags.FlagValues) -> Results:
    """Print the figures of a sweep, and write them beside it; or those of runs, side by side."""
    from diffusion_jax.analysis import comparison

    places = args.runs or [required(args, "workdir")]
    if len(places) > 1 or any(pathlib.Path(place).joinpath("checkpoints").is_dir() for place in places):
        text, figures = comparison.compare_runs(places, args.out)
    else:
        text, figures = comparison.compare_sweep(places[0])
    print(text)
    return figures


def report(args: flags.FlagValues) -> Results:
    """One HTML page of a run and its evaluations."""
    from diffusion_jax.analysis import html_report

    return html_report.write_report(required(args, "workdir"))


def import_weights(args: flags.FlagValues) -> Results:
    """Make a workdir of weights from elsewhere."""
    from diffusion_jax.interop import exchange

    read = {"diffusers": exchange.from_diffusers, "ddpm_tf1": exchange.from_ddpm_tf1}[required(args, "from")]
    return read(args.config, required(args, "path"), required(args, "workdir"))


def export_weights(args: flags.FlagValues) -> Results:
    """Write the weights of a workdir in the format of another project."""
    from diffusion_jax.interop import exchange
    from diffusion_jax.runs import trained

    write = {"diffusers": exchange.to_diffusers}[required(args, "to")]
    path = required(args, "path")
    run = trained.load(required(args, "workdir"), args.step, args.ema)
    return write(run.config, run.params, path) | {"step": run.step, "ema": run.ema}


def import_inception(args: flags.FlagValues) -> Results:
    """Make the public weights of the FID's Inception readable."""
    from diffusion_jax.metrics import feature_networks

    return feature_networks.import_inception(required(args, "path"), args.out)


COMMANDS: dict[str, Callable[[flags.FlagValues], Results]] = {
    "train": train,
    "sample": sample,
    "restore": restore,
    "evaluate": evaluate,
    "encode": encode,
    "stats": stats,
    "frontier": frontier,
    "show": show,
    "describe": describe,
    "benchmark": benchmark,
    "prepare": prepare,
    "sweep": sweep,
    "compare": compare,
    "report": report,
    "import": import_weights,
    "export": export_weights,
    "import-inception": import_inception,
}


def to_write(out: str) -> pathlib.Path:
    """Where a command is to write its .npz. Raises ValueError or PermissionError, before any work, if it cannot."""
    path = pathlib.Path(out)
    if path.suffix != ".npz":
        raise ValueError(f"--out={out} must end in .npz")
    if not path.parent.is_dir():
        raise ValueError(f"--out={out}: the folder {path.parent} does not exist; make it, or choose another")
    if path.is_dir():
        raise ValueError(f"--out={out} is a folder; name a file in it")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"--out={out}: {path.parent} cannot be written to; choose another folder")
    return path
