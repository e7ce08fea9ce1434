"""A self-contained HTML page of a run and its evaluations."""

import base64
import html
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from diffusion_jax import files
from diffusion_jax.analysis import comparison
from diffusion_jax.runs import metric_log, pictures, plots, record
from diffusion_jax.training import checkpoints, reports, state

PAGE = "report.html"
MOST_GRIDS = 6
"""Sample grids on the page, evenly spaced in the run, with the first and the last."""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .15rem .8rem .15rem 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #ddd; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top; } figcaption { color: #666; }
img { max-width: 100%; } .grid img { width: 17rem; image-rendering: pixelated; } .marked { color: #a40; }
code, summary { font-size: .95em; }
"""


def write_report(workdir: str, figures: str = "png") -> dict[str, Any]:
    """Write workdir/report.html: training curves, sample grids, metrics with their intervals, pictures, and config.

    figures: format of the figures of the training that are also written into the run directory. Raises
    FileNotFoundError if the directory holds no checkpoint.
    """
    directory = files.place_of(workdir)
    for file in (PAGE, *reports.FIGURES, "values.png"):
        files.check_file(directory / file, f"--workdir={workdir}: ")
    config, step = checkpoints.read_config(workdir), checkpoints.find_step(workdir)
    records = metric_log.read_metrics(workdir) if (directory / metric_log.METRICS).exists() else []
    name, shown = directory.resolve().name, shown_weights(config)
    parts = [
        f"<h1>{html.escape(name)}</h1>",
        f"<p>{html.escape(summary(config, step, records, checkpoints.read_versions(workdir)))}</p>",
        *curves(directory, records, shown, figures),
        *grids(directory),
        *evaluations(directory),
        *processes(directory),
        "<h2>Config</h2><details><summary>every key</summary>",
        table([(key, json.dumps(value, default=list)) for key, value in comparison.flat(config).items()]),
        "</details>",
    ]
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    path = directory / PAGE
    files.save_text(path, page)
    return {"report": str(path), "step": step, "bytes": len(page.encode())}


def summary(
    config: Mapping[str, Any], step: int, records: Sequence[Mapping[str, Any]], versions: Mapping[str, str]
) -> str:
    """Return the run in a few sentences."""
    data = config["data"]
    text = (
        f"{data['name']}, {data['size']:,} examples of shape {'x'.join(map(str, data['shape']))}; network "
        f"{config['network']['name']}; step {step:,} of {config['train_steps']:,}, batches of {config['batch_size']}. "
    )
    losses = [record for record in records if "heldout_loss" in record]
    text += f"Held-out loss {reports.heldout_text(losses[-1], shown_weights(config))}. " if losses else ""
    return text + "Made with " + ", ".join(f"{package} {version}" for package, version in versions.items()) + "."


def shown_weights(config: Mapping[str, Any]) -> str:
    """Return the decay of the average used for reports, or "none"."""
    return str(next(iter(config["ema"]["decays"]), state.RAW))


def curves(directory: epath.Path, records: Sequence[Mapping[str, Any]], shown: str, figures: str) -> list[str]:
    """Return the figures of losses, logged values and evaluations against the step.

    The figures curves, loss_by_time and values are also written into the run directory.
    """
    values = {
        name: [(record["step"], record[name]) for record in records if math.isfinite(record.get(name, math.nan))]
        for name in sorted({name for record in records for name in record})
        if name not in ("step", "time", "loss") and not name.startswith("heldout_loss")
    }
    values = {name: points for name, points in values.items() if len({value for _, value in points}) > 1}
    evaluated = evaluated_values(directory)
    evaluated = {name: points for name, points in evaluated.items() if len(points) > 1 or name in values}

    for name in dict.fromkeys((figures, "png")):
        with pictures.written_as(name):
            if records:
                reports.draw_losses(str(directory), shown)
            if values or evaluated:
                plots.series(directory / "values.png", values, evaluated)
    captions = {
        "curves": "training and held-out loss",
        "loss_by_time": "held-out loss by time",
        "values": "logged values (lines) and metrics of evaluations (points, with 95 % intervals)",
    }
    found = {directory / f"{name}.png": caption for name, caption in captions.items()}
    parts = [picture(path, caption) for path, caption in found.items() if path.exists()]
    return ["<h2>Training</h2>", *parts] if parts else []


def evaluated_values(directory: epath.Path) -> dict[str, list[tuple[float, ...]]]:
    """Return (step, value, low, high) of the metrics of each evaluated checkpoint.

    Oldest first; low and high are NaN without an interval.
    """
    points: dict[str, list[tuple[float, ...]]] = {}
    for folder, values in reversed(comparison.evaluations(pathlib.Path(directory))):
        for name, value in values.items():
            if isinstance(value, float) and math.isfinite(value) and comparison.is_result(name):
                ends = (values.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
                points.setdefault(name, []).append((int(folder.name.split("-")[0]), value, *ends))
    return points


def grids(directory: epath.Path) -> list[str]:
    """Return sample grids over the training."""
    paths = sorted((directory / "images").glob("samples_*.png")) if (directory / "images").is_dir() else []
    if not paths:
        return []
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(MOST_GRIDS, len(paths))).round().astype(int))
    named = [(paths[i], *paths[i].stem.split("_")[1:]) for i in chosen]
    shown = [
        picture(path, ", ".join([f"step {int(step):,}", *([" ".join(of)] if of else [])])) for path, step, *of in named
    ]
    return ["<h2>Samples over time</h2><div class=grid>", *shown, "</div>"]


def evaluations(directory: epath.Path) -> list[str]:
    """Return the values and pictures of each evaluated checkpoint, the newest first."""
    parts = []
    for folder, values in comparison.evaluations(pathlib.Path(directory), pictured=True):
        step, _, ema = folder.name.partition("-")
        parts.append(f"<h2>Evaluation of step {int(step):,}, {html.escape(state.describe_weights(ema))}</h2>")
        records = files.read_json(folder / "metrics.json") if (folder / "metrics.json").exists() else {}
        in_records = tuple(name for record in records.values() for name in record["figures"])
        parts += [sample_record(record) for record in records.values()]
        rows = [
            (name, number(value))
            for name, value in values.items()
            if not isinstance(value, list) and not name.startswith(in_records) and name != "drawn"
        ]
        parts.append(table(rows))
        parts += [picture(epath.Path(path), path.stem.replace("_", " ")) for path in sorted(folder.glob("*.png"))]
    return parts


def processes(directory: epath.Path) -> list[str]:
    """Return when and where the run was trained, from its record."""
    rows = []
    for line in record.read(directory):
        if line["event"] == "start":
            commit = f"commit {line['commit'][:10]}{' (changed)' if line['dirty'] else ''}" if line["commit"] else ""
            what = (f"start at step {line['step']:,}", f"{line['host']}, {line['devices']}", commit)
        else:
            memory = [f"{place} {size / 2**30:.2f} GiB" for place, size in line["peak_memory_bytes"].items() if size]
            what = (f"{line['outcome']} at step {line['step']:,}", "", f"peak memory: {', '.join(memory)}")
        rows.append((line["time"], *what))
    return ["<h2>Processes</h2>", table(rows)] if rows else []


def sample_record(record: Mapping[str, Any]) -> str:
    """Return one record of metrics.json: the metrics with their intervals, and their provenance."""
    rows = []
    for name, entry in record["figures"].items():
        error = f"[{number(entry['low'])}, {number(entry['high'])}]" if "low" in entry else ""
        spread = next((f"± {number(entry[key])}" for key in ("std", "stderr") if key in entry), "")
        rows.append((name, number(entry["value"]), error or spread))
    first, last = record["seeds"]
    provenance = (
        f"{record['num_samples']:,} samples, seeds {first} to {last}; sampler {record['sampler']['name']}, "
        f"{record['network_calls']} network calls a sample; {record['quantisation']}."
    )
    if reference := record.get("reference"):
        provenance += (
            f" Reference: {reference['count']:,} examples of {reference['data']}, features {reference['features']} "
            f"(weights {reference['weights']}). In brackets: the 95 % interval."
        )
    marks = "".join(f'<p class="marked">Flagged: {html.escape(mark)}.</p>' for mark in record["marked"])
    return table(rows) + f"<p>{html.escape(provenance)}</p>{marks}"


# Parts of a page.


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return an HTML table of rows, each a name and values."""
    lines = [
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td class=n>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    ]
    return "<table>" + "\n".join(lines) + "</table>"


def number(value: Any) -> str:
    """Return a value to five digits."""
    return f"{value:.5g}" if isinstance(value, float) else "not finite" if value is None else str(value)


def picture(path: epath.Path, caption: str) -> str:
    """Return a PNG file as an HTML figure within the page."""
    data, caption = base64.b64encode(path.read_bytes()).decode(), html.escape(caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
