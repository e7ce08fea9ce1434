"""Degrade held-out examples and restore them: denoise, inpaint, colourise, superres, or any linear operator."""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from diffusion_jax.cli.common import Results, add_format, add_run_flags, add_seed, load_run, output
from diffusion_jax.cli.parser import Flags, Parser, Path

PICTURED = 16
"""Columns of the picture."""
OPTIONS = ("mask", "share", "factor", "width", "rule", "repeats", "length", "draws", "iterations", "zeta")
"""Flags that some tasks, operators or methods take."""


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_run_flags(parser, "sampler", "guidance", "data")
    add_format(parser)
    parser.flag("out", Path, "restored.npz", "File of the examples")
    parser.flag("num_examples", int, 16, "Number of held-out examples")
    add_seed(parser)
    parser.flag("task", str, "inpaint", "Degradation: denoise, inpaint, colourise or superres")
    parser.flag("rule", str, "noise_aware", "Conditioning on the known part: constant, power, noise_aware or renoise")
    parser.flag("mask", str, "right", "Missing pixels of inpaint: right, left, random, box, or a .npy file")
    parser.flag("share", float, 0.5, "Share of missing pixels of inpaint (masks random and box)")
    parser.flag("factor", int, 2, "Reduction of height and width of superres")
    parser.flag("noise", float, None, "Standard deviation of the noise, in the range -1 to 1 (denoise: 0.5, else 0).")
    parser.flag("repeats", int, 1, "Repetitions of each group of steps (RePaint: 10)")
    parser.flag("length", int, 10, "Steps in a group")
    parser.flag("method", list, "", "Methods: rule, dps, pigdm, mmps (default: rule; with --operator mmps).")
    parser.flag(
        "operator",
        list,
        "",
        "Linear operators A of y = A x0 + noise: identity, mask, blur, superres, grey or module:function "
        "(default: that of the task). Several operators or methods, separated by commas, give a table",
    )
    parser.flag("width", float, 1.0, "Standard deviation of blur in pixels")
    parser.flag("draws", int, 1, "Draws for each observation (methods other than rule, or with --operator)")
    parser.flag("iterations", int, 5, "Iterations of the conjugate gradients of mmps")
    parser.flag("zeta", float, 1.0, "Variance of dps: at least mean squared residual / zeta (0: noise²)")
    parser.flag("y", Path, "", "File .npy of observations [N,*M], in the range -1 to 1, in place of held-out examples")


def run(args: Flags) -> Results:
    """Write degraded, restored and original examples, and the error of the restored ones."""
    from diffusion_jax.runs import trained

    trained.seeds_from(args.seed, args.num_examples, "num_examples")
    if args.operator or args.y or args.method not in ([], ["rule"]):
        return solve(args)

    from diffusion_jax import files
    from diffusion_jax.analysis import inverse_problems, restoring
    from diffusion_jax.experiment import choices

    out = output(args.out, ".npz", picture=args.format)
    make_task = choices.choose("--task", args.task, restoring.TASKS)
    refuse_idle(args, ("rule", "repeats", "length"), [inverse_problems.TASKS[args.task]])
    loaded = load_run(args)
    options: dict[str, Results] = {
        "inpaint": {"mask": mask_of(args) if args.task == "inpaint" else "", "share": args.share, "seed": args.seed},
        "superres": {"factor": args.factor},
    }
    with naming_mask(args):
        degraded = make_task(tuple(loaded.config.data.shape), **options.get(args.task, {}))
    noise = inverse_problems.default_noise(args.task) if args.noise is None else args.noise
    arrays, figures = restoring.restore(
        loaded, degraded, args.rule, args.num_examples, args.seed, noise, args.repeats, args.length
    )
    files.save_npz(out, arrays)
    chosen = {"task": args.task, "rule": args.rule, "noise": noise, "num_examples": args.num_examples}
    title = f"{args.task}, {args.rule}: RMSE {figures['rmse']:.1f} / 255"
    shown = draw_picture(out, arrays, loaded.config.data.levels, title)
    return {"restored": str(out), **shown, **chosen, **figures, "step": loaded.step, "ema": loaded.ema}


def refuse_idle(args: Flags, used: Iterable[str], operators: Iterable[str], methods: Sequence[str] = ()) -> None:
    """Raise ValueError for a flag of OPTIONS that has no effect.

    used: flags that have one besides the arguments of the operators and methods.
    """
    from diffusion_jax.analysis.inverse_problems import options_of
    from diffusion_jax.sampling import inverse

    factories = [inverse.OPERATORS.get(name) for name in operators] + [inverse.METHODS.get(name) for name in methods]
    taken = {*used}.union(*(options_of(factory, vars(args)) for factory in factories))
    if args.mask not in ("random", "box"):
        taken.discard("share")
    for name in ("task", *OPTIONS) if args.operator else OPTIONS:
        if name in args.typed and name not in taken:
            chosen = [f"--operator={','.join(operators)}" if args.operator else f"--task={args.task}"]
            chosen += [f"--method={','.join(methods)}"] if methods else []
            chosen += [f"--mask={args.mask}"] if name == "share" else []
            raise ValueError(f"--{name}: has no effect with {' '.join(chosen)}. Leave it out")


@contextlib.contextmanager
def naming_mask(args: Flags) -> Iterator[None]:
    """Name the flag as typed in errors about the mask."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise (ValueError(f"--mask={args.mask}: {text}") if text.startswith("mask") else error) from error


def mask_of(args: Flags) -> Any:
    """Return the name of --mask, or the array of its .npy file."""
    return read_array("mask", args.mask) if args.mask.endswith(".npy") else args.mask


def read_array(flag: str, path: str) -> Any:
    """Read an array from the .npy file that a flag names. Raises ValueError."""
    import numpy as np

    from diffusion_jax import files

    try:
        array = np.load(files.expand(path), allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise ValueError("it holds no single array of numbers")
    except (OSError, ValueError) as error:
        raise ValueError(f"--{flag}={path}: cannot be read ({error}). Give a .npy file of numbers") from error
    return array


def draw_picture(out: pathlib.Path, arrays: Results, levels: int, title: str) -> Results:
    """Draw the first examples beside the file; return {"picture": its path}."""
    import numpy as np

    from diffusion_jax.runs import pictures

    rows = [name for name in ("degraded", "restored", "original") if name in arrays]
    shown = np.stack([arrays[name][:PICTURED] for name in rows])
    return {"picture": str(pictures.table(out, shown, levels, rows, title))}


def solve(args: Flags) -> Results:
    """Solve one linear inverse problem, or a table of several. One problem also gives its examples and a picture."""

    from diffusion_jax import files
    from diffusion_jax.analysis import inverse_problems
    from diffusion_jax.experiment import choices
    from diffusion_jax.sampling import inverse

    names = args.operator or [choices.choose("--task", args.task, inverse_problems.TASKS)]
    methods = args.method or ["mmps"]
    several = len(names) > 1 or len(methods) > 1
    out = output(args.out, ".npz", *([".md"] if several else []), picture="md" if several else args.format)
    if args.y and several:
        raise ValueError("--y: belongs to one operator and one method. Name one of each")
    y = read_array("y", args.y) if args.y else None
    for method in methods:
        inverse_problems.make_method(method)
    refuse_idle(args, ("draws", *(["rule"] if "rule" in methods else [])), names, methods)
    of_method = {"iterations": args.iterations, "zeta": args.zeta}
    of_operator = {"mask": mask_of(args) if "mask" in names else "", "share": args.share}
    of_operator |= {"factor": args.factor, "width": args.width}
    noise = inverse_problems.default_noise(names[0] if len(names) == 1 else "") if args.noise is None else args.noise
    loaded = load_run(args)
    operators = {}
    for name in names:
        own = inverse_problems.options_of(inverse.OPERATORS.get(name), of_operator)
        with naming_mask(args):
            operators[name] = inverse_problems.make_operator(name, tuple(loaded.config.data.shape), args.seed, **own)
    shared = {"number": args.num_examples, "seed": args.seed, "noise": noise, "draws": args.draws, "rule": args.rule}
    told = {
        "noise": noise,
        "num_examples": args.num_examples,
        "draws": args.draws,
        "step": loaded.step,
        "ema": loaded.ema,
    }
    if several:
        text, rows = inverse_problems.compare(loaded, operators, methods, of_method, **shared)
        print(text)
        files.save_text(out.with_suffix(".md"), text + "\n")
        return {"table": str(out.with_suffix(".md")), "rows": rows, **told}
    (name, operator), method = next(iter(operators.items())), methods[0]
    own = inverse_problems.options_of(inverse.METHODS.get(method), of_method)
    arrays, figures = inverse_problems.solve(loaded, operator, method, y=y, **shared, **own)
    files.save_npz(out, arrays)
    title = f"{name}, {method}" + (f": RMSE {figures['rmse']:.1f} / 255" if "rmse" in figures else "")
    shown = draw_picture(out, arrays, loaded.config.data.levels, title)
    told["num_examples"] = len(arrays["restored"])
    return {"restored": str(out), **shown, "operator": name, "method": method, **figures, **told}
