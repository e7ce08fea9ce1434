"""Checkpoints of a run: asynchronous, atomic, and checked by checksum.

They are restored onto any number of devices.

    workdir/checkpoints/<step>/state           training state, as Orbax writes pytrees
                               config          JSON: config and versions
                               metrics         JSON: held-out loss, or null where it was not measured at this step
                               manifest.json   checksum and size of every file of the three

A step's directory gets its name when it is written completely: a kill at any moment leaves the earlier checkpoints and
at most a temporary directory, which the next `open_manager` removes. Reading writes nothing.
"""

import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint.future import ChainedFuture

from diffusion_jax import averages, files
from diffusion_jax.config import as_tuples
from diffusion_jax.runs import record
from diffusion_jax.training import checksums, state
from diffusion_jax.training.workdir import check_reachable, check_writable, checkpoints_of

log = logging.getLogger(__name__)

Run: TypeAlias = ocp.CheckpointManager | epath.PathLike
"""A run to read: its workdir, or its open manager."""


# Writing.


class _Summed(ocp.StandardCheckpointHandler):
    """Handler that also writes the checksums of this process's files."""

    async def async_save(self, directory: Any, *args: Any, **options: Any) -> list[Any]:
        written = await super().async_save(directory, *args, **options) or []
        place = getattr(directory, "path", directory)  # Orbax may still have to make the directory
        return [ChainedFuture(written, lambda: checksums.sum_own(place, jax.process_index()))]


@ocp.args.register_with_handler(_Summed, for_save=True, for_restore=True)
@dataclasses.dataclass
class _SummedSave(ocp.args.StandardSave):
    """Arguments by which Orbax finds `_Summed`; used for saving only."""


def open_manager(workdir: epath.PathLike, keep: int = 2, keep_every: int = 0) -> ocp.CheckpointManager:
    """Open workdir/checkpoints for training, made if necessary; close it with `.close()`.

    Kept on disk: the newest `keep` checkpoints, one every `keep_every` steps (0: none), and the one of lowest held-out
    loss. Temporary directories of killed saves are removed. Raises ValueError for a bad number or a workdir that is a
    file, PermissionError where nothing can be written.
    """
    if keep < 1 or keep_every < 0:
        raise ValueError(
            f"checkpoint.keep={keep} must be at least 1, and checkpoint.keep_every={keep_every} at least 0 (0: none)"
        )
    check_writable(workdir)
    directory = checkpoints_of(workdir)
    preserved = [
        policies.LatestN(keep),
        policies.BestN(get_metric_fn=_loss, reverse=True, n=1),
        *([policies.EveryNSteps(keep_every)] if keep_every else []),
    ]
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(preserved),
        best_fn=_loss,
        best_mode="min",
        cleanup_tmp_directories=True,
        save_root_metadata=False,
        async_options=ocp.AsyncOptions(post_finalization_callback=lambda: checksums.seal(directory)),
    )
    return ocp.CheckpointManager(directory, options=options)


def save(
    manager: ocp.CheckpointManager,
    step: int,
    state: Any,
    config: Mapping[str, Any],
    heldout_loss: float | None = None,
    aim: float | None = None,
    rollbacks: int = 0,
) -> None:
    """Save a state in the background; its arrays are copied before this returns.

    config: a nested dict of plain values. heldout_loss: of this state; not finite counts as not measured. aim: the
    figure that step="best" minimises, where config.checkpoint.best is not the held-out loss. rollbacks: number of
    returns to an earlier checkpoint. An existing step, or one before the newest, is left as it is. Raises the errors of
    the previous save.
    """
    described = {"config": json.loads(json.dumps(config)), "versions": record.versions(), "rollbacks": rollbacks}
    if heldout_loss is not None:
        heldout_loss = float(heldout_loss) if math.isfinite(heldout_loss) else None
    other_aim = config.get("checkpoint", {}).get("best", "heldout_loss") != "heldout_loss"
    manager.save(
        step,
        args=ocp.args.Composite(state=_SummedSave(state), config=ocp.args.JsonSave(described)),
        metrics={"heldout_loss": heldout_loss} | ({"aim": aim} if other_aim else {}),
    )


def forget_after(manager: ocp.CheckpointManager, step: int) -> None:
    """Delete the checkpoints later than a step."""
    manager.wait_until_finished()
    for later in [k for k in manager.all_steps() if k > step]:
        manager.delete(later)


# Reading.


def steps(workdir: epath.PathLike) -> list[int]:
    """Return the steps of the checkpoints on disk, in order."""
    directory = checkpoints_of(workdir)
    if not directory.is_dir():
        check_reachable(directory.parent)
        return []
    return sorted(found.step for found in ocp.path.step.standard_name_format().find_all(directory))


def find_step(workdir: epath.PathLike, step: int | str = "newest", verify: bool = True) -> int:
    """Return the step of "newest", "best" (lowest held-out loss; of equals the later) or a number.

    verify, here and below: first compare the files that are read with their checksums. Raises FileNotFoundError if
    there is no checkpoint, ValueError if this one is not kept.
    """
    kept = steps(workdir)
    if not kept:
        place = files.place_of(workdir)
        if place.parent.name == "checkpoints" and place.name.isdigit():
            advice = f"is a checkpoint. Use --workdir={place.parent.parent} --step={place.name}"
        elif place.name == "checkpoints" and place.is_dir():
            advice = f"holds the checkpoints of a run. Use --workdir={place.parent}"
        else:
            advice = (
                "holds no checkpoint. Train first: python -m diffusion_jax.main train --config=CONFIG "
                f"--workdir={workdir}"
            )
        raise FileNotFoundError(f"--workdir={workdir}: {advice}")
    listed = ", ".join(map(str, kept))
    if step == "newest":
        return kept[-1]
    if step == "best":
        verified = {k: _verified(checkpoints_of(workdir) / str(k), "metrics", verify) for k in kept}
        losses = {k: _loss(_json(directory / "metrics", "metrics")) for k, directory in verified.items()}
        best = min(kept, key=lambda k: (losses[k], -k))
        if losses[best] == math.inf:
            raise ValueError(
                f"--step=best: no checkpoint of {workdir} has a held-out loss (steps {listed}). Use newest, or train "
                "with a checkpoint.every that is a multiple of eval.every"
            )
        return best
    if not str(step).isdecimal() or int(step) not in kept:
        raise ValueError(f"--step={step}: no such checkpoint of {workdir}. Use newest, best or one of {listed}")
    return int(step)


def restore(run: Run, abstract_state: Any, step: int | str = "newest", verify: bool = True) -> Any:
    """Restore a state with the shapes, dtypes and shardings of `abstract_state`.

    The number and kind of devices may differ from those at the time of saving. Raises as `find_step` does, and
    ValueError for a checkpoint that is damaged or does not fit.
    """
    directory = _checked(run, step, "state", verify)
    held, asked = _shapes(_stored(directory)), _shapes(abstract_state)
    differing = [
        f"{name}: stored {held.get(name, 'nothing')}, expected {asked.get(name, 'nothing')}"
        for name in sorted(held.keys() | asked.keys())
        if held.get(name) != asked.get(name)
    ]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise ValueError(f"{directory}: does not fit this config: {differing[0]}{more}")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        return reader.restore(directory, args=arguments)["state"]


def restore_weights(run: Run, step: int | str = "newest", ema: str = state.RAW, verify: bool = True) -> Any:
    """Return only parameters, as a tree of NumPy arrays.

    ema: an average as written in the config, such as "0.9999"; "posthoc:0.1": the power-function average of that
    length, from the averages "power:…" of all checkpoints up to this step; "none": the parameters themselves. Raises as
    `restore` does, and ValueError for an unknown average.
    """
    directory = _checked(run, step, "state", verify)
    if ema.startswith(averages.ASKED):
        return _reconstructed(directory, ema, verify)
    stored = _stored(directory)
    if ema != state.RAW and ema not in stored["ema"]:
        there = ", ".join(sorted(stored["ema"])) or "none"
        raise ValueError(f"--ema={ema}: no such average in {directory}. Use none (the raw weights) or one of: {there}")
    if ema == state.RAW:
        return _part(directory, {"params": stored["params"]})["params"]
    return _part(directory, {"ema": {ema: stored["ema"][ema]}})["ema"][ema]


def _reconstructed(directory: epath.Path, ema: str, verify: bool) -> Any:
    """Return the average "posthoc:SIGMA_REL" at a checkpoint, from it and the earlier ones on disk.

    Raises ValueError for a bad name, or without two averages "power:…".
    """
    sigma_rel, workdir = averages.sigma_of(ema), directory.parent.parent
    kept: list[tuple[epath.Path, str, int]] = []
    for k in [k for k in steps(workdir) if 0 < k <= int(directory.name)]:
        place = _verified(directory.parent / str(k), "state", verify)
        stored = _stored(place)
        updates = k - int(_part(place, {"skipped": stored["skipped"]})["skipped"][0])
        kept += [(place, name, updates) for name in stored["ema"] if name.startswith(averages.KEPT) and updates]
    if len({name for _, name, _ in kept}) < 2:
        raise ValueError(
            f"--ema={ema}: {workdir} keeps no two averages of this kind. Train with "
            f"ema.decays=(0.9999,'{averages.KEPT}0.05','{averages.KEPT}0.1') and checkpoint.keep_every"
        )
    if (number := len({place for place, _, _ in kept})) < averages.ENOUGH:
        log.warning(
            "--ema=%s: made from %d checkpoints; %d or more are needed for an error below 1 %% (checkpoint.keep_every)",
            ema, number, averages.ENOUGH,
        )  # fmt: skip
    snapshots = [(averages.sigma_of(name, averages.KEPT), updates) for _, name, updates in kept]
    total: Any = None
    for (place, name, _), factor in zip(kept, averages.coefficients(snapshots, sigma_rel, kept[-1][2]), strict=True):
        average = _part(place, {"ema": {name: _stored(place)["ema"][name]}})["ema"][name]
        scaled = jax.tree.map(lambda leaf, factor=factor: factor * leaf.astype(np.float64), average)
        total = scaled if total is None else jax.tree.map(np.add, total, scaled)
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), total, average)


def read_config(run: Run, step: int | str = "newest", verify: bool = True) -> dict[str, Any]:
    """Return the config of a checkpoint as a nested dict.

    JSON's lists are returned as tuples. Raises as `find_step` does, and ValueError for a damaged checkpoint.
    """
    return as_tuples(_json(_checked(run, step, "config", verify) / "config")["config"])


def read_versions(run: Run, step: int | str = "newest", verify: bool = True) -> dict[str, str]:
    """Return the versions of the packages that wrote a checkpoint. Raises as `read_config` does."""
    return _json(_checked(run, step, "config", verify) / "config")["versions"]


def read_rollbacks(run: Run, step: int | str = "newest", verify: bool = True) -> int:
    """Return the number of roll-backs up to a checkpoint of a run. Raises as `read_config` does."""
    return _json(_checked(run, step, "config", verify) / "config").get("rollbacks", 0)


# Parts of the above.


def _stored(directory: epath.Path) -> Any:
    """Return the shapes and dtypes of a stored state, as nested dicts and lists."""
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.metadata(directory / "state").tree


def _part(directory: epath.Path, part: Any) -> Any:
    """Return a part of a stored state as NumPy arrays. part: its shapes and dtypes, as returned by `_stored`."""
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), part)
    to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=to_numpy, partial_restore=True)
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(directory / "state", args=arguments)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Return shapes by path, the same for dicts, tuples and dataclasses. A typed key has the shape of its data."""

    def shape(leaf: Any) -> tuple[int, ...]:
        typed_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return tuple(jax.eval_shape(jax.random.key_data, leaf).shape if typed_key else leaf.shape)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): shape(leaf) for path, leaf in leaves}


def _loss(metrics: Mapping[str, float | None]) -> float:
    """Return the figure that step="best" minimises, infinite where it was not measured."""
    loss = metrics.get("aim", metrics["heldout_loss"])
    return math.inf if loss is None else loss


def _json(path: epath.Path, filename: str | None = None) -> Any:
    """Read a JSON item; filename: None for Orbax's default."""
    return ocp.JsonCheckpointHandler(filename).restore(path)


def _checked(run: Run, step: int | str, item: str, verify: bool) -> epath.Path:
    """Return the directory of a step after verifying one item."""
    if isinstance(run, ocp.CheckpointManager):
        run.wait_until_finished()
    workdir = run.directory.parent if isinstance(run, ocp.CheckpointManager) else run
    return _verified(checkpoints_of(workdir) / str(find_step(workdir, step, verify)), item, verify)


def _verified(directory: epath.Path, item: str, verify: bool) -> epath.Path:
    """Return the directory of a step. Raises ValueError unless the files of an item match the manifest."""
    if not verify:
        return directory
    wrong = checksums.damage(directory, item)
    if wrong:
        others = [k for k in steps(directory.parent.parent) if str(k) != directory.name]
        sound = next((k for k in reversed(others) if not checksums.damage(directory.parent / str(k), item)), None)
        advice = f"Step {sound} is sound: use --step={sound}, or move {directory} away to train on from there"
        if sound is None:
            advice = "No other checkpoint is sound"
        raise ValueError(f"{directory}: is damaged: {wrong}. {advice}")
    return directory
