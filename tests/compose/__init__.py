"""The files that bring everything up elsewhere, checked as far as they can be where there is no Docker engine and no cluster."""
