"""The pictures of the documentation: a house in which things have happened, and the script that draws it."""
