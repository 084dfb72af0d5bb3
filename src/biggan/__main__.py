"""`python -m biggan`, and under torchrun `torchrun -m biggan`: the same as the command `biggan`."""

from biggan.cli import main

main()
