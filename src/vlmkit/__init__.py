"""Build, train, evaluate and ship small vision-language models the Hugging Face way."""

__version__ = "0.1.0"
