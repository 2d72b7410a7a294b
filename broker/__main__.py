"""The command `broker`, also as `python -m broker`."""

from broker.cli import broker


def main() -> None:
    """Run the command line; exits 0 done, 1 failed, 2 wrong usage."""
    broker(prog_name="broker")


if __name__ == "__main__":
    main()
