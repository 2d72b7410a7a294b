"""Small servers and clocks with opinions, for the tests of every room."""
