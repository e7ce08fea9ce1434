"""Make the committed notebooks from their plain-text twins: run every cell, with small and stable outputs.

    python launch/notebooks.py                   # all of notebooks/*.py
    python launch/notebooks.py 01_foundations    # some

Edit the twin (or the notebook in JupyterLab, where jupytext keeps the two equal), run this, look at the pictures, and
commit both. Needs the `notebooks` extra. No times of execution are kept, and pictures get 128 colours to be small.
"""

import base64
import io
import pathlib
import sys

import jupytext
import nbclient
from PIL import Image

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"


def make(twin: pathlib.Path) -> None:
    """Run the twin's cells and write the .ipynb beside it."""
    notebook = jupytext.read(twin)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
    nbclient.NotebookClient(
        notebook, timeout=None, record_timing=False, coalesce_streams=True, resources={"metadata": {"path": NOTEBOOKS}}
    ).execute()
    for cell in notebook.cells:
        if "outputs" in cell:  # warnings name paths of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
    jupytext.write(notebook, twin.with_suffix(".ipynb"))


def smaller(png: str) -> str:
    """Return the same picture (base64) in 128 colours."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


if __name__ == "__main__":
    for twin in [NOTEBOOKS / f"{name}.py" for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.py")):
        print(twin.stem)
        make(twin)
