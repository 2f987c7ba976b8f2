"""The demonstration `penstock demo flights`: real flights of 2013 as the events that an airport emits."""
