"""`python -m biggan`; in several processes `torchrun --nproc-per-node 2 -m biggan -- train ...`."""

from biggan.cli.main import main

main()
