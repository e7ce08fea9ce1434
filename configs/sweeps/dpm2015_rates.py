"""Learned and fixed rates on the swiss roll: Sohl-Dickstein et al. 2015, section 2.4.1.

Run:    python -m diffusion_jax.main sweep --sweep=configs/sweeps/dpm2015_rates.py --workdir=runs/dpm2015_rates
        python -m diffusion_jax.main compare runs/dpm2015_rates
Expect: K in bits of two dimensions, three seeds, 6,000 steps (measured); the limit is -1.246:

    fixed           -2.177 ± 0.030
    fixed_as_code   -3.254 ± 0.003
    learned         -1.466 ± 0.003
    bumps           -1.375 ± 0.011

Time:   718 s for the twelve runs on two CPU cores (measured)

"fixed" has the initial values of the learned rates, "learned" a free rate for each step, "bumps" ten bumps in time, and
"fixed_as_code" the first rate of the public code, 0.001 + 1/T, which is more noise than the roll itself has.
"""

from typing import Any


def get_sweep(variant: str = "") -> dict[str, Any]:
    """The grid; "tiny" for tests."""
    if variant not in ("", "tiny"):
        raise ValueError(f"sweep variant {variant!r} is not known; use none or :tiny")
    cells: dict[str, dict[str, Any]] = {
        "fixed": {"schedule.name": "dpm2015"},
        "learned": {"schedule.name": "learned_betas", "schedule.learned_betas.bumps": 0},
        "fixed_as_code": {"schedule.name": "dpm2015", "schedule.dpm2015.first_beta": 0.026},
        "bumps": {"schedule.name": "learned_betas", "schedule.learned_betas.bumps": 10},
    }
    return {
        "config": "dpm2015_swissroll" + (":tiny" if variant else ""),
        "seeds": (0, 1) if variant else (0, 1, 2),
        "flags": {"train_steps": 2 if variant else 6000, "report.samples_every": 0, "report.tensorboard": False},
        "cells": dict(list(cells.items())[:2]) if variant else cells,
        "evaluate": ("--likelihood=K", "--num_samples=0"),
        "note": "K in bits of two dimensions; the paper learns its rates and gives no figure for fixed ones.",
    }
