"""The package's version, which model files and kept conversions name."""

__version__ = "0.1.0"
