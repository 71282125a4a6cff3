"""Sweeps: the same training with several settings and seeds, one table, one picture, one choice.

- ``space``: settings from a grid, and their names.
- ``validation``: scores of a run on its validation subjects, beside PCA's.
- ``comparison``: one row per setting, and the choice among them.
- ``proposals``: settings that Optuna proposes.
- ``run``: what the bundle's config calls.
"""
