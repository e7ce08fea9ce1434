"""A trained run: its config and weights from a workdir's checkpoint, and what one asks of it.

run = trained.load("runs/digits")
seeds, samples = trained.draw(run, 64)
figures, terms, curves = trained.variational_bound(run)
"""

import functools
import io
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from diffusion_jax import __version__, build
from diffusion_jax.data import pipeline
from diffusion_jax.data.scaling import to_model
from diffusion_jax.data.source import Source
from diffusion_jax.evaluation import likelihood, progressive
from diffusion_jax.evaluation.frechet import frechet_pixels
from diffusion_jax.evaluation.svm import svm_confidence
from diffusion_jax.objective.prediction import clip_x0
from diffusion_jax.process.base import Array
from diffusion_jax.training import checkpoints, loop, parallel, pictures, reporting

log = logging.getLogger(__name__)


class Run(NamedTuple):
    """What a checkpoint holds, ready to use."""

    workdir: str
    step: int
    ema: str
    """The average the weights are, by its decay; "none" if they are the parameters themselves."""
    config: ConfigDict
    experiment: build.Experiment
    params: Any
    """On every device."""
    guide: ConfigDict | None = None
    """The config of the run that guides this one, if any."""


def load(workdir: str, step: int | str = "newest", ema: str = "", **sections: Mapping[str, Any]) -> Run:
    """Read a run. ema: a decay, or "none"; "" is the one its config names first. sections: values to change in them.

    Raises FileNotFoundError or ValueError, as `training.checkpoints` does.
    """
    config = ConfigDict(checkpoints.read_config(workdir, step))
    for name, values in sections.items():
        config[name].update(values)
    ema = ema or first_average(config)
    guide, of_guide = load_guide(workdir, config)
    weights = checkpoints.restore_weights(workdir, step, None if ema == "none" else ema)
    try:
        experiment = build.build(config, weights, guide=guide)  # a learned schedule is known from here on
    except (AttributeError, KeyError, TypeError) as error:
        version = checkpoints.read_versions(workdir, step).get("diffusion_jax", "an unknown version")
        raise ValueError(
            f"{workdir} was trained by diffusion_jax {version}, whose config is not that of {__version__} ({error}); "
            "use that version, or train again"
        ) from error
    number = checkpoints.find_step(workdir, step)
    return Run(workdir, number, ema, config, experiment, parallel.replicated(weights | of_guide), guide)


def first_average(config: ConfigDict) -> str:
    """The decay of the average that a config names first, or "none"."""
    return str(next(iter(config.ema.decays), "none"))


def load_guide(workdir: str, config: ConfigDict) -> tuple[ConfigDict | None, dict[str, Any]]:
    """The config of the other run that config.guidance names, and {"classifier" or "guide": its weights}, if any.

    Raises as `load` does, and ValueError if none is named.
    """
    guidance = config.get("guidance", ConfigDict({"name": "none"}))
    if guidance.name not in ("classifier", "autoguidance"):
        return None, {}
    chosen = guidance[guidance.name]
    if not chosen.workdir and (guidance.name == "classifier" or not (chosen.ema or chosen.step != "newest")):
        raise ValueError(
            f"guidance.name={guidance.name!r}: name the run that guides, --guidance.{guidance.name}.workdir=DIR"
            + ("" if guidance.name == "classifier" else ", or a worse step or average of this one, .step=N, .ema=DECAY")
        )
    where = chosen.workdir or workdir
    guide = ConfigDict(checkpoints.read_config(where, chosen.step))
    ema = chosen.ema or first_average(guide)
    weights = checkpoints.restore_weights(where, chosen.step, None if ema == "none" else ema)
    return guide, {"classifier" if guidance.name == "classifier" else "guide": weights}


def draw(run: Run, number: int, seed: int = 0, label: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Samples at seeds seed, seed + 1, …: (seeds int64 [N], samples in the levels of the data [N,*D]).

    label: the class of all of them; None draws one for each seed, see `labels`. Raises ValueError for a number below 1
    or seeds that are not in 0 … 2^32 - 1, FloatingPointError where an adaptive sampler could not keep to its tolerance.
    """
    if number < 1:
        raise ValueError(f"--num_samples={number} must be at least 1")
    if not 0 <= seed <= 2**32 - number:
        raise ValueError(f"--seed={seed} must be at least 0, and seed + num_samples at most 2^32")
    seeds = np.arange(seed, seed + number)
    asked = labels(run, seeds, label)
    return seeds, loop.samples(run.config, run.experiment.sampler, complete=True)(run.params, seeds, asked)


def labels(run: Run, seeds: np.ndarray, label: int | None = None) -> np.ndarray | None:
    """The classes int32 [N] of the samples at these seeds: `label`, or drawn; None if the model is asked for none.

    Raises ValueError for a class that there is not, or for any where the model is asked for none.
    """
    classes = run.config.data.classes
    if label is not None and not build.asks_for_class(run.config):
        raise ValueError(
            f"--label={label}, but this model is not told the class (network.conditional=False); leave it out, or "
            "guide the model by a classifier, --guidance.name=classifier"
        )
    if label is not None and not 0 <= label < classes:
        raise ValueError(f"--label={label} is not a class; they are 0 to {classes - 1}")
    found = run.experiment.sampler.labels(jnp.asarray(seeds, jnp.uint32))
    if found is None:
        return None
    return np.asarray(found) if label is None else np.full(len(seeds), label, np.int32)


def network_calls(run: Run) -> int:
    """How often the network is asked for one sample, as counted by `build.count_calls`."""
    return build.count_calls(run.config, run.params, run.guide)


def heldout_loss(run: Run) -> dict[str, float]:
    """The loss on held-out data, as the training run reports it."""
    heldout = build.source(run.config, "heldout")
    return loop.heldout_loss(run.config, run.experiment, heldout, loop.keys(run.config)[2])(run.params)


def sample_quality(run: Run, number: int, seed: int = 0) -> dict[str, float]:
    """What an SVM fitted on the real training data says of samples, and how far they are from these in pixels."""
    seeds, samples = draw(run, number, seed)
    train, heldout = (build.source(run.config, split) for split in ("train", "heldout"))
    real, held_back = (source.read(np.arange(source.size)) for source in (train, heldout))
    return {
        "num_samples": number,
        "network_calls": network_calls(run),
        **svm_confidence(real, held_back, samples, labels(run, seeds)),
        "frechet_pixels": frechet_pixels(real[0], samples),
        "frechet_pixels_heldout": frechet_pixels(real[0], held_back[0]),
    }


def variational_bound(run: Run) -> tuple[dict[str, float], likelihood.Terms, dict[str, np.ndarray]]:
    """The bound on held-out data: figures, the terms of every example, and the curves of `evaluation.likelihood`.

    As config.bound asks. With grey levels the figures also hold `baseline_bits_per_dim`, of independent pixels.
    """
    config, experiment = run.config, run.experiment
    options = config.bound
    rows = build.chain_rows(config, experiment.process, experiment.schedule, options.num_steps)(None)
    predict = clip_x0(experiment.predict) if build.clips(config, options) else experiment.predict
    step_term = build.vlb_term(config, experiment.process, experiment.reverse)
    make = likelihood.make_terms(predict, experiment.process, experiment.schedule, step_term, rows)

    into = build.into_range(config)

    def on_data(params: Any, key: Array, batch: dict[str, Array]) -> likelihood.Terms:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch["index"])
        return make(params, key, batch | {"x0": into(batch["x0"], keys)})

    heldout = heldout_examples(config)
    terms = of_every_example(run, on_data, heldout, config.sampler.tile)

    dims = int(np.prod(config.data.shape))
    figures = likelihood.summarise(terms, dims)
    if config.data.levels:
        figures["baseline_bits_per_dim"] = baseline(config, heldout)
    return figures, terms, likelihood.curves(terms, np.asarray(rows.at.t), dims)


def of_every_example(run: Run, on_data: Callable[..., Any], heldout: Source, tile: int) -> Any:
    """`on_data(params, key, batch)`, a tree of [B, …], of every held-out example, `tile` per device at a time."""
    terms_of = parallel.spread(on_data, whole=2)
    key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    size = tile * jax.device_count()
    found = []
    started = told = time.perf_counter()
    for j, batch in enumerate(pipeline.in_order(heldout, size, workers=run.config.data.workers)):
        real = batch.pop("mask") > 0
        batch["index"] = batch["index"] + np.int32(j * size)
        terms = parallel.fetch(terms_of(run.params, key, parallel.place(batch)))
        found.append(jax.tree.map(lambda values, real=real: values[real], terms))
        done, now = min(heldout.size, (j + 1) * size), time.perf_counter()
        if now - told > 5 or done == heldout.size:
            left = (now - started) / done * (heldout.size - done)
            log.info("bound: %d of %d examples, %s left", done, heldout.size, reporting.duration(left))
            told = now
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def judge(run: Run, number: int, seed: int = 0) -> dict[str, float]:
    """What can be counted in samples of a data set whose every example is known; nothing for the others."""
    counted = build.JUDGES.get(run.config.data.name)
    return counted(draw(run, number, seed)[1]) | {"num_samples": number} if counted else {}


def report_bound(run: Run) -> tuple[dict[str, Any], np.ndarray]:
    """`variational_bound`, with every term in vlb.npz and the curves in vlb.png and rate_distortion.png.

    Returns the figures, and the bound of every example in nats [examples].

    vlb.npz: the curves by name; `terms_nats` [examples, 1 + N], L_T first, and `mse` [examples, N].
    """
    figures, terms, curves = variational_bound(run)
    directory = evaluation_directory(run)
    terms_nats = np.concatenate([terms.prior[:, None], terms.steps], axis=1)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"terms_nats": terms_nats, "mse": terms.mse, **curves}
    np.savez(buffer, **arrays)
    (directory / "vlb.npz").write_bytes(buffer.getvalue())
    title = f"{epath.Path(run.workdir).name}: {figures['bits_per_dim']:.3f} bits/dim"
    pictures.bound_terms(directory / "vlb.png", curves, title)
    pictures.rate_distortion(directory / "rate_distortion.png", curves, title)
    log.info("the terms of the bound: %s", directory)
    options = {"decoder": run.config.bound.decoder, "bound_clip_x0": build.clips(run.config, run.config.bound)}
    figures = {**figures, "bound_steps": len(curves["t"]), "bound_examples": len(terms_nats), **options}
    return figures, terms_nats.astype(np.float64).sum(1)


def report_progressive(run: Run, number: int, seed: int = 0) -> dict[str, str]:
    """Draw what `evaluation.progressive` shows, `number` columns wide, beside the other results; returns the paths.

    progressive_decoding.png: held-out examples as a receiver sees them while bits arrive; progressive_generation.png:
    samples as they come about; shared_latents.png: samples that part at level t; interpolation.png: between the first
    two held-out examples. progressive.npz holds the arrays by these names, in the levels of the data.
    """
    config, sampler, process = run.config, run.experiment.sampler, run.experiment.process
    heldout = build.source(config, "heldout")
    if not 2 <= number <= heldout.size:
        raise ValueError(f"--num_samples={number} must be 2 to {heldout.size}, the number of held-out examples")
    grey, label = heldout.read(np.arange(number))
    x0 = to_model(grey, config.data.levels, config.data.mean, config.data.std)
    params = jax.device_get(run.params)
    seeds = np.arange(seed, seed + number)
    found = {
        "progressive_decoding": progressive.decoding(sampler, process, params, x0, jnp.asarray(label), seed),
        "progressive_generation": progressive.generation(sampler, params, seeds),
        "shared_latents": progressive.sharing(sampler, params, seed, number),
        "interpolation": progressive.interpolation(sampler, process, params, x0[:2], seed, number),
    }
    arrays: dict[str, Any] = {name: np.asarray(build.out_of_range(config)(x)) for name, x in found.items()}
    directory = evaluation_directory(run)
    rows = sampler.rows(params)
    starts = [f"t = {float(chunk.at.t[0]):.2f}" for chunk in progressive.parts(rows, 10)]
    depths = [f"t = {float(chunk.at.t[0]):.2f}" for chunk in progressive.parts(rows, 4)]
    labels = {
        "progressive_decoding": ([*starts, "x0"], "x0 as predicted from x_t, x_t ~ q(x_t | x0) of held-out examples"),
        "progressive_generation": ([*starts, "sample"], "x0 as predicted from x_t while samples are drawn"),
        "shared_latents": (starts, "samples that have x_t in common"),
        "interpolation": (["pixels", *reversed(depths)], "between two held-out examples, mixed at level t"),
    }
    paths = {name: directory / f"{name}.png" for name in arrays}
    for name, (named, title) in labels.items():
        pictures.table(paths[name], arrays[name], config.data.levels, named, title)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (directory / "progressive.npz").write_bytes(buffer.getvalue())
    return {name: str(path) for name, path in paths.items()}


def keep(run: Run, figures: Mapping[str, Any]) -> None:
    """Add figures to workdir/evaluation/<step>-<ema>/figures.json."""
    path = evaluation_directory(run) / "figures.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(reporting.plain(before | dict(figures)), indent=1, allow_nan=False) + "\n")


def baseline(config: ConfigDict, heldout: Source) -> float:
    """bits/dim of a histogram per pixel, fitted on as many training examples as an evaluation may look at."""
    train = first_examples(build.source(config, "train"), config.eval.max_examples)

    def images(source: Source) -> Iterator[np.ndarray]:
        for batch in pipeline.in_order(source, 256, workers=config.data.workers):
            yield batch["x0"][batch["mask"] > 0]

    return likelihood.histogram_bits_per_dim(images(train), images(heldout), config.data.levels)


def heldout_examples(config: ConfigDict) -> Source:
    """The held-out examples that a likelihood looks at."""
    return first_examples(build.source(config, "heldout"), config.bound.num_examples or config.eval.max_examples)


def first_examples(source: Source, most: int) -> Source:
    """The source cut to its first examples, if it has more."""
    return source._replace(size=min(source.size, most))


def evaluation_directory(run: Run, shared: bool = False) -> epath.Path:
    """Where the results of evaluating a checkpoint go, made if need be: workdir/evaluation/<step>-<ema>.

    Of several processes only the first writes there, the others where it is thrown away; shared: the place itself, to
    read from. Raises PermissionError where it cannot be made: ask for it before the work.
    """
    if not shared and not parallel.is_first():
        return epath.Path(_thrown_away().name)
    directory = epath.Path(run.workdir).expanduser() / "evaluation" / f"{run.step}-{run.ema}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(
            f"{directory} cannot be made ({error.strerror}); copy the workdir to evaluate it"
        ) from error
    return directory


@functools.cache
def _thrown_away() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="diffusion_jax_")
