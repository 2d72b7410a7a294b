"""The pictures of the README: a house in which things have happened, and the script that draws it."""
