"""Codecs, seals and keys."""
