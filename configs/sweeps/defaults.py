"""What sweeps share: not a sweep, but the sizes at which each can run."""

from typing import Any

DIGITS = {
    "train_steps": 1000,
    "ema.decays": (0.99,),
    "process.num_steps": 200,
    "schedule.linear.beta_start": 5e-4,
    "schedule.linear.beta_end": 0.1,
    "network.unet.channels": 18,
    "checkpoint.every": 500,
    "report.samples_every": 0,
    "report.tensorboard": False,
    "eval.every": 200,
}
"""The digits recipe with 0.21 M parameters and T = 200 (betas times 1000/T): a cell takes minutes on two cores."""


def variant(name: str, paper: dict[str, Any], cells: dict[str, dict[str, Any]], note: str) -> dict[str, Any]:
    """The sweep of `cells` at a size: "" is that of `paper` (config, flags, evaluate); "digits"; "tiny" for tests."""
    if name not in ("", "digits", "tiny"):
        raise ValueError(f"sweep variant {name!r} is not known; use none, :digits or :tiny")
    size: dict[str, Any] = {"seeds": (0, 1, 2), "cells": cells, "note": note, **paper}
    if name == "digits":
        size |= {"config": "configs/digits.py", "flags": DIGITS}
        size |= {"evaluate": ("--likelihood=vlb", "--num_samples=500")}
    if name == "tiny":
        size |= {"config": "configs/digits.py:tiny", "seeds": (0, 1), "cells": dict(list(cells.items())[:2])}
        size |= {"flags": {"report.samples_every": 0, "report.tensorboard": False}}
    return size
