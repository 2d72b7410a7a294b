"""Generated input for everything that reads what others wrote: seconds in the suite, ten minutes in the proof."""
