"""Restore the examples of a file that compress wrote."""

from diffusion_jax.cli.common import Results, add_verify, add_workdir, output
from diffusion_jax.cli.parser import Flags, Parser, Path


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_workdir(parser)
    add_verify(parser)
    parser.flag("file", Path, "", "Compressed file", needed=True)
    parser.flag("out", Path, "decompressed.npz", "File of the examples")


def run(args: Flags) -> Results:
    """Decode with the weights and steps that the file names."""
    import time

    from diffusion_jax import files
    from diffusion_jax.analysis import compression
    from diffusion_jax.runs import trained

    out = output(args.out, ".npz")
    header = compression.read_header(args.file)
    loaded = trained.load(args.workdir, header["step"], header["ema"], args.verify, bound=header["bound"])
    began = time.perf_counter()
    x, label = compression.decompress(loaded, args.file)
    seconds = time.perf_counter() - began
    files.save_npz(out, {"samples": x, "labels": label})
    return {"step": loaded.step, "samples": str(out), "num_examples": len(x), "images_per_second": len(x) / seconds}
