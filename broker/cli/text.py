"""Text from elsewhere, made safe for a terminal."""


def plain(value: object) -> str:
    """As text; what could move the cursor or hide something becomes a visible mark. None is a dash."""
    if value is None or value == "":
        return "-"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))


def one_line(text: str) -> str:
    """The same on one line."""
    return plain(" ".join(text.split()))


def counted(number: int, thing: str) -> str:
    """`1 key`, `2 keys`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
