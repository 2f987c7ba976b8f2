"""The commands, one module each; a module's `command` is loaded when it is called."""
