"""Files that are written whole or not at all, and read without executing anything.

================  ==============================================================================================
``safe_loading``  read weights and checkpoints; refuse what holds code, is damaged or does not fit
``descriptions``  networks that know how they were made, as JSON
``atomic_files``  write under a temporary name, then rename; locks; tables without formulas
================  ==============================================================================================
"""
