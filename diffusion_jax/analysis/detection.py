"""Anomaly and out-of-distribution detection: scores of images and their ROC figures.

figures, arrays = detect(run, odd_source(run, "data/mnist"), num_examples=1000)

Scores, larger for odder images. What a score is fitted on are held-out images only.

    bits            variational bound of infinitely many steps, estimated at a few levels, in bits/dim
    complexity      bits minus the size of the image as a PNG (Serrà et al. 2020)
    typicality      |bits - mean bits of held-out images| (Nalisnick et al. 2019)
    reconstruction  error of images noised to several levels and denoised by DDIM, z-scored (Graham et al. 2023)
    denoising       Mahalanobis distance of the log errors of eps over the levels
    score_norms     Mahalanobis distance of the log norms of the score over the levels (Mahmood et al. 2021)
    path            Mahalanobis distance of moments of eps and of its change along the encoding (Heng et al. 2024)
    nearest         distance to the nearest held-out image, in pixels: a baseline without a model

With odd=CLASSES of a conditional run, each class in turn is normal and all other classes are odd; the model is given
the label of the normal class, and scores are fitted on training images of that class.
"""

import functools
import io
import os
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from diffusion_jax import config as configs
from diffusion_jax import files
from diffusion_jax.analysis import heldout, vlb
from diffusion_jax.analysis.estimators import dims, needs_gaussian
from diffusion_jax.data import arrays, folder, idx
from diffusion_jax.data.scaling import to_model
from diffusion_jax.data.source import Source
from diffusion_jax.experiment import paths, samplers, sources
from diffusion_jax.likelihood import variational
from diffusion_jax.metrics import neighbours
from diffusion_jax.process.base import Array, in_float64, level, normal
from diffusion_jax.runs import plots
from diffusion_jax.runs.trained import Run

STARTS = 5
"""Levels from which images are reconstructed."""
FEWEST = 20
"""Images of each kind that are needed."""
REPLICATES = 200
TIMES = 1000
"""Number of times in continuous time of which noise levels are chosen."""
EVEN = 1e-4
"""Difference of logarithms below which two errors count as equal."""
CLASSES = "classes"
"""Odd set of a conditional run: all classes but one, each in turn."""
SHOWN = "denoising"
"""Score whose extreme images are in the picture."""


def detect(run: Run, odd: Source, num_examples: int = 1000, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (figures, arrays) of the detection of the images of `odd` among the run's held-out images.

    The even held-out images are those that scores are fitted on; the odd ones, and as many training images, are scored.
    figures: auroc, auroc_low, auroc_high (95 % bootstrap), fpr95 (false positives at 95 % detection), and
    auroc_train, held-out against training images, each by score. arrays: NAME_normal, NAME_odd, NAME_train of each
    score. Levels: config.bound.num_steps + 1. Raises ValueError.
    """
    needs_gaussian("detect", run)
    splits = {"heldout": sources.heldout(run.config), "train": sources.source(run.config, "train")}
    held = heldout.first_examples(splits["heldout"], num_examples)
    check_fits(run, odd)
    for name, source in (("held-out split", held), ("odd set", odd)):
        if source.size < FEWEST:
            raise ValueError(f"detect: the {name} has {source.size} examples; at least {FEWEST} are needed")
    parts = {
        "heldout": held,
        "odd": heldout.first_examples(odd, num_examples),
        "train": heldout.first_examples(splits["train"], num_examples // 2),
    }
    measured = dict(zip(parts, measure_each(run, [(source, -1) for source in parts.values()]), strict=True))
    fit, normal = ({key: value[begin::2] for key, value in measured["heldout"].items()} for begin in (0, 1))
    found: dict[str, dict[str, np.ndarray]] = {
        name: scores(fit, rows)
        for name, rows in (("normal", normal), ("odd", measured["odd"]), ("train", measured["train"]))
    }
    figures: dict[str, Any] = {name: {} for name in ("auroc", "auroc_low", "auroc_high", "fpr95", "auroc_train")}
    for score in found["normal"]:
        values = {name: of[score] for name, of in found.items()}
        figures["auroc"][score] = auroc(values["normal"], values["odd"])
        low, high = auroc_interval(values["normal"], values["odd"], seed)
        figures["auroc_low"][score], figures["auroc_high"][score] = low, high
        figures["fpr95"][score] = fpr95(values["normal"], values["odd"])
        figures["auroc_train"][score] = auroc(values["normal"], values["train"])
    counts = {"num_fit": len(fit["bits"]), **{f"num_{name}": len(of["bits"]) for name, of in found.items()}}
    by_name = {f"{score}_{name}": value for name, of in found.items() for score, value in of.items()}
    return figures | counts, by_name


def detect_classes(run: Run, num_examples: int = 1000, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (figures, arrays) of the detection of each class by a conditional run.

    figures: auroc and fpr95, means over the classes, auroc_low, auroc_high (95 % bootstrap over images, means too), and
    auroc_by_class. The score label_gain is the mean log error of eps with the label minus that without one. Up to
    num_examples held-out images are scored, and as many training images of a class are fitted on. The model has seen
    images of all classes with their labels. arrays: SCORE_CLASS [N], of all held-out images. Raises ValueError.
    """
    needs_gaussian("detect", run)
    if not run.config.network.label_dropout:
        raise ValueError(
            "--odd=classes: needs a conditional run with label dropout (got network.label_dropout="
            f"{run.config.network.label_dropout}). Use a recipe such as digits_cond"
        )
    held = heldout.first_examples(sources.heldout(run.config), num_examples)
    train = sources.source(run.config, "train")
    known, of_train = (source.read(np.arange(source.size))[1] for source in (held, train))
    classes = np.unique(known).tolist()
    fits = [_taken(train, np.flatnonzero(of_train == label)[:num_examples]) for label in classes]
    if (fewest := min(source.size for source in fits)) < FEWEST:
        raise ValueError(
            f"--odd=classes: a class has {fewest} training images to fit scores on; at least {FEWEST} are needed. Use "
            "more training data, or a larger --num_examples"
        )
    pairs = [(held, -1), *zip(fits, classes, strict=True), *((held, label) for label in classes)]
    without, *measured = measure_each(run, pairs)
    by_name: dict[str, np.ndarray] = {}
    each: dict[str, dict[str, list[float]]] = {}
    for label, fit, rows in zip(classes, measured[: len(classes)], measured[len(classes) :], strict=True):
        gain = (rows["denoising"] - without["denoising"]).mean(1)
        for score, value in (scores(fit, rows) | {"label_gain": gain}).items():
            by_name[f"{score}_{label}"] = value
            normal, odd = value[known == label], value[known != label]
            low, high = auroc_interval(normal, odd, seed)
            found = {"auroc": auroc(normal, odd), "auroc_low": low, "auroc_high": high, "fpr95": fpr95(normal, odd)}
            for name, figure in found.items():
                each.setdefault(name, {}).setdefault(score, []).append(figure)
    means = {name: {score: float(np.mean(figures)) for score, figures in of.items()} for name, of in each.items()}
    return {**means, "auroc_by_class": each["auroc"], "num_examples": held.size}, by_name


def _taken(source: Source, places: np.ndarray) -> Source:
    return source._replace(size=len(places), read=functools.partial(_at, source.read, places))


def _at(read: Any, places: np.ndarray, rows: np.ndarray) -> Any:
    return read(places[rows])


def report(run: Run, odd: Source, out: pathlib.Path, num_examples: int = 1000) -> dict[str, Any]:
    """Carry out `detect`; write the scores to `out` (.npz) and a picture beside it. Returns the figures."""
    figures, values = detect(run, odd, num_examples)
    files.save_npz(out, values)
    x = odd.read(np.arange(len(values[f"{SHOWN}_odd"])))[0]
    order = np.argsort(values[f"{SHOWN}_odd"])
    extremes = {f"least odd by {SHOWN}": x[order[:10]], f"oddest by {SHOWN}": x[order[::-1][:10]]}
    histograms = {score: (values[f"{score}_normal"], values[f"{score}_odd"]) for score in figures["auroc"]}
    titles = {score: f"{score}, AUROC {value:.3f}" for score, value in figures["auroc"].items()}
    picture = plots.detection(out.with_suffix(".png"), histograms, titles, extremes, run.config.data.levels)
    return {"scores": str(out), "picture": str(picture), **figures}


# What is measured of an image.


def measure_each(run: Run, parts: Sequence[tuple[Source, int]]) -> list[dict[str, np.ndarray]]:
    """Return `measure` of several sources, each with one label for all its examples (-1: none), compiled once."""
    sizes = [source.size for source, _ in parts]
    together = parts[0][0]._replace(size=sum(sizes), read=functools.partial(_joined, parts, np.cumsum([0, *sizes])))
    measured = measure(run, together)
    ends = np.cumsum(sizes)[:-1]
    split = {name: np.split(value, ends) for name, value in measured.items()}
    return [{name: of[i] for name, of in split.items()} for i in range(len(parts))]


def _joined(parts: Any, starts: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read examples of joined sources; `starts` are the places of their first ones."""
    which = np.searchsorted(starts, places, side="right") - 1
    label = np.array([label for _, label in parts], np.int32)[which]
    x = np.empty((len(places), *parts[0][0].shape), parts[0][0].read(np.arange(1))[0].dtype)
    for i in np.unique(which):
        x[which == i] = parts[i][0].read(places[which == i] - starts[i])[0]
    return x, label


def measure(run: Run, source: Source) -> dict[str, np.ndarray]:
    """Return what the scores are made of, arrays [N, …].

    The model is given the source's labels. bits, size: bits/dim of the model and of a PNG. reconstruction [N, STARTS],
    denoising [N, L] (log mean squared error of eps), x0_error [N, L] (mean squared error of x0, clipped as in the
    bound), score_norms [N, L], path [N, 6]: statistics of the prediction at the L noise levels. pixels [N, D].
    """
    steps = _levels(run)
    terms, _ = vlb.bound_terms(run, source, jax.tree.map(lambda field: field[-1:], steps))
    x = source.read(np.arange(source.size))[0]
    measured: dict[str, np.ndarray] = heldout.map_batches(run, _statistics(run), source)
    found = {name: np.asarray(value, np.float64) for name, value in measured.items()}
    diffusion = diffusion_nats(found["x0_error"], np.asarray(steps.at.logsnr))
    ends = (np.asarray(part, np.float64) for part in (terms.prior, terms.steps[:, -1]))  # of the prior and the decoder
    return {
        **found,
        "bits": variational.to_bits(sum(ends, dims(run) * diffusion), dims(run)),
        "size": np.array([compressed_bits(image) for image in x]) / dims(run),
        "pixels": np.asarray(to_model(x, run.config.data.levels)).reshape(len(x), -1),
    }


def diffusion_nats(x0_error: np.ndarray, log_snr: np.ndarray) -> np.ndarray:
    """Return the part of the bound between first and last level [N].

    The bound has infinitely many steps, in nats per dimension: half the integral of the mean squared error of eps over
    the log signal-to-noise ratio (Kingma et al. 2021). The KL terms of a few long steps would be many times larger.

    Arguments:
        x0_error: mean squared errors of x0 [N,L]; times the ratio they are the errors of eps. Between two levels the
            error of eps is taken to grow exponentially. If the first level has no signal, the error of x0 up to the
            second one is taken to be the mean of both.
        log_snr: log signal-to-noise ratios [L], most noise first.
    """
    log_snr, first = np.asarray(log_snr, np.float64), 0.0
    if np.isneginf(log_snr[0]):
        first = x0_error[:, :2].mean(1) * np.exp(log_snr[1]) / 2
        x0_error, log_snr = x0_error[:, 1:], log_snr[1:]
    error = x0_error * np.exp(log_snr) + np.finfo(np.float64).tiny
    begin, end = error[:, :-1], error[:, 1:]
    growth = np.log(end / begin)
    even = np.abs(growth) < EVEN
    mean = np.where(even, (begin + end) / 2, (end - begin) / np.where(even, 1, growth))
    return np.asarray(first + (mean * np.diff(log_snr)).sum(1) / 2)


def _levels(run: Run) -> Any:
    """Return the steps from noise level to noise level and to the data, fields [L].

    There are config.bound.num_steps + 1 levels, most noise first, evenly spaced in the log signal-to-noise ratio, or as
    evenly as the times k/T of a chain allow: from t = 1 to 0, or to 1/T where 0 has no noise. In continuous time T is
    TIMES.
    """
    config, experiment, chain = run.config, run.experiment, run.config.process.num_steps
    count, parts = config.bound.num_steps or chain, chain or TIMES
    if not count:
        raise ValueError("bound.num_steps: must be above 0 in continuous time (got 0). Use --num_steps=10")
    if chain and count < chain:
        paths.check_single_steps(config, "bound.num_steps=0")
    log_snr = in_float64(level, experiment.schedule(None), np.arange(parts + 1) / parts).logsnr
    usable = np.flatnonzero(np.isfinite(log_snr))
    wanted = np.linspace(log_snr[usable[-1]], log_snr[usable[0]], count + 1)
    nearest = usable[np.abs(log_snr[usable] - wanted[:, None]).argmin(1)]
    times = np.unique(np.r_[0, nearest, parts])[::-1] / parts
    return paths.grid_coefficients(config, experiment.process, experiment.schedule, times, denoise=True)(None)


def _statistics(run: Run) -> heldout.OnBatch:
    """Return the function that computes statistics of the prediction for a batch."""
    config, experiment, rows = run.config, run.experiment, _levels(run)
    clips = samplers.clips_x0(config, config.bound)
    count = len(rows.at.t)
    starts = np.unique(np.linspace(0, count - 1, STARTS + 1).round().astype(int)[1:])
    into, process, predict = sources.make_to_model(config), experiment.process, experiment.predict

    def mean_square(x: Array) -> Array:
        return jnp.square(x).reshape(len(x), -1).mean(1)

    def statistics(params: Any, key: Array, batch: dict[str, Array]) -> dict[str, Array]:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch["index"])
        x0, size, label = into(batch["x0"], keys), len(batch["x0"]), batch["label"]
        tiny = jnp.finfo(x0.dtype).tiny
        steps = jax.tree.map(lambda field: jnp.asarray(field, x0.dtype), rows)

        def spread(step: Any, copies: int) -> Any:
            return jax.tree.map(lambda field: jnp.broadcast_to(field, (copies,)), step)

        def at_level(restored: Array, inputs: tuple[Array, Any]) -> tuple[Array, tuple[Array, Array, Array]]:
            """Errors at a level, and one DDIM step of the reconstructions that have started."""
            i, row = inputs
            step = spread(row, size)
            noise = normal(jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i), x0.shape[1:], x0.dtype)
            x_t = process.corrupt(step.at, x0, noise)
            begins = (i == starts).reshape(-1, *[1] * x0.ndim)
            restored = jnp.where(begins, x_t, restored)
            clean = process.corrupt(step.at, x0, jnp.zeros_like(noise))
            every = jnp.concatenate([x_t[None], clean[None], restored]).reshape(-1, *x0.shape[1:])
            copies = len(every) // size
            found = predict(params, every, spread(row.at, len(every)), jnp.tile(label, copies), None)
            eps = found.eps.reshape(copies, *x0.shape)
            stepped = process.corrupt(spread(row.to, len(every)), found.x0, found.eps).reshape(eps.shape)[2:]
            error, norm = (mean_square(value) + tiny for value in (eps[0] - noise, eps[1]))
            predicted = jnp.clip(found.x0[:size], -1, 1) if clips else found.x0[:size]
            measured = jnp.log(error), jnp.log(norm), mean_square(predicted - x0)
            return jnp.where((i >= starts).reshape(begins.shape), stepped, restored), measured

        numbered = jnp.arange(count), steps
        blank = jnp.zeros((len(starts), *x0.shape), x0.dtype)
        restored, (errors, norms, x0_errors) = jax.lax.scan(at_level, blank, numbered)

        def upwards(carry: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Array]:
            """One step of DDIM inversion."""
            x, before = carry
            step = spread(row, size)
            found = predict(params, x, step.to, label, None)
            moments = [jnp.abs(found.eps) ** p for p in (1, 2, 3)] + [
                jnp.abs(found.eps - before) ** p for p in (1, 2, 3)
            ]
            sums = jnp.stack([moment.reshape(size, -1).mean(1) for moment in moments])
            return (process.corrupt(step.at, found.x0, found.eps), found.eps), sums

        rising = jax.tree.map(lambda field: field[:-1][::-1], steps)  # without the step to no noise
        lowest = spread(jax.tree.map(lambda field: field[-1], steps.at), size)
        first = process.corrupt(lowest, x0, jnp.zeros_like(x0))
        start = predict(params, first, lowest, label, None).eps
        _, moments = jax.lax.scan(upwards, (first, start), rising)
        return {
            "reconstruction": jnp.stack([mean_square(x - x0) for x in restored], axis=1),
            "denoising": errors.T,
            "x0_error": x0_errors.T,
            "score_norms": norms.T,
            "path": jnp.log(moments.mean(0) + tiny).T,
        }

    return statistics


def compressed_bits(image: np.ndarray) -> int:
    """Return the bits of an image [H,W,1|3] of uint8 as a PNG. Of any other array, the bits after deflate."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] in (1, 3):
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG", optimize=True)
        return 8 * len(buffer.getvalue())
    return 8 * len(zlib.compress(image.tobytes(), 9))


# Scores.


def scores(fit: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the scores [N] of images by name, fitted on other images. Both are as `measure` returns them."""
    mean, std = fit["reconstruction"].mean(0), fit["reconstruction"].std(0) + np.finfo(np.float64).tiny
    return {
        "bits": rows["bits"],
        "complexity": rows["bits"] - rows["size"],
        "typicality": np.abs(rows["bits"] - fit["bits"].mean()),
        "reconstruction": ((rows["reconstruction"] - mean) / std).mean(1),
        **{name: mahalanobis(fit[name], rows[name]) for name in ("denoising", "score_norms", "path")},
        "nearest": np.sqrt(neighbours.nearest(rows["pixels"], fit["pixels"], 1)[0][:, 0]),
    }


def mahalanobis(fit: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the Mahalanobis distance [N] of rows [N,K] from rows [M,K], with shrunk covariance.

    Reference: Ledoit and Wolf 2004.
    """
    from sklearn.covariance import LedoitWolf

    mean, std = fit.mean(0), fit.std(0)
    std = np.where(std > 0, std, 1)
    fitted = LedoitWolf().fit((fit - mean) / std)
    return np.asarray(np.sqrt(fitted.mahalanobis((rows - mean) / std)))


def auroc(normal: np.ndarray, odd: np.ndarray) -> float:
    """Return P(score of an odd image > score of a normal one), ties counted half."""
    ordered = np.sort(normal)
    below = [np.searchsorted(ordered, odd, side) for side in ("left", "right")]
    return float(np.mean(below) / len(normal))


def auroc_interval(normal: np.ndarray, odd: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of `auroc`, both sets resampled."""
    generator = np.random.default_rng(seed)
    values = [auroc(*(generator.choice(part, len(part)) for part in (normal, odd))) for _ in range(REPLICATES)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def fpr95(normal: np.ndarray, odd: np.ndarray) -> float:
    """Return the false positive rate at the threshold that 95 % of the odd images reach."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(np.r_[np.zeros(len(normal)), np.ones(len(odd))], np.r_[normal, odd])
    return float(false[np.searchsorted(true, 0.95)])


# The odd images.


def odd_source(run: Run, spec: str | os.PathLike[str]) -> Source:
    """Return the images of `spec`, a file, a directory or a recipe.

    A file is .npz or .npy; a directory holds IDX files or images, which are read by `folder_rules`. Of a directory of
    IDX files and of a recipe these are the held-out images. Raises ValueError or OSError.
    """
    place, data = pathlib.Path(files.expand(spec)), run.config.data
    if place.suffix in (".npz", ".npy"):
        found = arrays.arrays("train", path=str(place), levels=data.levels, heldout_fraction=0)
    elif place.is_dir() and list(place.glob("*-images-idx*")):
        found = idx.idx("heldout", path=str(place), levels=data.levels or 256)
    elif place.is_dir():
        shape: dict[str, Any] = {"size": tuple(data.shape[:2]), "channels": int(data.shape[-1])}
        found = folder.folder("train", path=str(place), heldout_fraction=0, **shape, **folder_rules(run))
    else:
        found = sources.source(configs.load(str(spec)), "heldout")
    check_fits(run, found)
    return found


def folder_rules(run: Run) -> dict[str, Any]:
    """Return the options of `data.folder` by which the run reads its own image files.

    They are those of a folder or of TensorFlow Datasets, so that odd images have the same background; other runs have
    none. resize: center_crop where the run scales nothing, so that files of any size can be read.
    """
    data = run.config.data
    own = data[data.name] if data.name in ("folder", "tfds") else {}
    found = {name: own[name] for name in ("alpha", "white_point", "filter", "resize", "max_pixels") if name in own}
    return {name: value for name, value in found.items() if (name, value) != ("resize", "none")}


def check_fits(run: Run, odd: Source) -> None:
    """Raise ValueError unless examples have the shape and the levels of the run's data."""
    data = run.config.data
    if tuple(odd.shape) != tuple(data.shape) or odd.levels != data.levels:
        raise ValueError(
            f"--odd: {odd.name} has examples of shape {tuple(odd.shape)} with {odd.levels} levels; the run takes "
            f"{tuple(data.shape)} with {data.levels}"
        )
