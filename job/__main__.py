"""`python -m job`: see `job/cli.py`."""

from job.cli import main

if __name__ == "__main__":
    main()
