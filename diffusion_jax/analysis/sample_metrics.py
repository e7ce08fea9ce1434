"""A trained run, judged: samples that are kept, their features, and every figure with its interval and what it is of.

run = trained.load("runs/digits")
record = judged.judge(run, network, reference, ["fid", "pr"], judged.Options(1500))
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from diffusion_jax import files
from diffusion_jax.experiment import choices, sources
from diffusion_jax.metrics import bootstrap, figures, neighbours, reference
from diffusion_jax.metrics.features import FeatureNetwork
from diffusion_jax.metrics.frechet import frechet_pixels
from diffusion_jax.metrics.svm import svm_confidence
from diffusion_jax.runs import pictures, stored_samples, trained

log = logging.getLogger(__name__)

RECORDS = "metrics.json"
DRAWS = 20
"""How often as many samples as there are held-out examples are drawn, to stand beside these."""


class Options(NamedTuple):
    """How samples are judged."""

    number: int = 0
    """Samples; 0: as many as the reference has examples."""
    seed: int = 0
    """Of the first sample."""
    allowed: tuple[str, ...] = ()
    """"few": fewer examples than features; "sizes": another number of samples than of reference examples."""
    replicates: int = 100
    """Of the bootstrap; 0: no intervals."""
    beside_heldout: bool = False
    """Whether to give the figures of held-out data too, and of as many samples."""


def prepare_metrics(
    run: trained.Run, metrics: Sequence[str], features: str, weights: str, stats: str, options: Options
) -> Callable[[], dict[str, Any]]:
    """Check everything before any sample is drawn; return a function that evaluates them and returns `flat` figures.

    features: a name of build.FEATURES, or the user's module:function. weights: a file for Inception, or "". stats: a
    file of `main stats`; "" measures the training data, once, into workdir/evaluation/stats_<features>.npz. Raises
    ValueError or FileNotFoundError.
    """
    for name in metrics:
        choices.choose("metrics", name, figures.METRICS)
    config = run.config
    network = sources.feature_network(features, tuple(config.data.shape), config.data.levels, weights=weights)
    ref = reference.read(stats) if stats else own_reference(run, network)
    check(run, network, ref, options)
    return lambda: flat(evaluate_samples(run, network, ref, metrics, options))


def own_reference(run: trained.Run, network: FeatureNetwork) -> reference.Reference:
    """The statistics of the training data of a run, measured unless they are there already."""
    path = epath.Path(run.workdir).expanduser() / "evaluation" / f"stats_{network.name}.npz"
    source = sources.source(run.config, "train")
    if path.exists():
        stored = reference.read(path)
        expected = {"data": source.name, "count": source.size, "versions": reference.versions()}
        expected |= reference.describe(network, source.shape, source.levels)
        if network.compiled and expected.items() <= stored.provenance.items():
            return stored
    found = reference.measure(run.config, "train", network)
    path.parent.mkdir(parents=True, exist_ok=True)
    reference.write(path, found)
    return found


def check(
    run: trained.Run, network: FeatureNetwork, ref: reference.Reference, options: Options
) -> tuple[int, list[str]]:
    """How many samples to draw, and what is marked on their figures, in words. ValueError for what is not allowed."""
    config = run.config
    reference.check(ref, reference.describe(network, tuple(config.data.shape), config.data.levels))
    count, dims = int(ref.provenance["count"]), len(ref.mean)
    number = options.number or count
    trained.seeds_from(options.seed, number)
    if number < 4:
        raise ValueError(f"--num_samples={number} is too few to be judged; draw 4 at least")
    unknown = set(options.allowed) - {"few", "sizes"}
    if unknown:
        raise ValueError(f"--allow={unknown.pop()} is not known; use few, sizes")
    if options.replicates and options.replicates < 2:
        raise ValueError(f"--bootstrap={options.replicates} must be at least 2, or 0 for no intervals")
    if options.beside_heldout and (held := sources.source(config, "heldout").size) > number:
        raise ValueError(f"--heldout: there are {held} held-out examples, but only {number} samples; draw more")
    found = {}
    if min(number, count) < dims:
        found["few"] = f"{min(number, count)} examples for {dims} features, so that their covariance is singular"
    if number != count:
        found["sizes"] = f"{number} samples are compared with {count} examples"
    for name, what in found.items():
        if name not in options.allowed:
            raise ValueError(f"{what}; change --num_samples, or accept it, marked, with --allow={','.join(found)}")
    return number, [f"{name}: {what}" for name, what in found.items()]


def evaluate_samples(
    run: trained.Run, network: FeatureNetwork, ref: reference.Reference, metrics: Sequence[str], options: Options
) -> dict[str, Any]:
    """Draw samples, or take those that are kept, and find what `metrics` (names of figures.METRICS) ask for.

    Returns the record that is also put into workdir/evaluation/<step>-<ema>/metrics.json: `figures`, {full name: value,
    low and high of the 95 % interval}, and all that they depend on. Raises ValueError as `check` does.
    """
    functions = [choices.choose("metrics", name, figures.METRICS) for name in metrics]
    number, marks = check(run, network, ref, options)
    for mark in marks:
        log.warning("marked: %s", mark)
    needs_heldout = options.beside_heldout or "nn" in metrics
    heldout = reference.of_split(run.config, "heldout", network) if needs_heldout else None
    real = figures.Real(ref.mean, ref.cov, ref.features, heldout.features if heldout else None)

    seeds = trained.seeds_from(options.seed, number)
    samples, first = features_of(run, network, seeds)
    found: dict[str, dict[str, float]] = {}
    for name, figure in _all(functions, real, samples).items():
        log.info("figures: %s", name)
        entry = {"value": figure(figures.ALL)}
        if options.replicates:
            low, high = bootstrap.interval(figure, entry["value"], number, options.replicates)
            entry |= {"low": low, "high": high}
        found[figures.name(name, network.name, number)] = entry
    if options.beside_heldout and heldout:
        found |= beside(functions, real, samples, heldout, network.name)
    if "nn" in metrics and ref.provenance["split"] == "train":
        draw_neighbours(run, network, ref, samples, first)

    record = {
        "figures": found,
        "num_samples": number,
        "seeds": [int(seeds[0]), int(seeds[-1])],
        **stored_samples.drawn_by(run),
        "network_calls": trained.network_calls(run),
        "weights": {"step": run.step, "ema": run.ema, "hash": stored_samples.hashed(run.params)},
        "quantisation": quantisation(run.config.data.levels),
        "bootstrap": {"replicates": options.replicates, "interval": 0.95, "reference": "held fixed"},
        "reference": ref.provenance,
        "kept_reference_features": len(ref.features),
        "marked": marks,
        "device": jax.devices()[0].device_kind,
        "versions": reference.versions(),
    }
    keep(run, f"{network.name} {number} {stored_samples.place(run).name}", record)
    return record


def _all(functions: Sequence[Any], real: figures.Real, samples: figures.Features) -> dict[str, figures.Figure]:
    return {name: figure for function in functions for name, figure in function(real, samples).items()}


def features_of(
    run: trained.Run, network: FeatureNetwork, seeds: np.ndarray
) -> tuple[figures.Features, dict[int, np.ndarray]]:
    """The features of the samples at these seeds, in their order; and {row: sample} of the first few."""
    order: list[np.ndarray] = []
    first: dict[int, np.ndarray] = {}

    def samples() -> Iterator[np.ndarray]:
        for rows, x in stored_samples.shards(run, seeds):
            order.append(rows)
            first.update((int(row), sample) for row, sample in zip(rows, x, strict=True) if row < 10)
            yield x

    found = reference.extract(network, run.config.data.levels, samples(), len(seeds), "samples")
    back = np.argsort(np.concatenate(order))
    return figures.Features(found.features[back], None if found.logits is None else found.logits[back]), first


def beside(
    functions: Sequence[Any], real: figures.Real, samples: figures.Features, heldout: figures.Features, features: str
) -> dict[str, dict[str, float]]:
    """Figures of the held-out data, and of as many samples: mean and standard deviation over DRAWS draws of these.

    What a perfect model would reach is not 0 or 1 but the first, at the same number of examples.
    """
    count = len(heldout.features)
    others = real._replace(heldout=None)  # how near held-out data are to the training set is no news of the model
    functions = [function for function in functions if function is not figures.memorisation_figure]
    rng = np.random.default_rng(0)
    draws = [np.sort(rng.permutation(len(samples.features))[:count]) for _ in range(DRAWS)]
    found = {}
    for name, figure in _all(functions, others, heldout).items():
        found[figures.name(f"heldout_{name}", features, count)] = {"value": figure(figures.ALL)}
    for name, figure in _all(functions, others, samples).items():
        values = [figure(rows) for rows in draws]
        entry = {"value": float(np.mean(values)), "std": float(np.std(values, ddof=1))}
        found[figures.name(name, features, count)] = entry
    return found


def draw_neighbours(
    run: trained.Run,
    network: FeatureNetwork,
    ref: reference.Reference,
    samples: figures.Features,
    first: dict[int, np.ndarray],
) -> None:
    """neighbours_<features>.png: the first samples, and below each the training examples that are nearest to it."""
    source = sources.source(run.config, "train")
    if source.size != ref.provenance["count"] or source.name != ref.provenance["data"]:
        log.warning("no picture of neighbours: the reference is of %s, not of the data here", ref.provenance["data"])
        return
    rows = sorted(first)
    near = ref.places[neighbours.nearest(samples.features[rows], ref.features, min(4, len(ref.features)))[1]]
    columns = [source.read(places)[0] for places in near]
    table = np.stack([np.stack([first[row] for row in rows]), *np.stack(columns, axis=1)])
    names = ["sample", *(f"neighbour {i + 1}" for i in range(len(table) - 1))]
    path = trained.evaluation_directory(run) / f"neighbours_{network.name}.png"
    pictures.table(path, table, run.config.data.levels, names, f"nearest training examples by {network.name}")
    log.info("nearest training examples: %s", path)


def quantisation(levels: int) -> str:
    """What becomes of a sample before it is looked at."""
    return f"clipped to [-1, 1], rounded to the nearest of {levels} levels" if levels else "none"


def keep(run: trained.Run, key: str, record: dict[str, Any]) -> None:
    """Put a record into metrics.json under a key that says what of."""
    path = trained.evaluation_directory(run) / RECORDS
    records = json.loads(path.read_text()) if path.exists() else {}
    files.save_json(path, records | {key: record})


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """The figures of a record by name, with name_low, name_high and name_std."""
    found: dict[str, Any] = {}
    for name, entry in record["figures"].items():
        found |= {name if part == "value" else f"{name}_{part}": value for part, value in entry.items()}
    return found | ({"marked": record["marked"]} if record["marked"] else {})


# Figures of their own: of data with classes that an SVM tells apart, and of data that are known altogether.


def svm_metrics(run: trained.Run, number: int, seed: int = 0) -> dict[str, float]:
    """What an SVM fitted on the real training data says of samples, and how far they are from these in pixels."""
    samples = stored_samples.samples(run, seeds := trained.seeds_from(seed, number))
    train, heldout = (sources.source(run.config, split) for split in ("train", "heldout"))
    real, held_back = (source.read(np.arange(source.size)) for source in (train, heldout))
    return {
        "num_samples": number,
        "network_calls": trained.network_calls(run),
        **svm_confidence(real, held_back, samples, trained.labels(run, seeds)),
        "frechet_pixels": frechet_pixels(real[0], samples),
        "frechet_pixels_heldout": frechet_pixels(real[0], held_back[0]),
    }


def pattern_counts(run: trained.Run, number: int, seed: int = 0) -> dict[str, float]:
    """What can be counted in samples of a data set whose every example is known; nothing for the others."""
    counted = sources.JUDGES.get(run.config.data.name)
    return (
        counted(stored_samples.samples(run, trained.seeds_from(seed, number))) | {"num_samples": number}
        if counted
        else {}
    )
