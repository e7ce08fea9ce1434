"""Restore the examples of a file that compress wrote."""

from typing import Any

from diffusion_jax.cli.common import Results, add_format, add_verify, add_workdir, output
from diffusion_jax.cli.compress import THREADS as THREADS
from diffusion_jax.cli.parser import Flags, Parser, Path

SHOWN = 12
"""Examples in the picture."""


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_workdir(parser)
    add_verify(parser)
    add_format(parser)
    parser.flag("file", Path, "", "Compressed file", needed=True)
    parser.flag("out", Path, "decompressed.npz", "File of the examples")
    parser.flag("progressive", int, 0, "Number of noise levels to show in a picture beside --out; 0: no picture")


def run(args: Flags) -> Results:
    """Decode with the weights and steps that the file names."""
    import time

    import numpy as np

    from diffusion_jax import files
    from diffusion_jax.analysis import compression, tables
    from diffusion_jax.runs import pictures, trained
    from diffusion_jax.training import checkpoints

    if args.progressive < 0:
        raise ValueError(f"--progressive={args.progressive}: must be 0 or more")
    out = output(args.out, ".npz", picture=args.format) if args.progressive else output(args.out, ".npz")
    header = compression.read_header(args.file)
    kept = checkpoints.steps(args.workdir)
    if kept and header["step"] not in kept:
        raise ValueError(
            f"--file={args.file}: needs step {header['step']}, but {args.workdir} has {', '.join(map(str, kept))}. Use "
            "the run that wrote the file"
        )
    loaded = trained.load(args.workdir, header["step"], header["ema"], args.verify, bound=header["bound"])
    began = time.perf_counter()
    curves: dict[str, Any] = {}
    if args.progressive:
        x, label, curves, restored = compression.progressive(loaded, args.file, args.progressive)
    else:
        x, label = compression.decompress(loaded, args.file)
    seconds = time.perf_counter() - began
    files.save_npz(out, {"samples": x, "labels": label})
    results = {"step": loaded.step, "samples": str(out), "num_examples": len(x), "images_per_second": len(x) / seconds}
    if not curves:
        return results
    rates, errors = curves["rate_bits_per_dim"], curves["rmse"]
    rows = [*(f"{rate:.2f} bits/dim" for rate in rates), "examples"]
    shown = np.concatenate([restored, x[None]])[:, :SHOWN]
    path = pictures.table(out.with_suffix(".png"), shown, header["levels"], rows, "Predicted examples by the bits read")
    print(
        tables.markdown(
            ["t", "rate, bits/dim", "RMSE, 0 to 255"],
            [
                [f"{t:.3f}", f"{rate:.3f}", f"{error:.1f}"]
                for t, rate, error in zip(curves["t"], rates, errors, strict=True)
            ],
        )
    )
    return results | {"picture": str(path), **{name: list(map(float, values)) for name, values in curves.items()}}
