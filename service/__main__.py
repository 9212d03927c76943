"""`python -m service` is the `triptych` command."""

from service.cli.main import main

main()
