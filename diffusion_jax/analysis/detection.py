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
import os
import pathlib
from typing import Any

import numpy as np

from diffusion_jax import config as configs
from diffusion_jax import files
from diffusion_jax.analysis.estimators import needs_gaussian, needs_no_label
from diffusion_jax.analysis.image_statistics import measure_each
from diffusion_jax.data import arrays, folder, idx
from diffusion_jax.data.source import Source, subset
from diffusion_jax.experiment import sources
from diffusion_jax.metrics import neighbours
from diffusion_jax.runs import plots
from diffusion_jax.runs.trained import Run

FEWEST = 20
"""Images of each kind that are needed."""
REPLICATES = 200
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
    needs_no_label("detect", run)
    splits = {"heldout": sources.heldout(run.config), "train": sources.source(run.config, "train")}
    held = subset(splits["heldout"], num_examples)
    check_fits(run, odd)
    for name, source in (("held-out split", held), ("odd set", odd)):
        if source.size < FEWEST:
            raise ValueError(f"detect: the {name} has {source.size} examples; at least {FEWEST} are needed")
    parts = {
        "heldout": held,
        "odd": subset(odd, num_examples),
        "train": subset(splits["train"], num_examples // 2),
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
    auroc_by_class. The score label_gain is the mean log error of eps with the label minus that without one, and
    label_margin the same minus the smallest with another label, all with the same noise. Up to num_examples held-out
    images are scored, and as many training images of a class are fitted on. The model has seen images of all classes
    with their labels. arrays: SCORE_CLASS [N], of all held-out images. Raises ValueError.
    """
    needs_gaussian("detect", run)
    if not run.config.network.label_dropout:
        raise ValueError(
            "--odd=classes: needs a conditional run with label dropout (got network.label_dropout="
            f"{run.config.network.label_dropout}). Use a recipe such as digits_cond"
        )
    held = subset(sources.heldout(run.config), num_examples)
    train = sources.source(run.config, "train")
    known, of_train = (source.read(np.arange(source.size))[1] for source in (held, train))
    classes = np.unique(known).tolist()
    if len(classes) < 2:
        raise ValueError(f"--odd=classes: all {held.size} held-out images have class {classes[0]}; use more of them")
    fits = [_taken(train, np.flatnonzero(of_train == label)[:num_examples]) for label in classes]
    if (fewest := min(source.size for source in fits)) < FEWEST:
        raise ValueError(
            f"--odd=classes: a class has {fewest} training images to fit scores on; at least {FEWEST} are needed. Use "
            "more training data, or a larger --num_examples"
        )
    pairs = [(held, -1), *zip(fits, classes, strict=True), *((held, label) for label in classes)]
    without, *measured = measure_each(run, pairs, same_noise=True)
    error = np.stack([rows["denoising"].mean(1) for rows in (without, *measured[len(classes) :])])
    by_name: dict[str, np.ndarray] = {}
    each: dict[str, dict[str, list[float]]] = {}
    for i, label in enumerate(classes):
        fit, rows = measured[i], measured[len(classes) + i]
        others = np.delete(error, (0, i + 1), axis=0).min(0)
        of_label = {"label_gain": error[i + 1] - error[0], "label_margin": error[i + 1] - others}
        for score, value in (scores(fit, rows) | of_label).items():
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
    shown = subset(odd, num_examples)
    x = shown.read(np.arange(shown.size))[0]
    order = np.argsort(values[f"{SHOWN}_odd"])
    extremes = {f"least odd by {SHOWN}": x[order[:10]], f"oddest by {SHOWN}": x[order[::-1][:10]]}
    histograms = {score: (values[f"{score}_normal"], values[f"{score}_odd"]) for score in figures["auroc"]}
    titles = {score: f"{score}, AUROC {value:.3f}" for score, value in figures["auroc"].items()}
    picture = plots.detection(out.with_suffix(".png"), histograms, titles, extremes, run.config.data.levels)
    return {"scores": str(out), "picture": str(picture), **figures}


def check_numbers(num_examples: int, num_steps: int) -> None:
    """Raise ValueError for too few examples or steps between noise levels."""
    for flag, value, least in (("num_steps", num_steps, 2), ("num_examples", num_examples, 2 * FEWEST)):
        if value < least:
            raise ValueError(f"--{flag}={value}: must be at least {least}")


# Scores.


def scores(fit: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the scores [N] of images by name, fitted on other images.

    fit, rows: as `image_statistics.measure` returns them.
    """
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
