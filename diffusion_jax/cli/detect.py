"""Score images by how odd they are for a run: anomaly and out-of-distribution detection."""

from diffusion_jax.cli.common import Results, add_format, add_run_flags, load_run, output
from diffusion_jax.cli.parser import Flags, Parser, Path


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_run_flags(parser, "bound", "data")
    add_format(parser)
    spec = "Odd images: .npz, .npy, a folder, a directory of IDX files, a recipe, or classes (each against the others)"
    parser.flag("odd", Path, "", spec, needed=True)
    parser.flag("num_examples", int, 1000, "Images of each kind; half of the held-out ones fit the scores")
    parser.flag("num_steps", int, 10, "Steps between noise levels")
    parser.flag("out", Path, "detection.npz", "File of the scores, with a picture beside it")


def run(args: Flags) -> Results:
    """Compare the scores of held-out and odd images."""
    from diffusion_jax import files
    from diffusion_jax.analysis import detection, tables

    out = output(args.out, ".npz", picture=args.format)
    detection.check_numbers(args.num_examples, args.num_steps)
    if "bound.num_steps" in args.overrides:
        raise ValueError("--bound.num_steps: is set by --num_steps here. Use that")
    args.overrides["bound.num_steps"] = str(args.num_steps)
    loaded = load_run(args)
    by_class = args.odd == detection.CLASSES
    if by_class:
        figures, values = detection.detect_classes(loaded, args.num_examples)
        files.save_npz(out, values)
        figures = {"scores": str(out), **figures}
    else:
        figures = detection.report(loaded, detection.odd_source(loaded, args.odd), out, args.num_examples)
    rows = [
        [
            score,
            f"{value:.3f} ({figures['auroc_low'][score]:.3f} to {figures['auroc_high'][score]:.3f})",
            f"{figures['fpr95'][score]:.3f}",
            *([] if by_class else [f"{figures['auroc_train'][score]:.3f}"]),
        ]
        for score, value in figures["auroc"].items()
    ]
    header = ["score", "AUROC (95 % interval)", "FPR at 95 % TPR"]
    print(tables.markdown(header if by_class else [*header, "AUROC of training images"], rows))
    return {"step": loaded.step, **figures}
