"""One folder per kind of channel; each is loaded when it is asked for."""
