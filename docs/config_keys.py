"""Write docs/config-keys.md, every config key with type, default and meaning: python docs/config_keys.py."""

import pathlib

from diffusion_jax import config

PAGE = pathlib.Path(__file__).parent / "config-keys.md"
HEAD = """# Config keys

    python -m diffusion_jax.main describe --keys
    python docs/config_keys.py      # writes this page

A key is set by `--config.KEY=VALUE`. `section.name` selects a part, whose options are `section.NAME.OPTION`; those of
a `module:function` of yours are `section.options.KEY`, of a time grid `sampler.grid_options.KEY`, of a learning rate
`optimizer.schedule_options.KEY` ([configs](configs-and-sweeps.md)).
"""


def page() -> str:
    """Return the page: one table per section, from `config.table()`."""
    sections: dict[str, list[str]] = {}
    for key, kind, default, meaning in config.table():
        section = key.partition(".")[0] if "." in key else "run"
        shown = f"`{default!r}`" if default != "" else ""
        sections.setdefault(section, []).append(
            f"| `{key}` | {kind} | {shown} | {meaning.replace('|', chr(92) + '|')} |"
        )
    tables = [
        "\n".join([f"## {name}\n", "| key | type | default | meaning |", "|---|---|---|---|", *rows])
        for name, rows in sections.items()
    ]
    return "\n".join([HEAD, "\n\n".join(tables)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
