"""Checks of a cohort before a model sees it.

=================  =============================================================================================
``volume_checks``  which volumes can't be used, and which are unlike the others
``findings``       what should be changed before training, and the option that changes it
``duplicates``     the same volume under two names
``orientation``    what the headers say of left and right
=================  =============================================================================================
"""
