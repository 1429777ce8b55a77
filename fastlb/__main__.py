"""`python -m fastlb` is the `fastlb` command."""

from fastlb.cli import main

if __name__ == "__main__":
    main(prog_name="fastlb")
