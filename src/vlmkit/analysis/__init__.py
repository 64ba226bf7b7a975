"""Looking into models and results: import what you need from the modules of this package."""
