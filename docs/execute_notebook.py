"""Execute the notebooks of the documentation again and store their outputs: `make notebook`."""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

DOCS = Path(__file__).parent


def execute(path: Path, folder: Path) -> NotebookNode:
    """Return the notebook with the outputs that its cells have in the working folder `folder`.

    Raises nbclient's `CellExecutionError` where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    # Sockets in a folder of their own, which is this user's, and whose paths are short enough.
    with tempfile.TemporaryDirectory() as sockets:
        connection = {"transport": "ipc", "connection_file": f"{sockets}/kernel.json"}
        NotebookClient(
            notebook,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            timeout=600,
            record_timing=False,
            coalesce_streams=True,
            config=Config({"ConnectionFileMixin": connection}),
        ).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version that ran
    return notebook


if __name__ == "__main__":
    for path in DOCS.rglob("*.ipynb"):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(execute(path, Path(folder)), path)
        print(path)
