"""vLLM's names: a script or a command line written for vLLM runs here with the package's name changed.

`keywords` says what each of its keywords and flags means here, `paths` which of its import paths there are. The rest
are its classes, thin ones, over this package's own.
"""
