"""Representations of a trained run: features of the network and what they predict.

Linear probes, clusters, and a diffusion classifier.

figures = represent(run, num_examples=2000)

A feature is the output of a top-level block of the network at a noised example x_t, pooled over the quarters of the
image and averaged over draws of the noise. Probes are trained on training examples and tested on held-out ones.

Reference: Xiang et al. 2023 (DDAE, features of denoisers), Li et al. 2023 (diffusion classifier), Lange et al. 2004
(stability of clusters).
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffusion_jax import devices, progress
from diffusion_jax.analysis import heldout
from diffusion_jax.analysis.estimators import needs_no_label
from diffusion_jax.data.scaling import to_model
from diffusion_jax.data.source import Source, subset
from diffusion_jax.experiment import sources
from diffusion_jax.likelihood.variational import standard_error
from diffusion_jax.objective.prediction import Denoiser
from diffusion_jax.process.base import Array, Level, example_keys, fold_all, in_float64, level, normal
from diffusion_jax.runs import trained
from diffusion_jax.runs.trained import Run
from diffusion_jax.sampling import grids

DRAWS = 4
"""Draws of the noise that features are averaged over."""
CLASSIFIER_DRAWS = 8
"""Draws of the noise per level in each round of the diffusion classifier."""
FOLDS, COMPONENTS, STARTS = 3, 32, 10
FEWEST = 20
"""Examples that probes and clusters need."""
PAIRS = 4
"""Pairs of random halves from which the stability of clusters is measured."""
ROUNDING = 1e-5

Features = dict[tuple[str, float], np.ndarray]
"""Features [N, F] by block and noise level t."""


def check_numbers(num_examples: int = FEWEST, num_steps: int = 1, num_classified: int = 0) -> None:
    """Raise ValueError for too few examples or noise levels."""
    numbers = {
        "num_steps": (num_steps, 1),
        "num_examples": (num_examples, FEWEST),
        "num_classified": (num_classified, 0),
    }
    for flag, (value, least) in numbers.items():
        if value < least:
            raise ValueError(f"--{flag}={value}: must be at least {least}")


def represent(run: Run, num_examples: int = 2000, seed: int = 0, num_classified: int = 500) -> dict[str, Any]:
    """Return the figures of probes, clusters and, of a conditional run, the classifier.

    The noise levels are the `feature_levels`. probe_accuracy: of the block and level that are best in
    cross-validation on the training examples, with its standard error; pixels_ and pca_: the same of pixels and of
    their principal components; probe_gain: the accuracy minus that of pixels, with the standard error of the paired
    difference. cluster_nmi, cluster_ari, cluster_accuracy (Hungarian matching): k-means on the block and level with the
    largest `stability`, chosen without labels; best_cluster_nmi: chosen with them. mixture_nmi and so on: a Gaussian
    mixture at the same place. seed: of folds, halves, k-means and mixtures. num_classified: held-out examples
    for the classifier of a conditional run, which costs some 160 network calls for each example and noise level; 0:
    none. Raises ValueError for a run without labelled data or a process that is not Gaussian.
    """
    config = run.config
    if num_classified < 0:
        raise ValueError(f"represent: num_classified={num_classified} must be 0 or more")
    if config.data.classes < 2:
        raise ValueError(
            f"represent: needs labelled data of two classes or more (got data.classes={config.data.classes}). Use a "
            "run trained on labelled data"
        )
    if not run.experiment.process.gaussian:
        raise ValueError(f"represent: needs Gaussian noise (got process.name={config.process.name!r})")
    trained.seeds_from(seed, 1)
    opened = {"train": sources.source(config, "train"), "heldout": sources.heldout(config)}
    splits = {name: subset(source, num_examples) for name, source in opened.items()}
    for name, source in splits.items():
        if len(classes := np.unique(source.read(np.arange(source.size))[1])) < 2:
            raise ValueError(
                f"represent: the {source.size} {name} examples are all of class {classes[0]}. Use more examples"
            )
    found = {name: features(run, source) for name, source in splits.items()}
    x, label = {}, {}
    for name, source in splits.items():
        stored, label[name] = source.read(np.arange(source.size))
        x[name] = np.asarray(to_model(stored, config.data.levels)).reshape(source.size, -1).astype(np.float64)
    place, validated = best_place(found["train"], label["train"], seed)
    right = {"probe": probe({name: of[place] for name, of in found.items()}, label)}
    figures: dict[str, Any] = {"probe_block": place[0], "probe_t": place[1], "probe_cross_validated": validated}
    for name, made in {"pixels": x, "pca": _principal(x)}.items():
        right[f"{name}_probe"] = probe(made, label)
        for method in (cluster, mixture):
            agreement = method(made["heldout"], label["heldout"], seed)
            figures |= {f"{name}_{method.__name__}_{key}": value for key, value in agreement.items()}
    gain = right["probe"] - right["pixels_probe"]
    figures |= {"probe_gain": float(gain.mean()), "probe_gain_stderr": float(standard_error(gain))}
    figures |= clusters(found["heldout"], label["heldout"], seed)
    if config.network.conditional and num_classified:
        classified = subset(splits["heldout"], num_classified)
        right["classifier"] = classify(run, classified) == classified.read(np.arange(classified.size))[1]
        figures["num_classified"] = classified.size
    for name, values in right.items():
        figures |= {f"{name}_accuracy": float(values.mean()), f"{name}_accuracy_stderr": float(standard_error(values))}
    return figures | {f"num_{name}": source.size for name, source in splits.items()}


# Features.


def features(run: Run, source: Source) -> Features:
    """Return the features of every example at the noise levels of `feature_levels`, without label.

    Raises ValueError.
    """
    needs_no_label("features", run)
    rows = feature_levels(run)
    process, predict = run.experiment.process, capturing(run.experiment.predict)
    into = sources.make_to_model(run.config)

    def on_batch(params: Any, key: Array, batch: dict[str, Array]) -> dict[str, Array]:
        keys = example_keys(key, batch["index"])
        x0, size = into(batch["x0"], keys), len(batch["x0"])

        def one(_: None, inputs: tuple[Array, Any]) -> tuple[None, dict[str, Array]]:
            i, of_one = inputs
            each = jax.tree.map(lambda field: jnp.broadcast_to(field, (size,)), of_one)
            noise = normal(fold_all(keys, i), x0.shape[1:], x0.dtype)
            x_t = process.corrupt(each, x0, noise)
            outputs = predict(params, x_t, each, jnp.full(size, -1, jnp.int32), None)
            return None, {name: pooled(h) for name, h in outputs.items()}

        repeated = jax.tree.map(lambda field: jnp.repeat(jnp.asarray(field, x0.dtype), DRAWS), rows)
        _, every = jax.lax.scan(one, None, (jnp.arange(len(repeated.t)), repeated))
        means = {name: h.reshape(-1, DRAWS, *h.shape[1:]).mean(1) for name, h in every.items()}
        return {name: h.swapaxes(0, 1) for name, h in means.items()}  # [B, levels, F]

    measured = heldout.map_batches(run, on_batch, source)
    return {
        (block, float(t)): np.asarray(value[:, i], np.float64)
        for block, value in measured.items()
        for i, t in enumerate(np.asarray(rows.t))
        if _varied(value[:, i]).any()  # not the embedding of the time
    }


def capturing(predict: Denoiser) -> Any:
    """Return `outputs(…) -> {block: output}` of the top-level blocks of the network that a denoiser calls."""

    def outputs(*arguments: Any) -> dict[str, Array]:
        found: dict[str, Array] = {}

        def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and len(context.module.path) == 1:
                found[context.module.path[0]] = jax.tree.leaves(out)[-1]
            return out

        with nn.intercept_methods(intercept):
            predict(*arguments)
        return {name: h for name, h in found.items() if len(h) == len(arguments[1])}

    return outputs


def pooled(h: Array) -> Array:
    """Return means over the quarters of feature maps, [B,H,W,C] -> [B,4 C]; features [B,C] as they are."""
    if h.ndim != 4:
        return h.reshape(len(h), -1)
    halves = jnp.array_split(h, min(2, h.shape[1]), axis=1)
    quarters = [part for half in halves for part in jnp.array_split(half, min(2, h.shape[2]), axis=2)]
    return jnp.concatenate([part.mean((1, 2)) for part in quarters], axis=-1)


def feature_levels(run: Run) -> Level:
    """Return the noise levels of features, t = (k/(L + 1))² for k = 1 … L = config.bound.num_steps, fields [L].

    They are denser near the data, where features are most informative. For a chain, each is the nearest level.
    """
    chain = run.config.process.num_steps
    count = run.config.bound.num_steps or chain
    if count < 1:
        raise ValueError(f"bound.num_steps={count}: in continuous time, set it to the number of noise levels")
    times = (np.arange(1, count + 1) / (count + 1)) ** 2
    if chain:
        times = np.unique(np.maximum(np.round(times * chain), 1)) / chain
    found: Level = in_float64(level, run.experiment.schedule(None), times)
    return found


def _levels(run: Run) -> Level:
    """Return the noise levels of the steps of config.bound, fields [L], least noise first."""
    chain, count = run.config.process.num_steps, run.config.bound.num_steps
    times = grids.uniform(count or chain, chain)[:-1][::-1]
    found: Level = in_float64(level, run.experiment.schedule(None), times)
    return found


# Probes.


def best_place(train: Features, label: np.ndarray, seed: int = 0) -> tuple[tuple[str, float], dict[str, float]]:
    """Return the block and t of the best probe, and the accuracy of each.

    The accuracy is that of cross-validation.
    """
    from sklearn.model_selection import KFold, cross_val_score

    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    validated = {
        place: float(cross_val_score(_linear(), x, label, cv=folds).mean()) for place, x in _each("probes", train)
    }
    best = max(validated, key=lambda place: validated[place])
    return best, {f"{block} t={t:.3g}": value for (block, t), value in validated.items()}


def _each(name: str, found: Features) -> Iterator[tuple[tuple[str, float], np.ndarray]]:
    """Yield the features of each place, and show progress."""
    with progress.track(name, len(found)) as report:
        for n, place in enumerate(found, 1):
            yield place, found[place]
            report(n)


def probe(x: Mapping[str, np.ndarray], label: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return 1 for each held-out example [N] that a linear probe classifies rightly, else 0.

    x, label: of "train" and "heldout".
    """
    right = _linear().fit(x["train"], label["train"]).predict(x["heldout"]) == label["heldout"]
    return np.asarray(right, np.float64)


def _linear() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def _principal(x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    from sklearn.decomposition import PCA

    fitted = PCA(min(COMPONENTS, *x["train"].shape), random_state=0).fit(x["train"])
    return {name: fitted.transform(value) for name, value in x.items()}


# Clusters.


def clusters(found: Features, label: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Return the figures of k-means at the best places.

    cluster_: at the place with the largest stability, mixture_: of a mixture there, best_: at the largest NMI.
    """
    number = len(np.unique(label))
    every, stable = {}, {}
    for place, value in _each("clusters", found):
        every[place], stable[place] = cluster(value, label, seed), stability(value, number, seed)
    chosen = max(stable, key=lambda place: stable[place])
    best = max(every, key=lambda place: every[place]["nmi"])
    mixed = mixture(found[chosen], label, seed)
    return {
        **{f"cluster_{key}": value for key, value in every[chosen].items()},
        **{f"mixture_{key}": value for key, value in mixed.items()},
        "cluster_block": chosen[0],
        "cluster_t": chosen[1],
        "cluster_stability": stable[chosen],
        "best_cluster_nmi": every[best]["nmi"],
        "best_cluster_block": best[0],
        "best_cluster_t": best[1],
    }


def cluster(x: np.ndarray, label: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return the agreement of k-means on features [N,F] with the classes.

    The figures are nmi, ari and accuracy, the last one by Hungarian matching of clusters and classes.
    """
    from sklearn.cluster import KMeans

    found = KMeans(len(np.unique(label)), n_init=STARTS, random_state=seed).fit_predict(_scaled(x))
    return _agreement(found, label)


def stability(x: np.ndarray, number: int, seed: int = 0) -> float:
    """Return the stability of k-means on features [N,F], at most 1, without labels.

    k-means on two random halves of the examples assigns all examples to clusters; the stability is the adjusted Rand
    index of the two assignments, averaged over PAIRS pairs of halves; 0 for a pair that leaves a cluster empty.
    number: of clusters. A few examples far from all others are stable clusters too.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    scaled, generator = _scaled(x), np.random.default_rng(seed)

    def assigned(draw: int) -> np.ndarray:
        half = scaled[generator.permutation(len(scaled))[: max(len(scaled) // 2, number)]]
        fitted = KMeans(number, n_init=STARTS // 3, random_state=seed + draw).fit(half)
        return np.asarray(fitted.predict(scaled))

    def agreement(a: np.ndarray, b: np.ndarray) -> float:
        return float(adjusted_rand_score(a, b)) if min(len(np.unique(a)), len(np.unique(b))) == number else 0.0

    return float(np.mean([agreement(assigned(2 * i), assigned(2 * i + 1)) for i in range(PAIRS)]))


def mixture(x: np.ndarray, label: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return the figures of `cluster` of a Gaussian mixture.

    It has diagonal covariances, on the whitened principal components.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    scaled = _scaled(x)
    reduced = PCA(min(COMPONENTS, *scaled.shape), whiten=True, random_state=0).fit_transform(scaled)
    fitted = GaussianMixture(
        len(np.unique(label)), covariance_type="diag", reg_covar=1e-3, n_init=STARTS, max_iter=500, random_state=seed
    )
    return _agreement(fitted.fit_predict(reduced), label)


def _scaled(x: np.ndarray) -> np.ndarray:
    """Return features [N,F] of zero mean and unit variance, without constant features."""
    varied = x[:, _varied(x)]
    return np.asarray((varied - varied.mean(0)) / varied.std(0))


def _varied(x: np.ndarray) -> np.ndarray:
    """Return a mask [F] of the features [N,F] that are not constant up to rounding."""
    x = np.asarray(x, np.float64)  # in float32 the deviation depends on the layout
    return np.asarray(x.std(0) > ROUNDING * np.abs(x).max())


def _agreement(found: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Return the agreement of clusters, int [N], with the classes."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score

    names = np.unique(label)
    table = confusion_matrix(np.searchsorted(names, label), found, labels=np.arange(len(names)))
    matched = table[linear_sum_assignment(table, maximize=True)].sum() / len(label)
    return {
        "nmi": float(normalized_mutual_info_score(label, found)),
        "ari": float(adjusted_rand_score(label, found)),
        "accuracy": float(matched),
    }


# Classification by the conditional model.


def classify(run: Run, source: Source) -> np.ndarray:
    """Return the class under which the model predicts the noise best, int [N].

    The error of eps is averaged over the noise levels and over draws of the noise, which are the same for all classes.
    After every round the worse half of an example's classes is dropped. Reference: Li et al. 2023, algorithm 2.
    """
    classes, rows, into = run.config.data.classes, _levels(run), sources.make_to_model(run.config)
    process, predict = run.experiment.process, run.experiment.predict

    def error(params: Any, key: Array, x0: Array, label: Array, index: Array) -> Array:
        keys = example_keys(key, index)
        x0, size = into(x0, keys), len(x0)

        def one(total: Array, inputs: tuple[Array, Any]) -> tuple[Array, None]:
            i, of_one = inputs
            each = jax.tree.map(lambda field: jnp.broadcast_to(field, (size,)), of_one)
            noise = normal(fold_all(keys, i), x0.shape[1:], x0.dtype)
            found = predict(params, process.corrupt(each, x0, noise), each, label, None)
            return total + jnp.square(found.eps - noise).reshape(size, -1).mean(1), None

        repeated = jax.tree.map(lambda field: jnp.repeat(jnp.asarray(field, x0.dtype), CLASSIFIER_DRAWS), rows)
        return jax.lax.scan(one, jnp.zeros(size, x0.dtype), (jnp.arange(len(repeated.t)), repeated))[0]

    tiled = devices.TiledMap(error, run.config.sampler.tile, replicated=2, name="examples and classes")
    x = source.read(np.arange(source.size))[0]
    left = np.tile(np.arange(classes, dtype=np.int32), (source.size, 1))
    total, key = np.zeros(left.shape), jax.random.fold_in(jax.random.key(run.config.seed), 3)
    places = np.arange(source.size, dtype=np.int32)
    for number in range(int(np.ceil(np.log2(classes)))):
        width = left.shape[1]
        rows_of = functools.partial(np.repeat, repeats=width, axis=0)
        found = tiled(run.params, jax.random.fold_in(key, number), rows_of(x), left.ravel(), rows_of(places))
        total = total + found.reshape(left.shape)
        order = np.argsort(total, axis=1)[:, : -(-width // 2)]
        left, total = np.take_along_axis(left, order, 1), np.take_along_axis(total, order, 1)
    return left[:, 0]
