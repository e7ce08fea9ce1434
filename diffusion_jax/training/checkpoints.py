"""Checkpoints of a run: asynchronous, atomic, checked by checksum, restored onto any number of devices.

    workdir/checkpoints/<step>/state           the training state, as Orbax writes pytrees
                               config          JSON: the config of the run and the versions that wrote it
                               metrics         JSON: the held-out loss, or null where it was not measured at this step
                               manifest.json   checksum and size of every file of the three

A step's directory gets its name only when all of it is written, so a kill at any moment leaves the earlier checkpoints
and, at most, a temporary directory that the next `open_manager` removes. Reading writes nothing.
"""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import logging
import math
import os
import platform
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint.future import ChainedFuture

from diffusion_jax import __version__
from diffusion_jax import config as configs
from diffusion_jax.training import checksums

log = logging.getLogger(__name__)

Run: TypeAlias = ocp.CheckpointManager | epath.PathLike
"""The run that is read: its workdir, or its open manager."""

LOCK = ".lock"
MAY_DIFFER = (
    *("train_steps", "parallel", "accumulate_steps", "remat", "require_accelerator"),
    *("data.workers", "checkpoint", "guard", "report", "eval", "sampler", "guidance", "ode"),
    *("data.arrays.path", "data.arrays.heldout", "data.folder.path", "data.folder.heldout", "data.folder.in_memory"),
    *("data.idx.path", "data.tfds.data_dir", "data.tfds.in_memory", "data.class_names"),
)
"""Config keys, or sections, that a run may change when it resumes: a step computes the same of its batch."""


# Writing.


class _Summed(ocp.StandardCheckpointHandler):
    """Writes a tree as its parent does; then each process sums its own files, before any says that it is done."""

    async def async_save(self, directory: Any, *args: Any, **options: Any) -> list[Any]:
        written = await super().async_save(directory, *args, **options) or []
        place = getattr(directory, "path", directory)  # it may still have to be made
        return [ChainedFuture(written, lambda: checksums.sum_own(place, jax.process_index()))]


@ocp.args.register_with_handler(_Summed, for_save=True, for_restore=True)
@dataclasses.dataclass
class _SummedSave(ocp.args.StandardSave):
    """What Orbax knows the handler above by; nothing is restored by it."""


def open_manager(workdir: epath.PathLike, keep: int = 2, keep_every: int = 0) -> ocp.CheckpointManager:
    """Create workdir/checkpoints if need be and open it for training; close it with `.close()`.

    What stays on disk: the newest `keep` checkpoints, one every `keep_every` steps (0: none), and the one of the lowest
    held-out loss. Temporary directories of a save that was killed are removed. Raises ValueError for a bad number or a
    workdir that is a file, PermissionError where nothing can be written.
    """
    if keep < 1:
        raise ValueError(f"checkpoint.keep={keep} would keep no checkpoint; use 1 or more")
    if keep_every < 0:
        raise ValueError(f"checkpoint.keep_every={keep_every} is negative; use 0 for none, or a number of steps")
    directory = _directory(workdir)
    _check_writable(directory)
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
    """Save a state in the background; the arrays are copied before this returns, so they may be donated at once.

    config: a nested dict of plain values. heldout_loss: the loss of this very state, if it was measured; one that is
    not finite counts as not measured. aim: what "best" minimises instead where config.checkpoint.best names another
    figure. rollbacks: how often the run was sent back to an earlier checkpoint. A step that is there already, or
    earlier than the newest, is left as it is. Errors of the previous save in the background are raised here.
    """
    described = {"config": json.loads(json.dumps(config)), "versions": _versions(), "rollbacks": rollbacks}
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


@contextlib.contextmanager
def lock(workdir: epath.PathLike) -> Iterator[None]:
    """Keep other trainings out of a workdir. The kernel drops the lock when the process ends, however it ends.

    Raises ValueError, naming the holder, where another has it. A workdir that is a URL is not locked.
    """
    if "://" in str(workdir):
        yield
        return
    directory = _directory(workdir)
    _check_writable(directory)
    with open(directory.parent / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"workdir {workdir} is being trained by {file.read().strip() or 'another process'}; wait for it or end "
                "it, or choose another --workdir"
            ) from None
        except OSError as error:  # a file system that has no locks
            log.warning("%s cannot be locked (%s): see to it yourself that nothing else trains there", workdir, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


# Reading.


def steps(workdir: epath.PathLike) -> list[int]:
    """The steps whose checkpoints are kept, in order; empty where there are none."""
    directory = _directory(workdir)
    if not directory.is_dir():
        return []
    return sorted(found.step for found in ocp.path.step.standard_name_format().find_all(directory))


def find_step(workdir: epath.PathLike, step: int | str = "newest", verify: bool = True) -> int:
    """The step meant by "newest", "best" (lowest held-out loss; the later one of equals) or a number.

    Raises FileNotFoundError if there is no checkpoint at all, ValueError if this one is not kept.
    verify, here and below: compare the files that are read with their checksums first.
    """
    kept = steps(workdir)
    if not kept:
        place = epath.Path(workdir)
        if place.parent.name == "checkpoints" and place.name.isdigit():
            raise FileNotFoundError(
                f"{workdir} is a checkpoint; say --workdir={place.parent.parent} --step={place.name}"
            )
        if place.name == "checkpoints" and place.is_dir():
            raise FileNotFoundError(f"{workdir}: the checkpoints of a run. Use --workdir={place.parent}")
        raise FileNotFoundError(
            f"{workdir} holds no checkpoint; train it first: "
            f"python -m diffusion_jax.main train --config=CONFIG --workdir={workdir}"
        )
    if step == "newest":
        return kept[-1]
    if step == "best":
        verified = {k: _verified(_directory(workdir) / str(k), "metrics", verify) for k in kept}
        losses = {k: _loss(_json(directory / "metrics", "metrics")) for k, directory in verified.items()}
        best = min(kept, key=lambda k: (losses[k], -k))
        if losses[best] == math.inf:
            raise ValueError(
                f"{workdir}: step='best' needs a held-out loss and none of the checkpoints {_listed(kept)} has one; "
                "use 'newest', or train with eval.every dividing checkpoint.every"
            )
        return best
    if not str(step).isdecimal():
        raise ValueError(f"step={step!r} is not known; use 'newest', 'best' or one of {_listed(kept)}")
    if int(step) not in kept:
        raise ValueError(f"{workdir}: step {step} is not kept; use 'newest', 'best' or one of {_listed(kept)}")
    return int(step)


def restore(run: Run, abstract_state: Any, step: int | str = "newest", verify: bool = True) -> Any:
    """Read a state back, placed as `abstract_state` says: a tree of arrays or of `jax.ShapeDtypeStruct` with shardings.

    The devices need not be those, nor as many as those, that it was saved from. Raises as `find_step` does, and
    ValueError for a checkpoint that is damaged or does not fit the tree.
    """
    directory = _checked(run, step, "state", verify)
    held, asked = _shapes(_stored(directory)), _shapes(abstract_state)
    differing = [
        f"{name}: stored {held.get(name, 'nothing')}, asked {asked.get(name, 'nothing')}"
        for name in sorted(held.keys() | asked.keys())
        if held.get(name) != asked.get(name)
    ]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise ValueError(f"{directory} does not fit the state asked for: {differing[0]}{more}")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        return reader.restore(directory, args=arguments)["state"]


def restore_weights(run: Run, step: int | str = "newest", ema: str | None = None, verify: bool = True) -> Any:
    """Read only parameters, into host memory: a tree of NumPy arrays.

    ema: an average, by its decay as written in the config, e.g. "0.9999"; None: the parameters themselves. Raises as
    `restore` does, and ValueError, with the averages that are there, for an unknown one.
    """
    directory = _checked(run, step, "state", verify)
    stored = _stored(directory)
    if ema is not None and ema not in stored["ema"]:
        there = ", ".join(sorted(stored["ema"])) or "none"
        raise ValueError(
            f"ema={ema!r} is not in {directory}; averages there: {there}; none is the parameters themselves"
        )
    part = {"params": stored["params"]} if ema is None else {"ema": {ema: stored["ema"][ema]}}
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), part)
    to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=to_numpy, partial_restore=True)
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        restored = reader.restore(directory / "state", args=arguments)
    return restored["params"] if ema is None else restored["ema"][ema]


def read_config(run: Run, step: int | str = "newest", verify: bool = True) -> dict[str, Any]:
    """The config that a checkpoint was trained with, as a nested dict. JSON knows no tuples: every list is one again.

    Raises as `find_step` does, and ValueError for a damaged checkpoint.
    """
    return _tuples(_json(_checked(run, step, "config", verify) / "config")["config"])


def read_versions(run: Run, step: int | str = "newest", verify: bool = True) -> dict[str, str]:
    """The versions of this package and of those below it that wrote a checkpoint. Raises as `read_config` does."""
    return _json(_checked(run, step, "config", verify) / "config")["versions"]


def read_rollbacks(run: Run, step: int | str = "newest", verify: bool = True) -> int:
    """How often the run of a checkpoint was sent back to an earlier one. Raises as `read_config` does."""
    return _json(_checked(run, step, "config", verify) / "config").get("rollbacks", 0)


def check_resume(stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise ValueError, naming each key, if `config` would not continue the run that was `stored`; see MAY_DIFFER.

    A key that the stored config lacks counts as its default, and options of choices that are not made do not count.
    Where the data lie may differ, but not what they are (data.fingerprint). Imported weights have seen no data yet
    (data.size=0): they go on with any.
    """
    before, now = (configs.in_use(configs.plain(configs.merge(configs.plain(one)))) for one in (stored, config))
    for key in ("data.size", "data.fingerprint"):
        if before["data.size"] == 0 or not before[key]:
            before[key] = now[key]
    may_differ = tuple(f"{key}." for key in MAY_DIFFER)
    differing = [
        f"{key}: stored {before.get(key, 'nothing')!r}, asked {now.get(key, 'nothing')!r}"
        for key in sorted(before.keys() | now.keys())
        if not f"{key}.".startswith(may_differ) and before.get(key) != now.get(key)
    ]
    if differing:
        raise ValueError(
            f"the config is not the one this workdir was trained with ({'; '.join(differing)}); "
            "use another --workdir for a new run, or the stored values to continue this one"
        )


# Parts of the above.


def _directory(workdir: epath.PathLike) -> epath.Path:
    """Orbax wants it absolute; a URL is so already."""
    path = epath.Path(workdir)
    return (path if "://" in str(workdir) else path.expanduser().resolve()) / "checkpoints"


def _check_writable(directory: epath.Path) -> None:
    workdir = directory.parent
    for path in (directory, workdir, *workdir.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"workdir {workdir} cannot be used: {path} is a file; choose another --workdir")
    probe = directory / f"probe-{uuid.uuid4().hex}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise PermissionError(f"workdir {workdir} cannot be written to ({reason}); choose another --workdir") from error


def _stored(directory: epath.Path) -> Any:
    """The tree of what a checkpoint's state holds, as nested dicts and lists, with shapes and dtypes for arrays."""
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.metadata(directory / "state").tree


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by path, the same paths for dicts, tuples and dataclasses; a typed key has that of its data."""

    def shape(leaf: Any) -> tuple[int, ...]:
        typed_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return tuple(jax.eval_shape(jax.random.key_data, leaf).shape if typed_key else leaf.shape)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): shape(leaf) for path, leaf in leaves}


def _loss(metrics: Mapping[str, float | None]) -> float:
    """What "best" minimises, the held-out loss unless something else was; infinite where it was not measured."""
    loss = metrics.get("aim", metrics["heldout_loss"])
    return math.inf if loss is None else loss


def _json(path: epath.Path, filename: str | None = None) -> Any:
    """A JSON item. filename: None is Orbax's default."""
    return ocp.JsonCheckpointHandler(filename).restore(path)


def _versions() -> dict[str, str]:
    names = ("jax", "flax", "optax", "orbax-checkpoint")
    packages = {name: importlib.metadata.version(name) for name in names}
    return {"diffusion_jax": __version__, "python": platform.python_version(), **packages}


def _checked(run: Run, step: int | str, item: str, verify: bool) -> epath.Path:
    """The directory of a step, an item of which is found as it was written."""
    if isinstance(run, ocp.CheckpointManager):
        run.wait_until_finished()
    workdir = run.directory.parent if isinstance(run, ocp.CheckpointManager) else run
    return _verified(_directory(workdir) / str(find_step(workdir, step, verify)), item, verify)


def _verified(directory: epath.Path, item: str, verify: bool) -> epath.Path:
    """A step's directory again, or ValueError unless the files of an item are those of the manifest."""
    if not verify:
        return directory
    wrong = checksums.damage(directory, item)
    if wrong:
        others = [k for k in steps(directory.parent.parent) if str(k) != directory.name]
        sound = next((k for k in reversed(others) if not checksums.damage(directory.parent / str(k), item)), None)
        advice = "no other checkpoint is sound"
        if sound is not None:
            advice = (
                f"step {sound} is sound: read it by --step={sound}, or move {directory} away to train on from there"
            )
        raise ValueError(f"{directory} is damaged: {wrong}; {advice}")
    return directory


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _listed(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers)
