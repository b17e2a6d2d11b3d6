"""`python -m pipeline`: the command `ilsvrc`, where only the working tree is there."""

from pipeline.cli import main

main()
