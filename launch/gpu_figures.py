"""The parts of launch/gpu_figures.sh: measurements that stop before a deadline and continue where they stopped.

    python launch/gpu_figures.py PART --out=DIR

PART is a letter from a to g, see launch/gpu_figures.sh, or `summary`. Each part has items. The result of an item goes
into DIR/PART.json as soon as there is one, and an item that is done is not run again. Status of an item: `done`;
`partial`, stopped at the deadline and continued at the next call; `missing`, with the reason, where a recipe or a file
is missing; `failed`, with the last line of the error. Exit code 75: items are left, call again; 1: some failed.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).parent
RETRY = 75
GRACE = 40.0
"""Seconds before the deadline at which a command gets SIGTERM; a training saves and ends with RETRY."""
Result = dict[str, Any]


class Item(NamedTuple):
    """One measurement of a part."""

    name: str
    least: float
    """Seconds that must be left for the item to start."""
    run: Callable[[float], Result]
    """From the seconds that are left to the result."""


# Running items


def run_part(items: list[Item], path: pathlib.Path, seconds: float) -> int:
    """Run the items that have no result yet, and write each result to `path`. Return the exit code."""
    results: dict[str, Result] = json.loads(path.read_text()) if path.exists() else {}
    deadline, left_over = time.monotonic() + seconds, False
    for item in items:
        if results.get(item.name, {}).get("status") == "done":
            continue
        left = deadline - time.monotonic()
        if left < item.least:
            left_over = True
            continue
        started = time.monotonic()
        result = item.run(left)
        result["seconds"] = results.get(item.name, {}).get("seconds", 0) + round(time.monotonic() - started, 1)
        results[item.name] = result
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1))
        print(f"{path.stem}  {item.name}: {result['status']} {result.get('reason', '')}", file=sys.stderr, flush=True)
    statuses = [results.get(item.name, {}).get("status") for item in items]
    return RETRY if left_over or "partial" in statuses else 1 if "failed" in statuses else 0


def command(argv: list[str], seconds: float) -> Result:
    """Run a command whose last line of standard output is JSON, and return that with a status."""
    environment = os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".9"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(argv, stdout=out, stderr=err, env=environment, start_new_session=True)
        late = False
        try:
            process.wait(max(1.0, seconds - GRACE))
        except subprocess.TimeoutExpired:
            late = True
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE - 5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0), err.seek(0)
        lines, errors = out.read().splitlines(), err.read().splitlines()
    reason = next((line for line in reversed(errors) if "rror" in line), errors[-1] if errors else "")
    if process.returncode == 0:
        return {"status": "done", "figures": json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}}
    if late or process.returncode == RETRY:
        return {"status": "partial", "reason": reason}
    status = "missing" if process.returncode == 2 else "failed"
    return {"status": status, "reason": reason or f"exit code {process.returncode}"}


def main_command(name: str, *flags: str) -> list[str]:
    """Return the command line of a command of this package."""
    return [sys.executable, "-m", "diffusion_jax.main", name, *flags]


# Parts


def compared(args: argparse.Namespace, case: str, batch: int, peers: str, repeats: int) -> Callable[[float], Result]:
    """Return the run of a case of launch/compare_peers.py; without the peers, of this side alone."""

    def run(left: float) -> Result:
        check = "import torch, diffusers; assert {}"
        check = check.format("True" if args.tiny else "torch.cuda.is_available(), 'PyTorch sees no GPU'")
        tried = subprocess.run([args.peers_python, "-c", check], capture_output=True, text=True)
        reason = tried.stderr.splitlines()[-1] if tried.returncode else ""
        argv = [sys.executable, str(HERE / "compare_peers.py"), f"--peers_python={args.peers_python}"]
        argv += [f"--peers={'none' if reason else peers}", f"--cases={case}", f"--repeats={repeats}"]
        argv += ["--device=cpu", "--tiny"] if args.tiny else ["--device=gpu"]
        result = command([*argv, f"--batches={batch}"], left)
        if result["status"] == "done" and not result["figures"]:
            result = {"status": "failed", "reason": "not measured, see the output of launch/compare_peers.py"}
        return result | ({"reason": f"this side alone ({reason})"} if reason and result["status"] == "done" else {})

    return run


def part_a(args: argparse.Namespace) -> list[Item]:
    """CIFAR-10 training step against diffusers, and its share of the peak."""
    batches = [8] if args.tiny else [128, 256, 512]
    modes = ["eager"] if args.tiny else ["eager", "compile"]
    items = [
        Item(f"batch {batch}, {mode}", 5 if args.tiny else 150, compared(args, "train", batch, f"diffusers:{mode}", 3))
        for batch in batches
        for mode in modes
    ]
    config = "cifar10_ddpm:tiny" if args.tiny else "cifar10_ddpm"
    flags = [f"--config={config}", f"--batch_size={batches[-1]}", "--config.network.unet.dtype=bfloat16"]
    flags += ["--config.require_accelerator=False", f"--repeats={2 if args.tiny else 10}"]
    benchmark = main_command("benchmark", *flags)
    return [*items, Item(f"benchmark, batch {batches[-1]}", 5 if args.tiny else 150, lambda s: command(benchmark, s))]


def part_b(args: argparse.Namespace) -> list[Item]:
    """256 px training step."""
    batch = 8 if args.tiny else 64
    case = "train" if args.tiny else "train256"
    return [Item(f"batch {batch}, eager", 5 if args.tiny else 240, compared(args, case, batch, "diffusers:eager", 3))]


def part_c(args: argparse.Namespace) -> list[Item]:
    """Ancestral sampling in 1,000 steps."""
    batch = 8 if args.tiny else 256
    run = compared(args, "sample", batch, "diffusers:eager", 2)
    return [Item(f"batch {batch}, eager", 5 if args.tiny else 300, run)]


def trained(
    args: argparse.Namespace,
    recipe: str,
    variant: str,
    data: str,
    evaluations: dict[str, list[str]],
    whole: bool = True,
) -> list[Item]:
    """Return the items of a recipe: training, over several calls if need be, and evaluations of what there is.

    whole: the training has to end before the evaluations; otherwise it is done when its time of one call is over.
    """
    run = f"--workdir={args.out}/{recipe}"
    config = f"--config={recipe}:{'tiny' if args.tiny else variant}".rstrip(":")
    flags = [config, run, "--config.report.tensorboard=False", "--config.report.samples_every=0"]
    flags += [f"--config.data.idx.path={args.data}/{data}"] if data else []
    if args.tiny:
        flags += ["--config.require_accelerator=False", *(["--config.data.shape=28,28,1"] if data else [])]

    def train(left: float) -> Result:
        result = command(main_command("train", *flags), left)
        return result if whole or result["status"] != "partial" else result | {"status": "done"}

    def evaluate(name: str) -> Callable[[float], Result]:
        def measure(left: float) -> Result:
            if not any(pathlib.Path(args.out, recipe).glob("checkpoints/*")):
                return {"status": "missing", "reason": "no checkpoint of the training"}
            few = (
                ["--num_samples=8", "--allow=few,sizes"] if args.tiny and "--metrics" in str(evaluations[name]) else []
            )
            return command(main_command("evaluate", run, *evaluations[name], *few), left)

        return measure

    least = 5 if args.tiny else 90
    evaluated = [Item(f"{recipe}: {name}", least, evaluate(name)) for name in evaluations]
    return [Item(f"{recipe}: training", least, train), *evaluated]


VLB = {"bound": ["--likelihood=vlb", "--num_samples=0"]}
SIZE = ["--num_samples=10000", "--allow=sizes"]
QUALITY = {"quality": ["--features=grey28", "--metrics=fid,kid,pr", "--heldout", *SIZE]}


def part_d(args: argparse.Namespace) -> list[Item]:
    """Fashion-MNIST and MNIST at the sizes for a GPU."""
    quality = {"quality": ["--features=pixels", "--metrics=fid"]} if args.tiny else QUALITY
    return [
        *trained(args, "fashion_ddpm", "gpu", "fashion-mnist", quality),
        *trained(args, "fashion_vlb", "gpu", "fashion-mnist", VLB),
        *trained(args, "mnist_vlb", "gpu", "mnist", VLB),
    ]


def part_e(args: argparse.Namespace) -> list[Item]:
    """Recipes of 2015 at the paper's size, as far as one call trains them."""
    bound = {"bound": ["--likelihood=K", "--num_samples=0"]}
    return [
        *trained(args, "dpm2015_mnist", "paper", "mnist", bound, whole=False),
        *trained(args, "dpm2015_deadleaves", "paper", "", bound, whole=False),
    ]


MODES = ("shard_map", "fsdp", "pmap")


def part_f(args: argparse.Namespace) -> list[Item]:
    """Every command and every parallel mode on the tiny digits recipe; commands without flags here print their help."""
    from diffusion_jax import cli

    place = f"{args.out}/smoke"
    run = f"--workdir={place}/shard_map"
    quiet = ["--config.report.tensorboard=False", "--config.report.samples_every=0"]
    quiet += ["--config.network.unet.groups=4"]  # one number for all norms, as `export` needs
    recipe = "--config=digits:tiny"
    commands: dict[str, list[str]] = {
        f"train, parallel={mode}": ["train", recipe, f"--workdir={place}/{mode}", f"--config.parallel={mode}", *quiet]
        for mode in MODES
    }
    commands |= {
        "describe": ["describe", recipe],
        "sample": ["sample", run, "--num_samples=2", f"--out={place}/samples.npz"],
        "evaluate": ["evaluate", run, "--likelihood=vlb", "--features=digits", "--metrics=fid", "--num_samples=8"],
        "frontier": ["frontier", run, "--samplers=ddim", "--steps=2", "--num_samples=8"],
        "restore": ["restore", run, "--num_examples=2", f"--out={place}/restored.npz"],
        "encode": ["encode", run, "--num_examples=2", f"--out={place}/latents.npz"],
        "compress": ["compress", run, "--num_examples=2", "--num_steps=4", f"--out={place}/compressed.djx"],
        "decompress": ["decompress", run, f"--file={place}/compressed.djx", f"--out={place}/decompressed.npz"],
        "show": ["show", run, "--num_samples=2"],
        "report": ["report", run],
        "benchmark": ["benchmark", recipe, "--repeats=2"],
        "stats": ["stats", recipe, "--features=digits", f"--out={place}/stats.npz"],
        "sweep": ["sweep", "--sweep=configs/sweeps/ddpm_table2.py:tiny", f"--workdir={place}/sweep"],
        "compare": ["compare", f"{place}/sweep"],
        "export": ["export", "--to=diffusers", run, f"--path={place}/exported"],
        "import": ["import", "--from=diffusers", f"--path={place}/exported", f"--workdir={place}/imported"],
    }
    commands["evaluate"] += ["--allow=few,sizes"]
    commands |= {name: [name, "--help"] for name in cli.commands() if name not in commands | {"train": []}}

    def tried(argv: list[str]) -> Callable[[float], Result]:
        def run(left: float) -> Result:
            result = command(main_command(*argv), left)
            return result | {"status": "failed"} if result["status"] == "missing" else result | {"figures": {}}

        return run

    return [Item(name, 5 if args.tiny else 60, tried(argv)) for name, argv in commands.items()]


KINDS = {
    "attention": "fmha|flash|attention",
    "convolution": "conv|wgrad|dgrad|fprop|implicit|cudnn",
    "matrix product": "gemm|dot|nvjet|cublas|cutlass|matmul",
    "copy": "copy|memcpy|memset|transpose",
    "sum": "reduce",
    "elementwise": "fusion|loop|add|multiply|select|broadcast",
}
"""Kinds of kernels by their names; the first kind that fits."""


def kind(name: str) -> str:
    """Return the kind of a kernel."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower())), "other")


def part_g(args: argparse.Namespace) -> list[Item]:
    """Profile of the CIFAR-10 training step."""
    batch = "8" if args.tiny else "256"
    argv = [sys.executable, __file__, "profile", f"--batch={batch}", *(["--tiny"] if args.tiny else [])]
    return [Item(f"batch {batch}", 5 if args.tiny else 200, lambda left: command(argv, left))]


def profile(batch: int, tiny: bool, steps: int = 5) -> Result:
    """Return milliseconds per step and kernels per step by kind of kernel."""
    import jax

    sys.path.insert(0, str(HERE))
    import compare_peers

    recipe = "cifar10_ddpm:tiny" if tiny else "cifar10_ddpm"
    run, _ = compare_peers.ours(
        {"work": "train", "recipe": recipe, "batch": batch, "dtype": "bfloat16", "devices": 1}
        | {"data": {"shape": (8, 8, 3) if tiny else (32, 32, 3), "levels": 256, "classes": 10}}
    )  # fmt: skip
    run(2)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with jax.profiler.trace(folder):
            run(steps)
        seconds = time.perf_counter() - started
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
        times, counts = collections.Counter[str](), collections.Counter[str]()
        gpu = [plane for plane in planes if plane.name.startswith("/device:GPU")]
        for plane in gpu or planes:
            for line in plane.lines:
                if gpu and not line.name.startswith("Stream"):
                    continue
                for event in line.events:
                    if gpu or "hlo_op" in dict(event.stats):
                        times[kind(event.name)] += event.duration_ns
                        counts[kind(event.name)] += 1
    return {
        "step_milliseconds": 1e3 * seconds / steps,
        "kernel_milliseconds": {kind: ns / 1e6 / steps for kind, ns in times.most_common()},
        "kernels": {kind: counts[kind] / steps for kind, _ in times.most_common()},
    }


PARTS = {"a": part_a, "b": part_b, "c": part_c, "d": part_d, "e": part_e, "f": part_f, "g": part_g}


# Summary


def summary(out: pathlib.Path) -> str:
    """Return Markdown tables of the results in a folder."""
    parts = {name: json.loads(path.read_text()) for name in PARTS if (path := out / f"{name}.json").exists()}
    lines: list[str] = []
    versions = {v for name in "abc" for r in parts.get(name, {}).values() for v in versions_of(r.get("figures", {}))}
    if versions:
        lines += [", ".join(sorted(versions)), ""]
    titles = {"a": "CIFAR-10 training step", "b": "256 px training step", "c": "1,000-step sampling"}
    if any(name in parts for name in titles):
        lines += ["| work | ours | diffusers | ratio | peak memory, ours and theirs |", "|---|--:|--:|--:|--:|"]
    for name, title in titles.items():
        for item, result in parts.get(name, {}).items():
            for found in [f for f in result.get("figures", {}).values() if isinstance(f, dict) and "ours_seconds" in f]:
                lines.append(f"| {title}, {item} | {timing_cells(found)} |")
            if result["status"] != "done":
                lines.append(f"| {title}, {item} | {result['status']}: {result.get('reason', '')} | | | |")
    for item, result in parts.get("a", {}).items():
        if "share_of_peak" in result.get("figures", {}):
            share = result["figures"]["share_of_peak"]
            lines += ["", f"Share of a large matrix product ({item}): {share:.1%}."]
    rows = [(item, result) for name in "de" for item, result in parts.get(name, {}).items()]
    if rows:
        lines += ["", "| run | status | figures | seconds |", "|---|---|---|--:|"]
    for item, result in rows:
        measured = result.get("figures", {}).items()
        figures = {k: v for k, v in measured if isinstance(v, float) and not k.startswith("heldout_loss_bin")}
        shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items()) or result.get("reason", "")
        lines.append(f"| {item} | {result['status']} | {shown} | {result['seconds']:.0f} |")
    if "f" in parts:
        failed = [item for item, result in parts["f"].items() if result["status"] != "done"]
        lines += ["", f"Commands and parallel modes: {len(parts['f']) - len(failed)} of {len(parts['f'])} run."]
        lines += [f"- {item}: {parts['f'][item].get('reason', '')}" for item in failed]
    for item, result in parts.get("g", {}).items():
        figures = result.get("figures", {})
        if "kernel_milliseconds" in figures:
            title = f"kernels of a step, {item} ({figures['step_milliseconds']:.1f} ms)"
            lines += ["", f"| {title} | ms | number |", "|---|--:|--:|"]
            for name, each in figures["kernel_milliseconds"].items():
                lines.append(f"| {name} | {each:.2f} | {figures['kernels'][name]:.0f} |")
    return "\n".join(lines)


def versions_of(figures: Result) -> list[str]:
    """Return the versions that a comparison reports."""
    return [v for found in figures.values() if isinstance(found, dict) for v in found.get("versions", []) if v]


def timing_cells(found: Result) -> str:
    """Return the cells of a row: times of both sides, ratio, memory."""

    def seconds(value: float | None) -> str:
        return "not measured" if value is None else f"{value:.1f} s" if value >= 1 else f"{1e3 * value:.1f} ms"

    ratios = found["ratios"]
    ratio = f"{found['ratio']:.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})" if ratios else ""
    memory = ", ".join(f"{peak / 1e9:.2f} GB" for peak in found["peak_bytes"] if peak)
    return f"{seconds(found['ours_seconds'])} | {seconds(found['peer_seconds'])} | {ratio} | {memory}"


def main(argv: list[str]) -> int:
    """Run a part, or print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "summary", "profile"])
    parser.add_argument("--out", default="runs/gpu", help="folder of JSON and runs")
    parser.add_argument("--data", default="data", help="folder with mnist/ and fashion-mnist/")
    parser.add_argument("--peers_python", default=sys.executable, help="an interpreter with PyTorch and diffusers")
    parser.add_argument("--seconds", type=float, default=530, help="longest duration of a call")
    parser.add_argument("--batch", type=int, default=256, help="of the profile")
    parser.add_argument("--tiny", action="store_true", help="tiny variants, on any device")
    args = parser.parse_args(argv)
    if args.part == "profile":
        print(json.dumps(profile(args.batch, args.tiny)))
        return 0
    if args.part == "summary":
        print(summary(pathlib.Path(args.out)))
        return 0
    return run_part(PARTS[args.part](args), pathlib.Path(args.out, f"{args.part}.json"), args.seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
