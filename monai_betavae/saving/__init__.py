"""Files that are written completely or not at all, and read without executing anything.

==================  ============================================================================================
``safe_loading``    read weights and checkpoints; refuse what holds code, is damaged or does not fit
``descriptions``    JSON descriptions from which networks can be rebuilt
``estimator_file``  files and checkpoints of the estimator
``atomic_files``    write under a temporary name, then rename; locks; tables without formulas
==================  ============================================================================================
"""
