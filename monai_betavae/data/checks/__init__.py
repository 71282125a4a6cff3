"""Checks of a cohort before training.

=================  =============================================================================================
``volume_checks``  volumes that can't be used, and volumes that differ from the others
``findings``       problems to fix before training, and the options that fix them
``duplicates``     identical volumes under different names
``orientation``    how headers define left and right
=================  =============================================================================================
"""
