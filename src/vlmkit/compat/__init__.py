"""Private or version-dependent APIs of transformers, peft and accelerate.

Each module covers one subject and states which releases need it and when it can be removed. The rest of the package
imports these names instead of branching on versions.
"""
