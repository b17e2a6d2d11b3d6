"""`python -m pipeline`: the command `ilsvrc`, where only the working tree is there."""

from pipeline.cli.app import main

main()
