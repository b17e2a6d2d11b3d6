"""The command `ilsvrc` in this process, for fixtures that several tests of a module share."""

from pathlib import Path

import pytest

from pipeline.cli.app import main


def ilsvrc(*arguments: str, folder: Path) -> None:
    """Run the command in `folder`; it must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr("sys.argv", ["ilsvrc", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
